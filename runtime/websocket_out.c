// What goes out on a WebSocket: one chunk at a time, of the message that a task
// sends and of the control frames that are due between its frames.

#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "websocket_part.h"

// A large message goes out in frames of this size, so that a pong need not wait
// for its end.
#define FRAME_SIZE ((size_t)1024 * 1024)
// Room for all control frames that may be due at once, and for a head.
#define CONTROLS_MOST ((size_t)4 * (FRAME_HEAD_MOST + CONTROL_MOST))

static bool new_mask(Websocket *socket, uint8_t mask[4]) {
  if (RAND_bytes(mask, 4) == 1) return true;
  websocket_fail(socket, "io", NULL, "send", "no random bytes for a mask");
  return false;
}

static size_t put_control(Websocket *socket, uint8_t *out, int opcode,
                          const uint8_t *bytes, size_t size) {
  uint8_t mask[4];
  if (!new_mask(socket, mask)) return 0;
  size_t used = frame_write_head(out, opcode, true, size, mask);
  frame_mask(out + used, bytes, size, mask, 0);
  return used + size;
}

// Writes the control frames that are due; only between two frames.
static size_t put_controls(Websocket *socket, uint8_t *out) {
  size_t used = 0;
  const uint8_t *probe = (const uint8_t *)&socket->probe;
  if (socket->pong_due)
    used +=
        put_control(socket, out, FRAME_PONG, socket->pong, socket->pong_size);
  if (socket->ping_due)
    used += put_control(socket, out + used, FRAME_PING, NULL, 0);
  if (socket->probe_due)
    used += put_control(socket, out + used, FRAME_PING, probe,
                        sizeof(socket->probe));
  socket->pong_due = socket->ping_due = socket->probe_due = false;
  return used;
}

static size_t open_frame(Websocket *socket, uint8_t *out) {
  Outgoing *message = &socket->message;
  if (!new_mask(socket, message->mask)) return 0;
  size_t size = message->size - message->at;
  bool last = size <= FRAME_SIZE;
  if (!last) size = FRAME_SIZE;
  message->frame_left = size;
  message->frame_at = 0;
  int opcode = message->at == 0 ? message->opcode : FRAME_CONTINUATION;
  return frame_write_head(out, opcode, last, size, message->mask);
}

// Copies as much of the frame as there is room for.
static size_t put_payload(Outgoing *message, uint8_t *out, size_t room) {
  size_t size = message->frame_left < room ? message->frame_left : room;
  frame_mask(out, message->bytes + message->at, size, message->mask,
             message->frame_at);
  message->at += size;
  message->frame_at += size;
  message->frame_left -= size;
  if (message->at == message->size) message->busy = false;
  return size;
}

// Fills the chunk with what is to go out next. A Close comes last of all.
static size_t fill_chunk(Websocket *socket) {
  uint8_t *out = socket->chunk;
  Outgoing *message = &socket->message;
  size_t used = 0;
  while (DIAL_BUFFER - used >= CONTROLS_MOST && socket->dial) {
    if (message->frame_left == 0) {
      used += put_controls(socket, out + used);
      if (!message->busy) break;
      used += open_frame(socket, out + used);
    }
    used += put_payload(message, out + used, DIAL_BUFFER - used);
  }
  bool room = DIAL_BUFFER - used >= CONTROLS_MOST;
  if (socket->close_due && !message->busy && room && socket->dial) {
    used += put_control(socket, out + used, FRAME_CLOSE, socket->close,
                        socket->close_size);
    socket->close_due = false;
    socket->close_sent = true;
  }
  return used;
}

// Makes the next chunk, if there is anything to send.
static bool next_chunk(Websocket *socket) {
  bool due = socket->pong_due || socket->ping_due || socket->probe_due ||
             socket->close_due || socket->message.busy;
  if (!due || socket->close_sent || socket->broken) return false;
  if (!socket->chunk) socket->chunk = malloc(DIAL_BUFFER);
  if (!socket->chunk) {
    websocket_fail(socket, "io", "ENOMEM", "send", "no memory");
    return false;
  }
  size_t size = fill_chunk(socket);
  if (!socket->dial) return false;
  socket->chunk_at = 0;
  socket->chunk_left = size;
  return size > 0;
}

// Everything that was begun is out.
static void come_to_rest(Websocket *socket) {
  if (!socket->dial) return;
  free(socket->chunk);
  socket->chunk = NULL;
  if (!socket->message.busy && socket->sender) {
    socket->message.sent = true;
    websocket_settle(socket->sender);
  }
  if (socket->close_sent && socket->close_received) websocket_end(socket);
}

void websocket_push(Websocket *socket) {
  for (size_t burst = 0; socket->dial && burst < WEBSOCKET_BURST;) {
    if (socket->chunk_left == 0 && !next_chunk(socket)) {
      come_to_rest(socket);
      return;
    }
    ssize_t size = transfer_send(&socket->dial->transfer,
                                 (char *)socket->chunk + socket->chunk_at,
                                 socket->chunk_left);
    if (size == UV_EAGAIN) return;
    if (size < 0) {
      // The server may have said why before it went away.
      websocket_pull(socket);
      websocket_lose(socket, size, "send");
      return;
    }
    socket->chunk_at += (size_t)size;
    socket->chunk_left -= (size_t)size;
    burst += (size_t)size;
    // A server that takes a large message is alive, be it too busy to say so.
    if (socket->sender) socket->heard = true;
  }
}

void websocket_put_close(Websocket *socket, unsigned code, const char *reason,
                         size_t size) {
  socket->close[0] = (uint8_t)(code >> 8);
  socket->close[1] = (uint8_t)code;
  if (size > 0) memcpy(socket->close + 2, reason, size);
  socket->close_size = code == CLOSE_NO_CODE ? 0 : size + 2;
  socket->close_due = true;
}

void websocket_say_close(Websocket *socket, unsigned code) {
  bool between = !socket->broken && socket->chunk_left == 0 &&
                 !socket->message.busy && !socket->close_sent;
  if (!socket->dial || !between) return;
  uint8_t frame[FRAME_HEAD_MOST + 2];
  websocket_put_close(socket, code, NULL, 0);
  size_t size = put_control(socket, frame, FRAME_CLOSE, socket->close,
                            socket->close_size);
  if (socket->dial)
    (void)transfer_send(&socket->dial->transfer, (char *)frame, size);
}
