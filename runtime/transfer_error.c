// What libcurl says at the end of a transfer, in our words.

#include <stdlib.h>
#include <string.h>

#include "transfer_pool.h"

static double seconds_of(CURL *easy, CURLINFO what) {
  curl_off_t microseconds = 0;
  (void)curl_easy_getinfo(easy, what, &microseconds);
  return (double)microseconds / 1e6;
}

// Reads how long each step took; not before the first byte of the answer.
void read_timing(Transfer *transfer) {
  CURL *easy = transfer->line->easy;
  Timing *timing = &transfer->timing;
  long connections = 0;
  (void)curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections);
  timing->reused = connections == 0;
  timing->first_byte =
      timing->dns + seconds_of(easy, CURLINFO_STARTTRANSFER_TIME_T);
  if (timing->reused) return;
  double looked_up = seconds_of(easy, CURLINFO_NAMELOOKUP_TIME_T);
  double connected = seconds_of(easy, CURLINFO_CONNECT_TIME_T);
  double secured = seconds_of(easy, CURLINFO_APPCONNECT_TIME_T);
  if (connected > looked_up) timing->connect = connected - looked_up;
  if (secured > connected) timing->tls = secured - connected;
}

static const char *phase_of(const Transfer *transfer) {
  if (transfer->attempts == 0) return "connect";
  if (transfer->head.size > 0) return "receive";
  if (transfer->body.path && transfer->body.offset < transfer->body.size)
    return "send";
  if (transfer->body.feed.active && !transfer->body.feed.ended) return "send";
  return "wait";
}

// libcurl's own sentence. It never holds the URL's user or query, but about a
// proxy that it cannot read it quotes all of it, with the password.
static const char *words_of(const Transfer *transfer, CURLcode code) {
  if (strncmp(transfer->error_text, "Unsupported proxy", 17) == 0)
    return "the proxy is not a URL that libcurl supports";
  return transfer->error_text[0] ? transfer->error_text
                                 : curl_easy_strerror(code);
}

static void explain_connect(Transfer *transfer, CURLcode code) {
  long error = 0;
  (void)curl_easy_getinfo(transfer->line->easy, CURLINFO_OS_ERRNO, &error);
  int status = transfer->socket_error ? transfer->socket_error : -(int)error;
  if (status == UV_EMFILE || status == UV_ENFILE)
    transfer_fail(transfer, "io", uv_err_name(status), "connect",
                  "no descriptor is left for a connection: lower the limit of "
                  "requests at once, or raise ulimit -n");
  else if (status != 0)
    transfer_fail(transfer, "connect", uv_err_name(status), "connect", "%s",
                  uv_strerror(status));
  else
    transfer_fail(transfer, "connect", NULL, "connect", "%s",
                  words_of(transfer, code));
  transfer->failure.transient = true;
  name_forget(transfer);
}

// A proxy that will not connect us, or a peer that disliked our certificate: in
// TLS 1.3 it says so only after the handshake. True when it was one of them.
static bool explain_refusal(Transfer *transfer, CURLcode code) {
  long answered = 0;
  (void)curl_easy_getinfo(transfer->line->easy, CURLINFO_HTTP_CONNECTCODE,
                          &answered);
  if (transfer->attempts == 0 && answered >= 300) {
    transfer_fail(transfer, "connect", "EPROXY", "connect",
                  "the proxy answered %ld", answered);
    return true;
  }
  const char *words = words_of(transfer, code);
  if (!strstr(words, "SSL routines") || !strstr(words, " alert ")) return false;
  transfer_fail(transfer, "tls", NULL, phase_of(transfer), "%s", words);
  return true;
}

// libcurl has no codes of their own for some answers that it refuses. True when
// it was one of them.
static bool explain_breach(Transfer *transfer, CURLcode code) {
  static const char *const large[] = {
      "Too large response headers",
      "mem_recv() returned -902",  // libcurl's limits, noticed by nghttp2
      "mem_recv() returned -905",  // those of nghttp2
  };
  const char *words = words_of(transfer, code);
  for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++) {
    if (!strstr(words, large[i])) continue;
    transfer_fail(transfer, "limit", "EMSGSIZE", "receive",
                  "the headers are too large: %s", words);
    return true;
  }
  if (!strstr(words, "chunked-encoding") && !strstr(words, "PROTOCOL_ERROR"))
    return false;
  transfer_fail(transfer, "http", "EPROTO", "receive",
                "the answer is malformed: %s", words);
  return true;
}

static void explain_broken(Transfer *transfer, CURLcode code) {
  if (explain_refusal(transfer, code) || explain_breach(transfer, code)) return;
  long error = 0;
  bool system = code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR;
  if (system)
    (void)curl_easy_getinfo(transfer->line->easy, CURLINFO_OS_ERRNO, &error);
  const char *words = words_of(transfer, code), *name = "EOF";
  // A stream of HTTP/2 can break alone.
  if (code == CURLE_HTTP2_STREAM && !strstr(words, "before end"))
    name = "ECONNRESET";
  if (error) name = uv_err_name(-(int)error);
  bool early = transfer->attempts == 0;
  transfer_fail(
      transfer, early ? "connect" : "http", name,
      code == CURLE_SEND_ERROR && !early ? "send" : phase_of(transfer),
      "the connection broke: %s", error ? uv_strerror(-(int)error) : words);
  transfer->failure.transient = true;
}

// The peer went away before TLS had anything to say about it.
static bool explain_broken_handshake(Transfer *transfer, CURLcode code) {
  if (code != CURLE_SSL_CONNECT_ERROR ||
      !strstr(words_of(transfer, code), "SSL_ERROR_SYSCALL"))
    return false;
  long error = 0;
  (void)curl_easy_getinfo(transfer->line->easy, CURLINFO_OS_ERRNO, &error);
  transfer_fail(transfer, "connect", error ? uv_err_name(-(int)error) : "EOF",
                "connect", "the connection broke in the TLS handshake");
  transfer->failure.transient = true;
  return true;
}

static void explain_timeout(Transfer *transfer) {
  if (transfer->connect_timeout > 0)
    transfer_fail(transfer, "timeout", "ETIMEDOUT", "connect",
                  "timed out after %g s (connect)", transfer->connect_timeout);
  else
    transfer_fail(transfer, "timeout", "ETIMEDOUT", "connect",
                  "the connection attempt timed out");
  transfer->failure.transient = true;
  name_forget(transfer);
}

static void explain_resent(Transfer *transfer) {
  transfer_fail(transfer, "http", "EOF", "wait",
                "the connection broke before the answer, and the request must "
                "not be sent twice");
}

// libcurl holds at most 64 MiB back for a slow reader, which only compression
// can pack into the little that it reads at a time.
static void explain_memory(Transfer *transfer) {
  if (transfer->receive_paused)
    transfer_fail(transfer, "limit", "EFBIG", "receive",
                  "a small part of the answer unpacks to more than 64 MiB");
  else if (transfer->attempts > 0 && !transfer->head_whole)
    transfer_fail(transfer, "limit", "EMSGSIZE", "receive",
                  "a header is longer than %d bytes", CURL_MAX_HTTP_HEADER);
  else
    transfer_fail(transfer, "io", "ENOMEM", NULL, "no memory");
}

static void explain_failure(Transfer *transfer, CURLcode code) {
  switch (code) {
  case CURLE_COULDNT_RESOLVE_HOST:
  case CURLE_COULDNT_RESOLVE_PROXY:
    transfer_fail(transfer, "dns", "ENOTFOUND", "dns", "%s",
                  words_of(transfer, code));
    break;
  case CURLE_COULDNT_CONNECT:
  case CURLE_PROXY:
    explain_connect(transfer, code);
    break;
  case CURLE_OPERATION_TIMEDOUT:
    explain_timeout(transfer);
    break;
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_CERTPROBLEM:
  case CURLE_SSL_CIPHER:
  case CURLE_SSL_CACERT_BADFILE:
  case CURLE_SSL_ISSUER_ERROR:
  case CURLE_SSL_INVALIDCERTSTATUS:
  case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    if (explain_broken_handshake(transfer, code)) break;
    transfer_fail(transfer, "tls", NULL, "connect", "%s",
                  words_of(transfer, code));
    break;
  case CURLE_GOT_NOTHING:
  case CURLE_SEND_ERROR:
  case CURLE_RECV_ERROR:
  case CURLE_PARTIAL_FILE:
  case CURLE_HTTP2:
  case CURLE_HTTP2_STREAM:
    explain_broken(transfer, code);
    break;
  case CURLE_ABORTED_BY_CALLBACK:
  case CURLE_SEND_FAIL_REWIND:
    explain_resent(transfer);
    break;
#if LIBCURL_VERSION_NUM >= 0x080600
  case CURLE_TOO_LARGE:
#endif
  case CURLE_OUT_OF_MEMORY:
    explain_memory(transfer);
    break;
  case CURLE_BAD_CONTENT_ENCODING:
  case CURLE_WRITE_ERROR:  // of libcurl's decoder: ours note their reason
    transfer_fail(transfer, "http", "EPROTO", "receive",
                  "the body is not what its Content-Encoding says");
    break;
  default:
    transfer_fail(transfer, "http", "EPROTO",
                  transfer->attempts > 0 ? "receive" : "connect", "%s",
                  words_of(transfer, code));
  }
}

// Reads the outcome while the easy handle still has it: the answer when libcurl
// is content, else the failure, unless one of our callbacks has noted it.
void transfer_explain(Transfer *transfer, CURLcode code) {
  if (transfer->failure.kind) return;
  read_timing(transfer);
  if (code != CURLE_OK) {
    explain_failure(transfer, code);
    return;
  }
  if (transfer->dial) return;
  if (!transfer->head_whole) {
    // libcurl takes this for a whole answer with an empty body.
    transfer_fail(transfer, "http", "EOF", "receive",
                  "the connection broke in the middle of the headers");
    transfer->failure.transient = true;
    return;
  }
  CURL *easy = transfer->line->easy;
  (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &transfer->status);
  (void)body_commit(transfer);  // a failure is noted by itself
}
