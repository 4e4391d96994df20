// The HTTP listener: a libmicrohttpd daemon that runs on our loop.

#include "server.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const unsigned IDLE_SECONDS = 120;  // of a connection nobody works on
static const size_t WORK_MEMORY = 65536;   // of a connection, past its headers
static const int FLUSH_TURNS = 64;         // at close, for answers given
static const int BACKLOG = 1024;
static const uint64_t HEAD_LOOK_MS = 1000;  // between looks at the heads
static const uint64_t REST_HEADS = 4;  // a body's rest may take so many times
// Not what is broken; the library's defaults for the rest.
static const char TLS_PRIORITIES[] =
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE";

static void on_handle_closed(uv_handle_t *handle) {
  Server *server = handle->data;
  if (--server->handles == 0) free(server);
}

static void run(Server *server);

static void on_deadline(uv_timer_t *timer) {
  run(timer->data);
}

static void on_soon(uv_idle_t *soon) {
  run(soon->data);
}

void server_schedule(Server *server) {
  // Not a timer of 0 ms: one that starts itself again never lets the loop go.
  (void)uv_idle_start(&server->soon, on_soon);
}

static void run(Server *server) {
  (void)uv_idle_stop(&server->soon);
  (void)uv_timer_stop(&server->timer);
  server->freed = false;
  (void)MHD_run(server->daemon);  // fails only when the daemon is stopping
  // At its limit the daemon stops listening, and looks again only when it runs.
  if (server->freed) server_schedule(server);
  MHD_UNSIGNED_LONG_LONG timeout_ms;
  if (MHD_get_timeout(server->daemon, &timeout_ms) != MHD_YES) return;
  if (timeout_ms == 0) {
    server_schedule(server);
  } else {
    (void)uv_timer_start(&server->timer, on_deadline, timeout_ms, 0);
  }
}

static void on_activity(uv_poll_t *poll, int status, int events) {
  run(poll->data);
}

static void on_connection_closed(uv_handle_t *handle) {
  free(handle->data);
}

// libmicrohttpd works with edges: an end that came in one with the last bytes
// escapes it, and while a connection is suspended it sees nothing at all.
static void on_peer_closed(uv_poll_t *poll, int status, int events) {
  Connection *connection = poll->data;
  (void)uv_poll_stop(poll);  // it would go on telling
  connection->peer_closed = true;
  Request *request = connection->request;
  if (request != NULL && request->stage >= READY) request->gone = true;
  if (request != NULL && request->suspended) return;
  MHD_suspend_connection(connection->socket);
  MHD_resume_connection(connection->socket);  // it looks at the socket anew
  server_schedule(connection->server);
}

static void watch_peer(Connection *connection) {
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(
      connection->socket, MHD_CONNECTION_INFO_CONNECTION_FD);
  if (info == NULL) return;
  connection->fd = info->connect_fd;
  uv_poll_t *poll = &connection->poll;
  poll->data = connection;
  // Without the watch the peer is missed later, when its time is over.
  int status = uv_poll_init(connection->server->loop, poll, info->connect_fd);
  if (status != 0) return;
  connection->watching = true;
  (void)uv_poll_start(poll, UV_DISCONNECT, on_peer_closed);
}

static void start_looking(Server *server);

// The idle time of the library begins anew with every byte; a head that comes
// byte by byte would hold its connection for ever.
static void on_look(uv_timer_t *timer) {
  Server *server = timer->data;
  uint64_t now = uv_now(server->loop);
  for (Connection *c = server->connections; c != NULL; c = c->next) {
    if (c->head_by == 0 || c->head_by > now) continue;
    c->head_by = 0;
    // The library sees the end, and cleans up.
    if (c->fd >= 0) (void)shutdown(c->fd, SHUT_RDWR);
  }
  if (server->connections != NULL) start_looking(server);
}

static void start_looking(Server *server) {
  uint64_t pause = server->head_ms / 2 + 1;
  if (pause > HEAD_LOOK_MS) pause = HEAD_LOOK_MS;
  if (uv_is_active((uv_handle_t *)&server->heads)) return;
  (void)uv_timer_start(&server->heads, on_look, pause, 0);
}

void server_head_came(Connection *connection) {
  connection->head_by = 0;
}

// Between two requests a connection may be idle first.
void server_head_due(Connection *connection) {
  Server *server = connection->server;
  connection->head_by =
      uv_now(server->loop) + IDLE_SECONDS * UINT64_C(1000) + server->head_ms;
}

void server_rest_due(Connection *connection) {
  Server *server = connection->server;
  connection->head_by = uv_now(server->loop) + REST_HEADS * server->head_ms;
}

static void link_connection(Server *server, Connection *connection) {
  connection->next = server->connections;
  if (server->connections != NULL) server->connections->previous = connection;
  server->connections = connection;
  start_looking(server);
}

static void unlink_connection(Server *server, Connection *connection) {
  if (connection->next != NULL)
    connection->next->previous = connection->previous;
  if (connection->previous != NULL)
    connection->previous->next = connection->next;
  else
    server->connections = connection->next;
  if (server->connections == NULL) (void)uv_timer_stop(&server->heads);
}

// A connection begins or ends; its socket is still open in both cases.
static void on_connection(void *cls, struct MHD_Connection *socket,
                          void **context,
                          enum MHD_ConnectionNotificationCode what) {
  Server *server = cls;
  if (what == MHD_CONNECTION_NOTIFY_STARTED) {
    Connection *connection = calloc(1, sizeof(*connection));
    *context = connection;  // NULL is refused with the first request
    if (connection == NULL) return;
    connection->server = server;
    connection->socket = socket;
    connection->fd = -1;
    connection->head_by = uv_now(server->loop) + server->head_ms;
    watch_peer(connection);
    link_connection(server, connection);
    return;
  }
  server->freed = true;
  Connection *connection = *context;
  *context = NULL;
  if (connection == NULL) return;
  unlink_connection(server, connection);
  if (connection->watching) {
    uv_close((uv_handle_t *)&connection->poll, on_connection_closed);
  } else {
    free(connection);
  }
}

void server_enqueue(Server *server, Request *request) {
  if (server->last != NULL)
    server->last->next_queued = request;
  else
    server->first = request;
  server->last = request;
  if (server->acceptor != NULL) (void)wait_settle(server->acceptor, 0);
}

Request *server_next(Server *server) {
  Request *request = server->first;
  if (request == NULL) return NULL;
  server->first = request->next_queued;
  if (server->first == NULL) server->last = NULL;
  request->next_queued = NULL;
  return request;
}

bool server_unqueue(Server *server, Request *request) {
  Request *previous = NULL, *at = server->first;
  while (at != NULL && at != request) {
    previous = at;
    at = at->next_queued;
  }
  if (at == NULL) return false;
  if (previous == NULL)
    server->first = request->next_queued;
  else
    previous->next_queued = request->next_queued;
  if (server->last == request) server->last = previous;
  request->next_queued = NULL;
  return true;
}

static int parse_address(const ServerOptions *options,
                         struct sockaddr_storage *address) {
  const char *host = options->host;
  if (strcmp(host, "localhost") == 0) host = "127.0.0.1";
  memset(address, 0, sizeof(*address));
  int port = options->port;
  if (uv_ip4_addr(host, port, (struct sockaddr_in *)address) == 0) return 0;
  return uv_ip6_addr(host, port, (struct sockaddr_in6 *)address);
}

static int bound_port(int fd) {
  struct sockaddr_storage address;
  socklen_t size = sizeof(address);
  if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) return -errno;
  if (address.ss_family == AF_INET6) {
    return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
  }
  return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

static int bind_and_listen(int fd, const struct sockaddr_storage *address) {
  int on = 1;
  bool six = address->ss_family == AF_INET6;
  socklen_t size =
      six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      (six &&
       setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0) ||
      bind(fd, (const struct sockaddr *)address, size) != 0 ||
      listen(fd, BACKLOG) != 0) {
    return -errno;
  }
  return 0;
}

// A listening socket for these options, or a libuv error.
static int open_socket(const ServerOptions *options) {
  struct sockaddr_storage address;
  int status = parse_address(options, &address);
  if (status != 0) return status;
  int fd =
      socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  status = bind_and_listen(fd, &address);
  if (status == 0) return fd;
  (void)close(fd);  // the first failure is the one to tell
  return status;
}

static struct MHD_Daemon *start_daemon(Server *server, int fd,
                                       const ServerOptions *options) {
  unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
  struct MHD_OptionItem tls[] = {
      {MHD_OPTION_HTTPS_MEM_CERT,   0, (void *)(uintptr_t)options->tls_cert},
      {MHD_OPTION_HTTPS_MEM_KEY,    0, (void *)(uintptr_t)options->tls_key },
      {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES   },
      {MHD_OPTION_END,              0, NULL                                },
  };
  struct MHD_OptionItem *more = &tls[3];
  if (options->tls_cert != NULL) {
    flags |= MHD_USE_TLS;
    more = tls;
  }
  return MHD_start_daemon(
      flags, 0, NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET, fd,
      MHD_OPTION_ARRAY, more, MHD_OPTION_CONNECTION_LIMIT,
      options->max_connections, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
      options->max_per_peer, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, server->max_header + WORK_MEMORY,
      MHD_OPTION_URI_LOG_CALLBACK, on_request_line, server,
      MHD_OPTION_NOTIFY_COMPLETED, on_request_over, server,
      MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_END);
}

// Ties the running daemon to the loop.
static int watch_daemon(Server *server) {
  const union MHD_DaemonInfo *info =
      MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  if (info == NULL) return UV_ENOTSUP;
  uv_poll_t *poll = &server->poll;
  int status = uv_poll_init(server->loop, poll, info->epoll_fd);
  if (status != 0) return status;
  server->handles++;
  poll->data = server;
  return uv_poll_start(poll, UV_READABLE, on_activity);
}

int server_open(Server **out, uv_loop_t *loop, const ServerOptions *options) {
  int fd = open_socket(options);
  if (fd < 0) return fd;
  Server *server = calloc(1, sizeof(*server));
  if (server == NULL) {
    (void)close(fd);  // out of memory is what matters
    return UV_ENOMEM;
  }
  server->loop = loop;
  server->max_header = options->max_header;
  server->head_ms = options->head_ms;
  server->port = bound_port(fd);
  // Before the daemon, which may tell of connections.
  (void)uv_timer_init(loop, &server->heads);  // always succeeds
  server->heads.data = server;
  server->daemon = start_daemon(server, fd, options);
  if (server->daemon == NULL) {
    server->handles = 1;
    uv_close((uv_handle_t *)&server->heads, on_handle_closed);
    (void)close(fd);  // the daemon took it only if it started
    return options->tls_cert != NULL ? UV_EPROTO : UV_ENOMEM;
  }
  (void)uv_timer_init(loop, &server->timer);  // always succeeds
  (void)uv_idle_init(loop, &server->soon);    // the same
  server->timer.data = server->soon.data = server;
  server->handles = 3;
  int status = watch_daemon(server);
  if (status != 0) {
    server_close(server);
    return status;
  }
  run(server);  // puts the listening socket into the epoll set
  *out = server;
  return 0;
}

static bool owes_answers(const Server *server) {
  for (const Request *r = server->live; r != NULL; r = r->next) {
    if (r->answered && r->stage != OVER) return true;
  }
  return false;
}

void server_close(Server *server) {
  server->closing = true;
  if (server->acceptor != NULL) (void)wait_settle(server->acceptor, UV_EBADF);
  // libmicrohttpd cannot stop while a connection is suspended, and from now on
  // no callback suspends one.
  for (Request *r = server->live; r != NULL; r = r->next)
    request_resume(r);
  for (int i = 0; i < FLUSH_TURNS && owes_answers(server); i++) {
    (void)MHD_run(server->daemon);
  }
  if (server->handles == 4) {
    uv_close((uv_handle_t *)&server->poll, on_handle_closed);
  }
  uv_close((uv_handle_t *)&server->heads, on_handle_closed);
  uv_close((uv_handle_t *)&server->timer, on_handle_closed);
  uv_close((uv_handle_t *)&server->soon, on_handle_closed);
  MHD_stop_daemon(server->daemon);
  for (Request *r; (r = server_next(server)) != NULL;)
    request_release(r);
}
