// The connection to the server. Either there is one from the start, and the
// agent ends with it; or the agent listens, and each connection replaces the
// one before.

#define _GNU_SOURCE

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

// A server that stops reading is not listened to either: what it asks for could
// only be answered into memory.
enum { DEAF_WATER = 4 * 1024 * 1024 };

static void forget(Agent *agent) {
  frame_reader_free(&agent->reader);
  free(agent->out.bytes);
  agent->out = (OutQueue){0};
  agent->failed = false;
  request_lose_all(agent);
}

static void lose(Agent *agent) {
  if (agent->listener < 0) {
    agent->ending = true;
    return;
  }
  if (agent->control < 0) return;
  close(agent->control);
  agent->control = agent->control_out = -1;
  forget(agent);
}

void control_renew(Agent *agent) {
  forget(agent);
  agent->seeking = true;
  agent->mark_seen = 0;
  size_t size = sizeof(RENEWAL_MARK) - 1;
  out_frame(agent, FRAME_RENEWED, 0, RENEWAL_MARK, size);
  control_hello(agent);
}

// Drops what stands before the end of the mark; returns how much is left.
static size_t seek(Agent *agent, uint8_t *bytes, size_t count) {
  const uint8_t *mark = (const uint8_t *)RENEWAL_MARK;
  for (size_t i = 0; i < count; i++) {
    // Its first byte is nowhere else in it.
    if (bytes[i] != mark[agent->mark_seen]) agent->mark_seen = 0;
    if (bytes[i] != mark[agent->mark_seen]) continue;
    if (++agent->mark_seen < sizeof(RENEWAL_MARK) - 1) continue;
    agent->seeking = false;
    memmove(bytes, bytes + i + 1, count - i - 1);
    return count - i - 1;
  }
  return 0;
}

static void accept_one(Agent *agent) {
  int fd = accept4(agent->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  lose(agent);
  agent->control = agent->control_out = fd;
  // Its events, if it had a place in this poll, were those of another.
  agent->in_place = agent->out_place = -1;
  control_hello(agent);
}

void control_hello(Agent *agent) {
  uint8_t payload[12];
  put_u32(payload, PROTOCOL_VERSION);
  put_u32(payload + 4, (uint32_t)getpid());
  put_u32(payload + 8, FEATURE_HELD);
  out_frame(agent, FRAME_HELLO, 0, payload, sizeof(payload));
}

void control_prepare(Agent *agent) {
  agent->in_place = agent->out_place = agent->listener_place = -1;
  if (agent->listener >= 0)
    agent->listener_place = poll_add(agent, agent->listener, POLLIN);
  if (agent->control < 0) return;
  short in = out_pending(agent) < DEAF_WATER ? POLLIN : 0;
  short out = out_pending(agent) > 0 ? POLLOUT : 0;
  if (agent->control == agent->control_out) {
    agent->in_place = poll_add(agent, agent->control, (short)(in | out));
    return;
  }
  agent->in_place = poll_add(agent, agent->control, in);
  // Also without interest in it: its end is the connection's.
  agent->out_place = poll_add(agent, agent->control_out, out);
}

static void read_frames(Agent *agent) {
  size_t room;
  uint8_t *space = frame_space(&agent->reader, &room);
  ssize_t count = -1;
  if (space) count = read(agent->control, space, room);
  if (space && count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    lose(agent);
    return;
  }
  size_t fresh = (size_t)count;
  if (agent->seeking) fresh = seek(agent, space, fresh);
  frame_fed(&agent->reader, fresh);

  Frame frame;
  int got;
  while (!agent->ending && (got = frame_next(&agent->reader, &frame)) != 0) {
    if (got < 0) {
      lose(agent);
      return;
    }
    request_dispatch(agent, &frame);
  }
}

void control_read(Agent *agent) {
  if (poll_events(agent, agent->listener_place)) accept_one(agent);
  if (poll_events(agent, agent->in_place) & ~POLLOUT)
    read_frames(agent);
  else if (poll_events(agent, agent->out_place) & ~POLLOUT)
    lose(agent);
}

void control_flush(Agent *agent) {
  if (agent->control_out < 0) return;
  if (agent->failed || !out_flush(agent)) lose(agent);
}
