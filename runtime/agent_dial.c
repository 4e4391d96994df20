// Connections to servers inside the sandbox, relayed both ways. This is how
// ports are exposed: it needs no network at all.

#define _GNU_SOURCE

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

typedef struct Dial {
  Channel channel;
  int fd;
  int place;  // in this turn's poll, or -1
  uint16_t port;
  bool connecting;
  bool second_try;  // 127.0.0.1 refused; this is ::1
  bool server_eof;  // the server sends no more
  bool shut;        // and neither do we, towards the peer
  bool peer_eof;
  uint8_t *bytes;  // WINDOW bytes, [start, end) of them for the peer
  size_t start, end;
} Dial;

static void fail(Agent *agent, Dial *dial, int error, const char *what) {
  out_fail(agent, dial->channel.id, error, what, "");
  dial->channel.over = true;
}

// Starts to connect to one of the two loopback addresses. Returns 0 or an
// errno.
static int connect_to(Dial *dial, int family) {
  struct sockaddr_in four = {.sin_family = AF_INET,
                             .sin_port = htons(dial->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 six = {.sin6_family = AF_INET6,
                             .sin6_port = htons(dial->port),
                             .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  bool is_four = family == AF_INET;
  const struct sockaddr *address =
      is_four ? (struct sockaddr *)&four : (struct sockaddr *)&six;
  socklen_t size = is_four ? sizeof(four) : sizeof(six);

  if (dial->fd >= 0) close(dial->fd);
  dial->place = -1;  // it was the old descriptor's
  dial->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (dial->fd < 0) return errno;
  int on = 1;
  setsockopt(dial->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (connect(dial->fd, address, size) == 0) return 0;
  return errno == EINPROGRESS ? 0 : errno;
}

static void start_second_try(Agent *agent, Dial *dial, int first_error) {
  int error = first_error;
  if (!dial->second_try) {
    dial->second_try = true;
    error = connect_to(dial, AF_INET6);
    if (error == 0) return;
    // A sandbox without IPv6 should hear why the first address failed.
    error = first_error;
  }
  fail(agent, dial, error, "connect to the port");
}

static void prepare(Agent *agent, Channel *channel) {
  Dial *dial = (Dial *)channel;
  short events = 0;
  if (dial->connecting || dial->start < dial->end) events |= POLLOUT;
  if (!dial->connecting && !dial->peer_eof && out_room(agent, channel) > 0)
    events |= POLLIN;
  // A hang-up is always reported, so a descriptor of no interest stays out.
  dial->place = events ? poll_add(agent, dial->fd, events) : -1;
}

static void finish_connecting(Agent *agent, Dial *dial) {
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(dial->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error) {
    start_second_try(agent, dial, error);
    return;
  }
  dial->connecting = false;
  out_frame(agent, FRAME_OPENED, dial->channel.id, NULL, 0);
}

static void send_to_peer(Agent *agent, Dial *dial) {
  while (dial->start < dial->end) {
    ssize_t count = send(dial->fd, dial->bytes + dial->start,
                         dial->end - dial->start, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) {
      fail(agent, dial, errno, "send to the port");
      return;
    }
    dial->start += (size_t)count;
    out_credit(agent, dial->channel.id, (size_t)count);
  }
  if (dial->start == dial->end) dial->start = dial->end = 0;
  if (dial->server_eof && dial->end == 0 && !dial->shut) {
    shutdown(dial->fd, SHUT_WR);
    dial->shut = true;
  }
}

static void receive_from_peer(Agent *agent, Dial *dial) {
  size_t room = out_room(agent, &dial->channel);
  uint8_t *at = room > 0 ? out_reserve(agent, room) : NULL;
  if (!at) return;
  ssize_t count = recv(dial->fd, at, room, 0);
  if (count < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    fail(agent, dial, errno, "receive from the port");
  } else if (count == 0) {
    dial->peer_eof = true;
    out_frame(agent, FRAME_EOF, dial->channel.id, NULL, 0);
  } else {
    dial->channel.credit -= (uint32_t)count;
    out_commit(agent, FRAME_DATA, dial->channel.id, (size_t)count);
  }
}

static void run(Agent *agent, Channel *channel) {
  Dial *dial = (Dial *)channel;
  short events = poll_events(agent, dial->place);
  if (dial->connecting) {
    if (events) finish_connecting(agent, dial);
    return;
  }
  send_to_peer(agent, dial);
  if (!channel->over && !dial->peer_eof && (events & ~POLLOUT))
    receive_from_peer(agent, dial);
  if (!channel->over && dial->shut && dial->peer_eof)
    out_done(agent, channel, 0);
}

static void on_data(Agent *agent, Channel *channel, const Frame *frame) {
  Dial *dial = (Dial *)channel;
  if (!dial->bytes) dial->bytes = malloc(WINDOW);
  if (!dial->bytes) {
    fail(agent, dial, ENOMEM, "send to the port");
    return;
  }
  if (WINDOW - dial->end < frame->size) {
    memmove(dial->bytes, dial->bytes + dial->start, dial->end - dial->start);
    dial->end -= dial->start;
    dial->start = 0;
  }
  if (WINDOW - dial->end < frame->size || dial->server_eof) {
    // More than it had credit for, or more after the end.
    fail(agent, dial, EPROTO, "send to the port");
    return;
  }
  memcpy(dial->bytes + dial->end, frame->payload, frame->size);
  dial->end += frame->size;
}

static void on_eof(Agent *agent, Channel *channel) {
  ((Dial *)channel)->server_eof = true;
}

static void on_kill(Agent *agent, Channel *channel) {
  out_done(agent, channel, 0);
}

static void destroy(Agent *agent, Channel *channel) {
  Dial *dial = (Dial *)channel;
  if (dial->fd >= 0) close(dial->fd);
  free(dial->bytes);
  free(dial);
}

static const ChannelKind dial_kind = {.prepare = prepare,
                                      .run = run,
                                      .on_data = on_data,
                                      .on_eof = on_eof,
                                      .on_kill = on_kill,
                                      .destroy = destroy};

void dial_start(Agent *agent, const Frame *frame) {
  Cursor cursor = frame_cursor(frame);
  uint16_t port = take_u16(&cursor);
  Dial *dial = NULL;
  if (cursor_ended(&cursor) && port != 0)
    dial = channel_new(agent, &dial_kind, frame->id, sizeof(*dial));
  if (!dial) {
    out_fail(agent, frame->id, EINVAL, "connect to the port", "");
    return;
  }
  dial->fd = dial->place = -1;
  dial->port = port;
  dial->connecting = true;
  int error = connect_to(dial, AF_INET);
  if (error) start_second_try(agent, dial, error);
}
