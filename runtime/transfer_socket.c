// The descriptors of libcurl, watched by libuv. A connection is given one
// uv_poll when it is opened and keeps it until it is closed, however often
// libcurl says that it has lost interest: twice per request, and starting and
// closing a handle each time would make a request half as dear again.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transfer_pool.h"

static void watch(Socket *socket, int mask);
static void watch_idle(Socket *socket);

// What an idle connection of HTTP/1 says, nobody has asked for: mostly that it
// ends, sometimes a 408 before that. libcurl would take that for the answer to
// the next request. So that it finds the end instead, there must be nothing
// left to read.
static void spoil(const Socket *socket) {
  enum { PIECES_MOST = 64 };

  char waste[16384];
  for (int i = 0; i < PIECES_MOST; i++)
    if (recv(socket->fd, waste, sizeof(waste), MSG_DONTWAIT) <= 0) break;
  (void)shutdown(socket->fd, SHUT_RDWR);
}

// libcurl may take up an idle connection, send, find the answer there and pause
// for a slow reader, all before it would have the connection watched: then
// nobody has told us whose it is.
static bool has_strangers(const Shard *shard) {
  const Transfer *at = shard->pool->live;
  while (at && !(at->receive_paused && !at->socket && at->line &&
                 at->line->shard == shard))
    at = at->next;
  return at != NULL;
}

// Whether there is anything to read, if only the end. What the loop saw may be
// an answer that libcurl has read since, when it was called for another socket.
static bool says_something(const Socket *socket, int events) {
  char byte;
  if (!(events & UV_READABLE)) return false;
  return recv(socket->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
         (errno != EAGAIN && errno != EWOULDBLOCK);
}

static void on_unwanted(Socket *socket, int events) {
  const Shard *shard = socket->shard;
  // A connection in use is only paused, or between two steps.
  bool idle =
      socket->ours && !socket->user && shard && !shard->http2 && !shard->dials;
  if (idle && !says_something(socket, events)) {
    watch_idle(socket);
    return;
  }
  uv_poll_stop(&socket->poll);
  socket->mask = 0;
  if (idle && !has_strangers(shard)) spoil(socket);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  Socket *socket = (Socket *)poll;
  int mask = socket->mask;
  if (status < 0) {
    // The error is for whoever reads or writes, and bytes that came before it
    // still are. libuv has stopped watching.
    events = mask;
    socket->mask = 0;
  }
  if (socket->dial) {
    socket->dial->on_ready(socket->dial, events);
    return;
  }
  if (!socket->wanted || !socket->shard) {
    on_unwanted(socket, events);
    return;
  }
  int bits = (events & UV_READABLE ? CURL_CSELECT_IN : 0) |
             (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
  Shard *shard = socket->shard;
  TransferPool *pool = shard->pool;
  int running, fd = socket->fd;
  (void)curl_multi_socket_action(shard->multi, fd, bits, &running);
  // The block itself stays until the loop's next turn.
  bool stopped = pool->sockets[fd] == socket && socket->mask == 0;
  if (status < 0 && stopped && socket->wanted) watch(socket, mask);
  shard_settle(shard);
}

static void on_poll_closed(uv_handle_t *handle) {
  free(handle);
}

static int reserve(TransferPool *pool, int fd) {
  size_t needed = (size_t)fd + 1;
  if (needed <= pool->socket_capacity) return 0;
  size_t capacity = pool->socket_capacity ? pool->socket_capacity : 64;
  while (capacity < needed)
    capacity *= 2;
  Socket **sockets = realloc(pool->sockets, capacity * sizeof(*sockets));
  if (!sockets) return UV_ENOMEM;
  memset(sockets + pool->socket_capacity, 0,
         (capacity - pool->socket_capacity) * sizeof(*sockets));
  pool->sockets = sockets;
  pool->socket_capacity = capacity;
  return 0;
}

static void set_user(Socket *socket, Transfer *transfer) {
  if (socket->user == transfer) return;
  if (socket->user) socket->user->socket = NULL;
  if (transfer && transfer->socket) transfer->socket->user = NULL;
  if (transfer) transfer->socket = socket;
  socket->user = transfer;
}

// Must precede the close of the descriptor where we hear of it: libuv aborts
// when it is to watch one that is gone, and the number may be in use again at
// once.
static void drop_socket(TransferPool *pool, Socket *socket) {
  pool->sockets[socket->fd] = NULL;
  uv_poll_stop(&socket->poll);
  if (socket->host) socket->host->connections--;
  set_user(socket, NULL);
  uv_close((uv_handle_t *)&socket->poll, on_poll_closed);
}

static int add_socket(TransferPool *pool, int fd, Socket **result) {
  int status = reserve(pool, fd);
  if (status != 0) return status;
  // What had the number before was closed without a word.
  if (pool->sockets[fd]) drop_socket(pool, pool->sockets[fd]);
  Socket *socket = calloc(1, sizeof(*socket));
  if (!socket) return UV_ENOMEM;
  status = uv_poll_init(&pool->reactor->loop, &socket->poll, fd);
  if (status != 0) {
    free(socket);
    return status;
  }
  uv_unref((uv_handle_t *)&socket->poll);
  socket->fd = fd;
  pool->sockets[fd] = *result = socket;
  return 0;
}

static void watch(Socket *socket, int mask) {
  socket->wanted = true;
  uv_ref((uv_handle_t *)&socket->poll);
  if (socket->mask == mask) return;
  socket->mask = mask;
  (void)uv_poll_start(&socket->poll, mask, on_poll);  // fails only when closing
}

// What it was last watched for is no concern of an idle connection.
static void watch_idle(Socket *socket) {
  socket->mask = UV_READABLE;
  (void)uv_poll_start(&socket->poll, UV_READABLE, on_poll);
}

// libcurl 7.88 closes a socket that never became a connection (timed out,
// cancelled, outrun by another address) behind our back, before it tells us to
// stop watching. By now the number may be another's.
static bool is_closed(Socket *socket) {
  if (!socket->fresh) return false;
  struct stat facts;
  if (fstat(socket->fd, &facts) != 0 || facts.st_dev != socket->device ||
      facts.st_ino != socket->inode)
    return true;
  socket->fresh = false;  // it is a connection now
  return false;
}

static Transfer *transfer_of(CURL *easy) {
  Line *line = NULL;
  (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&line);
  return line ? line->transfer : NULL;
}

static void unwatch(TransferPool *pool, Socket *socket) {
  if (!socket->ours || is_closed(socket)) {
    // Nor do we hear more about the resolver's own pair of sockets.
    drop_socket(pool, socket);
    return;
  }
  socket->wanted = false;
  uv_unref((uv_handle_t *)&socket->poll);  // an idle connection holds nobody
}

// Never returns -1: that would end every transfer of the multi handle.
int on_socket(CURL *easy, curl_socket_t fd, int what, void *context,
              void *unused) {
  (void)unused;
  Shard *shard = context;
  TransferPool *pool = shard->pool;
  Socket *socket =
      (size_t)fd < pool->socket_capacity ? pool->sockets[fd] : NULL;
  if (what == CURL_POLL_REMOVE) {
    if (socket) unwatch(pool, socket);
    return 0;
  }
  int status = socket ? 0 : add_socket(pool, fd, &socket);
  if (status != 0) {
    Transfer *transfer = transfer_of(easy);
    if (transfer && !transfer->failure.kind) {
      transfer_fail(transfer, "io", uv_err_name(status), "connect",
                    "cannot watch a socket: %s", uv_strerror(status));
      transfer->queue_next = pool->broken;
      pool->broken = transfer;
      (void)timer_start(&pool->reactor->timers, &shard->timer, 0);
    }
    return 0;
  }
  socket->shard = shard;
  if (socket->ours && !shard->http2) set_user(socket, transfer_of(easy));
  watch(socket, (what & CURL_POLL_IN ? UV_READABLE : 0) |
                    (what & CURL_POLL_OUT ? UV_WRITABLE : 0));
  return 0;
}

void socket_release(Transfer *transfer) {
  Socket *socket = transfer->socket;
  if (!socket) return;
  set_user(socket, NULL);
  if (!(socket->mask & UV_READABLE)) watch_idle(socket);
}

curl_socket_t on_open_socket(void *context, curlsocktype purpose,
                             struct curl_sockaddr *address) {
  (void)purpose;
  Transfer *transfer = ((Line *)context)->transfer;
  TransferPool *pool = transfer->pool;
  int fd =
      socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
             address->protocol);
  if (fd < 0) {
    transfer->socket_error = -errno;
    return CURL_SOCKET_BAD;
  }
  Socket *socket = NULL;
  int status = add_socket(pool, fd, &socket);
  if (status != 0) {
    transfer->socket_error = status;
    close(fd);
    return CURL_SOCKET_BAD;
  }
  struct stat facts = {0};
  (void)fstat(fd, &facts);  // cannot fail on a socket just made
  socket->ours = socket->fresh = true;
  socket->device = facts.st_dev;
  socket->inode = facts.st_ino;
  socket->host = transfer->host;
  if (socket->host) socket->host->connections++;
  return fd;
}

int on_close_socket(void *context, curl_socket_t fd) {
  TransferPool *pool = context;
  if ((size_t)fd < pool->socket_capacity && pool->sockets[fd])
    drop_socket(pool, pool->sockets[fd]);
  return close(fd);
}

int transfer_watch(Transfer *transfer, int events, bool hold) {
  if (transfer->state != TRANSFER_OPEN) return UV_EBADF;
  curl_socket_t fd = CURL_SOCKET_BAD;
  (void)curl_easy_getinfo(transfer->line->easy, CURLINFO_ACTIVESOCKET, &fd);
  TransferPool *pool = transfer->pool;
  if (fd < 0 || (size_t)fd >= pool->socket_capacity || !pool->sockets[fd])
    return UV_EBADF;
  Socket *socket = pool->sockets[fd];
  socket->dial = transfer;
  if (hold)
    uv_ref((uv_handle_t *)&socket->poll);
  else
    uv_unref((uv_handle_t *)&socket->poll);
  if (socket->mask == events) return 0;
  socket->mask = events;
  return events ? uv_poll_start(&socket->poll, events, on_poll)
                : uv_poll_stop(&socket->poll);
}

void sockets_close(TransferPool *pool) {
  for (size_t fd = 0; fd < pool->socket_capacity; fd++)
    if (pool->sockets[fd]) drop_socket(pool, pool->sockets[fd]);
}
