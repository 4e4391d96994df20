// Frames to the server: one queue, written when the socket takes it.

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

// Bulk data waits while this much is queued; frames that end a request do not.
enum { HIGH_WATER = 1024 * 1024 };

size_t out_pending(const Agent *agent) {
  return agent->out.end - agent->out.start;
}

size_t out_room(const Agent *agent, const Channel *channel) {
  if (out_pending(agent) >= HIGH_WATER) return 0;
  return channel->credit < CHUNK ? channel->credit : CHUNK;
}

uint8_t *out_reserve(Agent *agent, size_t size) {
  OutQueue *out = &agent->out;
  size_t need = FRAME_HEADER + size;
  if (out->capacity - out->end < need && out->start > 0) {
    memmove(out->bytes, out->bytes + out->start, out->end - out->start);
    out->end -= out->start;
    out->start = 0;
  }
  if (out->capacity - out->end < need) {
    size_t capacity = (out->end + need) * 2;
    uint8_t *bytes = realloc(out->bytes, capacity);
    if (!bytes) {
      // A lost frame would leave the server waiting for ever.
      agent->failed = true;
      return NULL;
    }
    out->bytes = bytes;
    out->capacity = capacity;
  }
  return out->bytes + out->end + FRAME_HEADER;
}

void out_commit(Agent *agent, enum FrameType type, uint32_t id, size_t size) {
  if (agent->control_out < 0) return;  // nobody is there
  uint8_t *header = agent->out.bytes + agent->out.end;
  put_u32(header, (uint32_t)(FRAME_HEADER - 4 + size));
  header[4] = (uint8_t)type;
  put_u32(header + 5, id);
  agent->out.end += FRAME_HEADER + size;
}

void out_frame(Agent *agent, enum FrameType type, uint32_t id,
               const void *payload, size_t size) {
  uint8_t *at = out_reserve(agent, size);
  if (!at) return;
  if (size > 0) memcpy(at, payload, size);
  out_commit(agent, type, id, size);
}

void out_done(Agent *agent, Channel *channel, uint64_t bytes) {
  uint8_t payload[8];
  put_u64(payload, bytes);
  out_frame(agent, FRAME_DONE, channel->id, payload, sizeof(payload));
  channel->over = true;
}

void out_fail(Agent *agent, uint32_t id, int error, const char *what,
              const char *name) {
  size_t what_size = strlen(what);
  size_t name_size = strlen(name);
  size_t length = what_size + name_size;
  uint8_t *at = out_reserve(agent, 8 + length + 1);
  if (!at) return;
  put_u32(at, (uint32_t)error);
  put_u32(at + 4, (uint32_t)length);
  memcpy(at + 8, what, what_size);
  memcpy(at + 8 + what_size, name, name_size);
  at[8 + length] = 0;
  out_commit(agent, FRAME_FAIL, id, 8 + length + 1);
}

void out_credit(Agent *agent, uint32_t id, size_t bytes) {
  uint8_t payload[4];
  put_u32(payload, (uint32_t)bytes);
  out_frame(agent, FRAME_CREDIT, id, payload, sizeof(payload));
}

bool out_flush(Agent *agent) {
  OutQueue *out = &agent->out;
  while (out->start < out->end) {
    ssize_t count = write(agent->control_out, out->bytes + out->start,
                          out->end - out->start);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    out->start += (size_t)count;
  }
  out->start = out->end = 0;
  return true;
}
