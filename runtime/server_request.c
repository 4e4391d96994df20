// One request, from its headers to the last byte of its answer.

#include "server_request.h"

#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <uv.h>

#include "server.h"

// An answer given before the whole body came in waits until the rest was thrown
// away: the connection stays in step, and a peer that reads only after it has
// sent everything gets to see the answer. Past this many bytes it is cut.
static const uint64_t DISCARD_LIMIT = UINT64_C(1) << 30;
static const size_t STREAM_BLOCK = 65536;

static void suspend(Request *request) {
  if (request->suspended) return;  // libmicrohttpd does not check
  request->suspended = true;
  MHD_suspend_connection(request->socket);
}

void request_resume(Request *request) {
  if (!request->suspended) return;
  request->suspended = false;
  MHD_resume_connection(request->socket);
  server_schedule(request->connection->server);
}

static void drop(Request *request) {
  if (--request->holders > 0) return;
  upload_drop_pieces(&request->body);
  if (request->response != NULL) MHD_destroy_response(request->response);
  free(request->target);
  free(request->method);
  free(request->headers);
  free(request);
}

static void link_request(Server *server, Request *request) {
  request->next = server->live;
  if (server->live != NULL) server->live->previous = request;
  server->live = request;
}

static void unlink_request(Server *server, Request *request) {
  if (request->next != NULL) request->next->previous = request->previous;
  if (request->previous != NULL)
    request->previous->next = request->next;
  else
    server->live = request->next;
  request->next = request->previous = NULL;
}

// The first thing that libmicrohttpd tells of a request. What is returned is
// its context from then on; NULL makes on_request close the connection.
void *on_request_line(void *cls, const char *target,
                      struct MHD_Connection *socket) {
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(socket, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  Connection *connection = info == NULL ? NULL : info->socket_context;
  if (connection == NULL) return NULL;
  Request *request = calloc(1, sizeof(*request));
  if (request == NULL) return NULL;
  request->target = strdup(target == NULL ? "/" : target);
  if (request->target == NULL) {
    free(request);
    return NULL;
  }
  request->holders = 1;
  request->socket = socket;
  request->connection = connection;
  connection->request = request;
  upload_open(&request->body);
  link_request(cls, request);
  return request;
}

typedef struct HeaderScan {
  Request *request;
  size_t size;                         // of the text that the headers need
  unsigned lengths, encodings, hosts;  // how many there are of these headers
  bool unknown;                        // encoding
  bool broken;                         // no name and value as HTTP has them
} HeaderScan;

static void judge_header(HeaderScan *scan, const char *name,
                         const char *value) {
  Request *request = scan->request;
  if (strcasecmp(name, "Content-Length") == 0) {
    scan->lengths++;
    request->length = strtoull(value, NULL, 10);  // the library checked it
  } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
    scan->encodings++;
    request->length = UINT64_MAX;
    if (strcasecmp(value, "chunked") != 0) scan->unknown = true;
  } else if (strcasecmp(name, "Host") == 0) {
    scan->hosts++;
  } else if (strcasecmp(name, "Expect") == 0) {
    request->expects_continue = strcasecmp(value, "100-continue") == 0;
  }
}

static bool is_token(const char *name) {
  static const char marks[] = "!#$%&'*+-.^_`|~";
  const char *c = name;
  while (isalnum((unsigned char)*c) || (*c != '\0' && strchr(marks, *c)))
    c++;
  return *c == '\0' && c > name;
}

static bool is_text(const char *value) {
  for (const char *c = value; *c != '\0'; c++)
    if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f) return false;
  return true;
}

// Whether a target has neither blanks nor control bytes.
static bool is_visible(const char *target) {
  return strchr(target, ' ') == NULL && strchr(target, '\t') == NULL &&
         is_text(target);
}

// Whether the value comes right after its name, colon and blanks, as it stands
// on the wire. libmicrohttpd 0.9.75 adds a folded line to the name.
static bool is_adjacent(const char *name, const char *value) {
  const char *colon = name + strlen(name);
  if ((uintptr_t)value <= (uintptr_t)colon) return false;
  for (const char *c = colon + 1; c != value; c++)
    if (*c != ' ' && *c != '\t') return false;
  return true;
}

static enum MHD_Result measure_header(void *cls, enum MHD_ValueKind kind,
                                      const char *name, const char *value) {
  HeaderScan *scan = cls;
  if (value == NULL || !is_token(name) || !is_text(value) ||
      !is_adjacent(name, value))
    scan->broken = true;
  if (value == NULL) value = "";
  scan->size += strlen(name) + strlen(value) + 2;
  judge_header(scan, name, value);
  return MHD_YES;
}

static enum MHD_Result copy_header(void *cls, enum MHD_ValueKind kind,
                                   const char *name, const char *value) {
  Request *request = cls;
  if (value == NULL) value = "";
  size_t name_size = strlen(name) + 1, value_size = strlen(value) + 1;
  char *end = request->headers + request->headers_size;
  memcpy(end, name, name_size);
  memcpy(end + name_size, value, value_size);
  request->headers_size += name_size + value_size;
  return MHD_YES;
}

static void note_peer(Request *request) {
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(
      request->socket, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
  if (info == NULL) return;
  const struct sockaddr *address = info->client_addr;
  size_t size = sizeof(request->remote);
  if (address->sa_family == AF_INET6) {
    (void)uv_ip6_name((const struct sockaddr_in6 *)address, request->remote,
                      size);  // 48 bytes hold any address
  } else {
    (void)uv_ip4_name((const struct sockaddr_in *)address, request->remote,
                      size);
  }
}

// Copies what the handler will ask for. Returns the status that refuses the
// request, or 0. Two lengths, or a length and an encoding, are what request
// smuggling is made of.
static unsigned read_head(Server *server, Request *request, const char *method,
                          const char *version) {
  HeaderScan scan = {.request = request};
  (void)MHD_get_connection_values(request->socket, MHD_HEADER_KIND,
                                  measure_header, &scan);
  request->method = strdup(method);
  request->headers = malloc(scan.size + 1);
  if (request->method == NULL || request->headers == NULL) return 503;
  (void)MHD_get_connection_values(request->socket, MHD_HEADER_KIND, copy_header,
                                  request);
  note_peer(request);

  const union MHD_ConnectionInfo *info = MHD_get_connection_info(
      request->socket, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
  if (info != NULL && info->header_size > server->max_header) return 431;
  if (scan.broken || !is_visible(request->target)) return 400;
  if (scan.unknown) return 501;
  if (scan.lengths + scan.encodings > 1) return 400;
  bool old = strcmp(version, "HTTP/1.1") != 0;
  if (scan.encodings > 0 && old) return 400;
  if (scan.hosts > 1) return 400;
  if (scan.hosts == 0 && !old) return 400;
  return 0;
}

static enum MHD_Result queue_answer(Request *request) {
  struct MHD_Response *response = request->response;
  request->response = NULL;
  request->stage = REPLY;
  enum MHD_Result result =
      MHD_queue_response(request->socket, request->status, response);
  MHD_destroy_response(response);  // the connection has its own reference
  return result;
}

// Answers in place of a handler, and closes the connection.
static enum MHD_Result refuse(Request *request, unsigned status) {
  static const char text[] = "{\"detail\":\"Request refused\"}\n";
  if (request_begin(request, status, text, sizeof(text) - 1) != 0)
    return MHD_NO;
  (void)request_add_header(request, "Content-Type", "application/json");
  (void)request_add_header(request, "Connection", "close");
  request->answered = true;
  return queue_answer(request);
}

static void offer(Server *server, Request *request) {
  request->holders++;
  server_enqueue(server, request);
}

// Whether so much is announced that throwing it away makes no sense.
static bool is_huge(const Request *request) {
  return request->length != UINT64_MAX && request->length > DISCARD_LIMIT;
}

static enum MHD_Result first_call(Server *server, Request *request,
                                  const char *method, const char *version) {
  server_head_came(request->connection);
  unsigned refusal = read_head(server, request, method, version);
  if (refusal != 0) return refuse(request, refusal);
  bool hold = request->expects_continue && request->length > 0;
  if (hold || is_huge(request)) {
    suspend(request);
    offer(server, request);
    return MHD_YES;
  }
  // An answer queued at this point would close the connection, so even one to
  // a request without a body waits for the call that ends it.
  request->stage = BODY;
  if (request->length > 0) offer(server, request);
  return MHD_YES;
}

// The handler has asked for the body, or has answered without it.
static enum MHD_Result leave_headers(Request *request) {
  if (request->answered) return queue_answer(request);
  if (request->wants_body) {
    request->stage = BODY;  // libmicrohttpd sends the 100 now, if one is due
    return MHD_YES;
  }
  suspend(request);
  return MHD_YES;
}

static void wake_reader(Request *request) {
  Wait *reader = request->reader;
  if (reader != NULL && upload_ready(&request->body))
    (void)wait_settle(reader, 0);
}

static enum MHD_Result receive(Request *request, const char *data,
                               size_t *size) {
  if (request->answered) {
    request->discarded += *size;
    request->received += *size;
    *size = 0;
    return request->discarded > DISCARD_LIMIT ? MHD_NO : MHD_YES;
  }
  ssize_t taken = upload_feed(&request->body, data, *size);
  if (taken < 0) return MHD_NO;
  *size -= (size_t)taken;
  request->received += (uint64_t)taken;
  if (upload_full(&request->body)) suspend(request);
  wake_reader(request);
  return MHD_YES;
}

static void end_body(Server *server, Request *request) {
  request->stage = READY;
  server_head_came(request->connection);
  request->gone = request->connection->peer_closed;
  upload_end_form(&request->body);
  request->body.ended = true;
  wake_reader(request);
  if (request->length == 0) offer(server, request);
}

// libmicrohttpd's main callback. It comes once with the headers, for every
// stretch of the body, once after that, and again after each resume.
enum MHD_Result on_request(void *cls, struct MHD_Connection *socket,
                           const char *url, const char *method,
                           const char *version, const char *data, size_t *size,
                           void **context) {
  Server *server = cls;
  Request *request = *context;
  if (request == NULL) return MHD_NO;
  if (*size > 0) {
    return server->closing ? MHD_NO : receive(request, data, size);
  }
  if (server->closing && !request->answered) return MHD_NO;
  if (request->method == NULL) {
    return first_call(server, request, method, version);
  }
  if (request->stage == HEADERS) return leave_headers(request);
  if (request->stage == BODY) end_body(server, request);
  if (request->answered) return queue_answer(request);
  suspend(request);
  return MHD_YES;
}

void on_request_over(void *cls, struct MHD_Connection *socket, void **context,
                     enum MHD_RequestTerminationCode why) {
  Request *request = *context;
  *context = NULL;
  if (request == NULL) return;
  bool complete =
      request->stage == REPLY && why == MHD_REQUEST_TERMINATED_COMPLETED_OK;
  if (!complete) request->gone = request->broken = true;
  request->stage = OVER;
  request->connection->request = NULL;
  server_head_due(request->connection);
  request->connection = NULL;
  request->socket = NULL;
  unlink_request(cls, request);
  if (server_unqueue(cls, request)) request->holders--;  // nobody took it
  upload_end_form(&request->body);
  if (request->reader != NULL) {
    (void)wait_settle(request->reader, UV_ECONNRESET);
  }
  if (request->writer != NULL) {
    (void)wait_settle(request->writer, UV_ECONNRESET);
  }
  drop(request);
}

void request_want_body(Request *request) {
  request->wants_body = true;
  bool reading = request->stage == HEADERS || request->stage == BODY;
  if (reading && !upload_full(&request->body)) request_resume(request);
}

int request_start_form(Request *request) {
  if (request->stage == OVER) return UV_ECONNRESET;
  return upload_start_form(&request->body, request->socket);
}

static bool status_has_body(unsigned status) {
  return status != MHD_HTTP_NO_CONTENT && status != MHD_HTTP_NOT_MODIFIED;
}

// Takes over `response` as the begun answer.
static int begin(Request *request, unsigned status,
                 struct MHD_Response *response) {
  if (response == NULL) return UV_ENOMEM;
  if (request->response != NULL) MHD_destroy_response(request->response);
  request->response = response;
  request->status = status;
  return 0;
}

int request_begin(Request *request, unsigned status, const char *bytes,
                  size_t size) {
  if (!status_has_body(status)) size = 0;
  request->streamed = false;
  bool head = request->method != NULL && strcmp(request->method, "HEAD") == 0;
  request->sent = head ? 0 : size;
  // The library takes a plain pointer even where it only copies.
  return begin(request, status,
               MHD_create_response_from_buffer(size, (void *)(uintptr_t)bytes,
                                               MHD_RESPMEM_MUST_COPY));
}

// libmicrohttpd can send: hands over bytes, or says that there are none now.
static ssize_t on_stream(void *cls, uint64_t position, char *out, size_t max) {
  Request *request = cls;
  if (request->feed_left > 0) {
    size_t size = request->feed_left < max ? request->feed_left : max;
    memcpy(out, request->feed, size);
    request->feed += size;
    request->feed_left -= size;
    if (request->feed_left == 0) (void)wait_settle(request->writer, 0);
    return (ssize_t)size;
  }
  if (request->broken) return MHD_CONTENT_READER_END_WITH_ERROR;
  if (request->finished) return MHD_CONTENT_READER_END_OF_STREAM;
  if (request->connection->server->closing) {
    return MHD_CONTENT_READER_END_WITH_ERROR;
  }
  suspend(request);
  return 0;
}

int request_begin_stream(Request *request, unsigned status, uint64_t length) {
  request->streamed = true;
  request->promised = length;
  request->sent = 0;
  request->bodiless =
      !status_has_body(status) || strcmp(request->method, "HEAD") == 0;
  uint64_t size = length == UINT64_MAX ? MHD_SIZE_UNKNOWN : length;
  if (!status_has_body(status)) size = 0;
  return begin(request, status,
               MHD_create_response_from_callback(size, STREAM_BLOCK, on_stream,
                                                 request, NULL));
}

int request_add_header(Request *request, const char *name, const char *value) {
  enum MHD_Result result =
      MHD_add_response_header(request->response, name, value);
  return result == MHD_YES ? 0 : UV_EINVAL;
}

void request_send(Request *request) {
  request->answered = true;
  if (request->stage == BODY) server_rest_due(request->connection);
  upload_drop_pieces(&request->body);
  request_resume(request);
}

void request_cut(Request *request, const char *bytes, size_t size) {
  if (request->stage == OVER) return;
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(
      request->socket, MHD_CONNECTION_INFO_CONNECTION_FD);
  bool plain = MHD_get_connection_info(
                   request->socket, MHD_CONNECTION_INFO_GNUTLS_SESSION) == NULL;
  if (info != NULL) {
    // What the peer does not get of it is as lost as the rest.
    if (plain) (void)send(info->connect_fd, bytes, size, MSG_NOSIGNAL);
    (void)shutdown(info->connect_fd, SHUT_RDWR);
  }
  // Nobody hears this answer; libmicrohttpd finds the connection broken.
  if (request_begin(request, 500, "", 0) == 0) request_send(request);
}

void request_feed(Request *request, const char *bytes, size_t size) {
  request->written += size;
  if (request->bodiless) {
    (void)wait_settle(request->writer, 0);
    return;
  }
  request->sent += size;
  request->feed = bytes;
  request->feed_left = size;
  request_resume(request);
}

void request_unfeed(Request *request) {
  if (request->feed_left == 0) return;
  request->feed = NULL;
  request->feed_left = 0;
  request->broken = true;
  request_resume(request);
}

void request_finish(Request *request) {
  request->finished = true;
  bool short_of = request->promised != UINT64_MAX && !request->bodiless &&
                  request->written < request->promised;
  if (short_of) request->broken = true;
  request_resume(request);
}

void request_release(Request *request) {
  if (request->stage != OVER && !request->answered) {
    static const char text[] = "{\"detail\":\"Internal Server Error\"}\n";
    int status = request_begin(request, 500, text, sizeof(text) - 1);
    if (status == 0) {
      (void)request_add_header(request, "Content-Type", "application/json");
      request_send(request);
    }
  } else if (request->streamed && !request->finished) {
    request->broken = true;
    request_resume(request);
  }
  drop(request);
}
