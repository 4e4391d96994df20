// Turns a transfer into the options of an easy handle.

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "transfer_pool.h"

enum {
  CONNECT_FOREVER_MS = 86400000,  // 0 would mean libcurl's five minutes
  STREAM_BUFFER = 128 * 1024,     // bytes that libcurl reads at once
};

// Sets an option unless an earlier one has failed; needs `easy` and `code`.
#define SET(option, value)                                                     \
  do {                                                                         \
    if (code == CURLE_OK) code = curl_easy_setopt(easy, option, value);        \
  } while (0)

// Called before each sending of the request. libcurl sends again by itself
// when a reused connection dies before the answer, and a server that had read
// the request then runs it twice; so the second sending is refused.
static int on_send(void *context, char *peer, char *local, int peer_port,
                   int local_port) {
  (void)peer, (void)local, (void)peer_port, (void)local_port;
  Transfer *transfer = context;
  if (transfer->attempts++ == 0) return CURL_PREREQFUNC_OK;
  if (transfer->at_most_once || feeds_consumed(transfer))
    return CURL_PREREQFUNC_ABORT;
  transfer->body.feed.starved = false;  // it will ask again
  for (size_t i = 0; i < transfer->part_count; i++)
    transfer->parts[i].source.feed.starved = false;
  return CURL_PREREQFUNC_OK;
}

static bool is_loopback(const char *host) {
  size_t length = strlen(host);
  return strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0 ||
         strcmp(host, "localhost") == 0 ||
         (length > 10 && strcmp(host + length - 10, ".localhost") == 0);
}

static CURLcode set_route(Transfer *transfer, CURL *easy) {
  CURLcode code = CURLE_OK;
  SET(CURLOPT_URL, transfer->url);
  SET(CURLOPT_PROTOCOLS_STR, "http,https");
  if (transfer->resolve) SET(CURLOPT_RESOLVE, transfer->resolve);
  if (transfer->connect) SET(CURLOPT_CONNECT_TO, transfer->connect);
  if (transfer->unix_path) SET(CURLOPT_UNIX_SOCKET_PATH, transfer->unix_path);
  if (transfer->proxy)
    SET(CURLOPT_PROXY, transfer->proxy);
  else if (transfer->unix_path || is_loopback(transfer->host_name))
    SET(CURLOPT_PROXY, "");
  SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  SET(CURLOPT_HTTP_VERSION, transfer->http2 ? (long)CURL_HTTP_VERSION_2TLS
                                            : (long)CURL_HTTP_VERSION_1_1);
  if (transfer->http2 && strcmp(transfer->scheme, "https") == 0)
    SET(CURLOPT_PIPEWAIT, 1L);
  return code;
}

static CURLcode set_connection(Transfer *transfer, Line *line) {
  CURL *easy = line->easy;
  CURLcode code = CURLE_OK;
  long connect_ms = CONNECT_FOREVER_MS;
  if (transfer->connect_timeout > 0) {
    double left = transfer->connect_timeout - transfer->timing.dns;
    connect_ms = left > 0.001 ? (long)(left * 1000) : 1;
    if (connect_ms > CONNECT_FOREVER_MS) connect_ms = CONNECT_FOREVER_MS;
  }
  SET(CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
  SET(CURLOPT_NOSIGNAL, 1L);
  SET(CURLOPT_QUICK_EXIT, 1L);  // else an end waits for libcurl's resolver
  SET(CURLOPT_TCP_KEEPALIVE, 1L);
  SET(CURLOPT_TCP_KEEPINTVL, 30L);
  SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
  SET(CURLOPT_OPENSOCKETDATA, line);
  SET(CURLOPT_CLOSESOCKETFUNCTION, on_close_socket);
  SET(CURLOPT_CLOSESOCKETDATA, transfer->pool);
  if (transfer->dial) {
    SET(CURLOPT_CONNECT_ONLY, 1L);
    SET(CURLOPT_HTTPPROXYTUNNEL, 1L);
    return code;
  }
  SET(CURLOPT_PREREQFUNCTION, on_send);
  SET(CURLOPT_PREREQDATA, transfer);
  return code;
}

// libcurl keeps one parsed bundle for all connections of a multi handle, but
// only when no directory of certificates is set, as many builds do.
static CURLcode set_trust(Transfer *transfer, CURL *easy) {
  CURLcode code = CURLE_OK;
  const Security *security = &transfer->security;
  if (security->certificate) SET(CURLOPT_SSLCERT, security->certificate);
  if (security->key) SET(CURLOPT_SSLKEY, security->key);
  if (security->pinned_key) SET(CURLOPT_PINNEDPUBLICKEY, security->pinned_key);
  SET(CURLOPT_SSLVERSION,
      security->least ? security->least : (long)CURL_SSLVERSION_TLSv1_2);
  if (!transfer->verify) {
    SET(CURLOPT_SSL_VERIFYPEER, 0L);
    SET(CURLOPT_SSL_VERIFYHOST, 0L);
    return code;
  }
  const char *bundle =
      transfer->ca_file ? transfer->ca_file : transfer->pool->ca_file;
  if (!bundle) return code;
  SET(CURLOPT_CAPATH, NULL);
  SET(CURLOPT_CAINFO, bundle);
  return code;
}

static CURLcode add_part(curl_mime *mime, Part *part) {
  curl_mimepart *slot = curl_mime_addpart(mime);
  if (!slot) return CURLE_OUT_OF_MEMORY;
  CURLcode code = curl_mime_name(slot, part->name);
  if (code == CURLE_OK && part->filename)
    code = curl_mime_filename(slot, part->filename);
  if (code == CURLE_OK && part->type) code = curl_mime_type(slot, part->type);
  if (code == CURLE_OK)
    code = curl_mime_data_cb(slot, part->source.size, on_read, on_seek, NULL,
                             &part->source);
  return code;
}

static CURLcode set_multipart(Transfer *transfer, CURL *easy) {
  CURLcode code = CURLE_OK;
  transfer->mime = curl_mime_init(easy);
  if (!transfer->mime) return CURLE_OUT_OF_MEMORY;
  for (size_t i = 0; i < transfer->part_count && code == CURLE_OK; i++)
    code = add_part(transfer->mime, &transfer->parts[i]);
  SET(CURLOPT_MIMEPOST, transfer->mime);
  SET(CURLOPT_CUSTOMREQUEST, transfer->method);
  return code;
}

// A POST, PUT or PATCH always states the length of its body, be it 0.
static bool sends_body(const Transfer *transfer) {
  return transfer->has_body || strcasecmp(transfer->method, "POST") == 0 ||
         strcasecmp(transfer->method, "PUT") == 0 ||
         strcasecmp(transfer->method, "PATCH") == 0;
}

static CURLcode set_body(Transfer *transfer, CURL *easy) {
  CURLcode code = CURLE_OK;
  if (transfer->parts) return set_multipart(transfer, easy);
  if (strcmp(transfer->method, "HEAD") == 0) {
    SET(CURLOPT_NOBODY, 1L);
    return code;
  }
  if (!sends_body(transfer)) {
    SET(CURLOPT_HTTPGET, 1L);
    if (strcmp(transfer->method, "GET") != 0)
      SET(CURLOPT_CUSTOMREQUEST, transfer->method);
    return code;
  }
  SET(CURLOPT_POST, 1L);
  SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)transfer->body.size);
  if (transfer->body.path || transfer->body.feed.active) {
    SET(CURLOPT_READFUNCTION, on_read);
    SET(CURLOPT_READDATA, &transfer->body);
    SET(CURLOPT_SEEKFUNCTION, on_seek);
    SET(CURLOPT_SEEKDATA, &transfer->body);
  } else {
    SET(CURLOPT_POSTFIELDS, transfer->has_body ? transfer->body.bytes : "");
  }
  if (strcmp(transfer->method, "POST") != 0)
    SET(CURLOPT_CUSTOMREQUEST, transfer->method);
  return code;
}

static CURLcode set_answer(Transfer *transfer, CURL *easy) {
  CURLcode code = CURLE_OK;
  SET(CURLOPT_HTTPHEADER, transfer->headers);
  // libcurl unpacks all that it has read before it pauses. From 16 KiB, its
  // usual buffer, these two make 16 MiB at most; others know no bound.
  if (transfer->decode)
    SET(CURLOPT_ACCEPT_ENCODING, transfer->streamed ? "deflate, gzip" : "");
  else if (transfer->streamed)
    SET(CURLOPT_BUFFERSIZE, (long)STREAM_BUFFER);
  if (transfer->jar) {
    SET(CURLOPT_SHARE, cookie_jar_share(transfer->jar));
    SET(CURLOPT_COOKIEFILE, "");  // else they are kept, but not sent
  }
  if (transfer->cookie) SET(CURLOPT_COOKIE, transfer->cookie);
  SET(CURLOPT_WRITEFUNCTION, on_write);
  SET(CURLOPT_WRITEDATA, transfer);
  SET(CURLOPT_HEADERFUNCTION, on_header);
  SET(CURLOPT_HEADERDATA, transfer);
  SET(CURLOPT_ERRORBUFFER, transfer->error_text);
  return code;
}

// Sets all options of a freshly reset handle.
CURLcode setup_easy(Transfer *transfer, Line *line) {
  CURL *easy = line->easy;
  CURLcode code = CURLE_OK;
  SET(CURLOPT_PRIVATE, line);
  if (code == CURLE_OK) code = set_route(transfer, easy);
  if (code == CURLE_OK) code = set_connection(transfer, line);
  if (code == CURLE_OK && transfer->scheme[4] == 's')  // https
    code = set_trust(transfer, easy);
  if (code == CURLE_OK) code = set_body(transfer, easy);
  if (code == CURLE_OK) code = set_answer(transfer, easy);
  return code;
}

// The bundle of certificates to trust, or NULL to leave it to libcurl. The
// text lives as long as the environment does not change.
const char *setup_ca_file(void) {
  static const char *const usual[] = {
      "/etc/ssl/certs/ca-certificates.crt",
      "/etc/pki/tls/certs/ca-bundle.crt",
      "/etc/ssl/ca-bundle.pem",
      "/etc/ssl/cert.pem",
  };
  const char *chosen = getenv("SSL_CERT_FILE");
  if (chosen && *chosen) return chosen;
  const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);
  if (info->cainfo && access(info->cainfo, R_OK) == 0) return info->cainfo;
  for (size_t i = 0; i < sizeof(usual) / sizeof(*usual); i++)
    if (access(usual[i], R_OK) == 0) return usual[i];
  return NULL;
}
