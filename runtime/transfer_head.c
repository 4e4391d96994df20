// The head of an answer, as libcurl hands it over line by line: kept, bounded,
// and refused where libcurl would take what has two meanings.

#include <string.h>
#include <strings.h>

#include "transfer_pool.h"

// What we accept of a head, and again of the trailers behind a body.
enum { HEAD_MOST = 256 * 1024, HEAD_LINES_MOST = 1000, INTERIM_MOST = 20 };

// The head of a streamed answer is known before its body, unless it is interim.
static void end_head(Transfer *transfer) {
  CURL *easy = transfer->line->easy;
  (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &transfer->status);
  if (transfer->status >= 400) flow_refuse(transfer);
  if (!transfer->streamed || transfer->head_final || transfer->status < 200)
    return;
  transfer->head_final = true;
  read_timing(transfer);
  flow_notify(transfer);
}

static int breach(Transfer *transfer, const char *reason) {
  transfer_fail(transfer, "http", "EPROTO", "receive", "%s", reason);
  return -1;
}

static int count_line(Transfer *transfer, size_t size) {
  transfer->head_bytes += size;
  if (transfer->head_bytes <= HEAD_MOST &&
      ++transfer->head_lines <= HEAD_LINES_MOST)
    return 0;
  transfer_fail(transfer, "limit", "EMSGSIZE", "receive",
                "more than %d bytes or %d lines of headers", HEAD_MOST,
                HEAD_LINES_MOST);
  return -1;
}

// The one before was interim.
static int begin_head(Transfer *transfer, const char *line, size_t size) {
  transfer->head.size = transfer->head_bytes = transfer->head_lines = 0;
  transfer->head_whole = false;
  transfer->stated_length = -1;
  const char *status = memchr(line, ' ', size);
  if (status && line + size - status >= 4 && memcmp(status, " 101", 4) == 0)
    return breach(transfer, "the server goes over to another protocol");
  if (transfer->heads++ <= INTERIM_MOST) return 0;
  transfer_fail(transfer, "limit", "EMSGSIZE", "receive",
                "more than %d interim answers", INTERIM_MOST);
  return -1;
}

// Where the length is not one number libcurl would guess, and another reader of
// the same bytes might guess otherwise.
static int check_length(Transfer *transfer, const char *text, size_t size) {
  static const char problem[] = "the server sends no proper Content-Length";
  const char *end = text + size;
  while (text < end && (*text == ' ' || *text == '\t'))
    text++;
  int64_t length = 0;
  const char *first = text;
  for (; text < end && *text >= '0' && *text <= '9'; text++) {
    if (length > (INT64_MAX - 9) / 10) return breach(transfer, problem);
    length = length * 10 + (*text - '0');
  }
  if (text == first) return breach(transfer, problem);
  for (; text < end; text++)
    if (!strchr(" \t\r\n", *text)) return breach(transfer, problem);
  if (transfer->stated_length >= 0 && transfer->stated_length != length)
    return breach(transfer, "the server sends two values of Content-Length");
  transfer->stated_length = length;
  return 0;
}

static int judge(Transfer *transfer, const char *line, size_t size) {
  static const char name[] = "content-length:";
  const size_t length = sizeof(name) - 1;
  if (size >= 5 && memcmp(line, "HTTP/", 5) == 0 &&
      begin_head(transfer, line, size) != 0)
    return -1;
  if (count_line(transfer, size) != 0) return -1;
  if (size > length && strncasecmp(line, name, length) == 0)
    return check_length(transfer, line + length, size - length);
  return 0;
}

size_t on_header(char *data, size_t size, size_t count, void *context) {
  Transfer *transfer = context;
  size *= count;
  if (transfer->head_whole && transfer->status >= 200) {
    // A trailer. It is nobody's header.
    return count_line(transfer, size) == 0 ? size : CURL_WRITEFUNC_ERROR;
  }
  if (judge(transfer, data, size) != 0) return CURL_WRITEFUNC_ERROR;
  if (bytes_append(&transfer->head, data, size) != 0) {
    transfer_fail(transfer, "io", "ENOMEM", "receive", "no memory for headers");
    return CURL_WRITEFUNC_ERROR;
  }
  if (size > 0 && (data[0] == '\r' || data[0] == '\n')) {
    transfer->head_whole = true;
    transfer->head_bytes = transfer->head_lines = 0;
    end_head(transfer);
  }
  return size;
}
