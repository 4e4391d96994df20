// What comes in on a WebSocket: bytes, frames, messages.

#include <stdlib.h>
#include <string.h>

#include "websocket_part.h"

bool websocket_wants_bytes(const Websocket *socket) {
  if (!socket->dial || socket->close_received) return false;
  if (socket->closed_by_us || !socket->first) return true;
  return socket->held + socket->parser.size < WEBSOCKET_AHEAD;
}

static void keep_message(Websocket *socket, const FrameEvent *event) {
  Message *message = socket->closed_by_us ? NULL : malloc(sizeof(*message));
  if (!message) {
    free(event->data);
    if (!socket->closed_by_us)
      websocket_fail(socket, "io", "ENOMEM", "receive",
                     "no memory for a message");
    return;
  }
  *message = (Message){NULL, event->opcode, event->data, event->size};
  if (socket->last)
    socket->last->next = message;
  else
    socket->first = message;
  socket->last = message;
  socket->held += event->size + sizeof(*message);
  websocket_settle(socket->receiver);
}

static void take_pong(Websocket *socket, const FrameEvent *event) {
  if (!socket->pinger || event->size != sizeof(socket->probe) ||
      memcmp(event->data, &socket->probe, event->size) != 0)
    return;
  socket->probe_took =
      timer_seconds(&socket->reactor->timers) - socket->probe_at;
  websocket_settle(socket->pinger);
}

static void take_close(Websocket *socket, const FrameEvent *event) {
  socket->close_received = true;
  socket->close_code = CLOSE_NO_CODE;
  if (event->size >= 2) {
    socket->close_code = event->data[0] << 8 | event->data[1];
    socket->close_reason_size = event->size - 2;
    memcpy(socket->close_reason, event->data + 2, event->size - 2);
  }
  if (socket->state != WEBSOCKET_OPEN) return;
  socket->state = WEBSOCKET_CLOSING;
  websocket_put_close(socket, (unsigned)socket->close_code, NULL, 0);
  (void)timer_start(&socket->reactor->timers, &socket->timer,
                    socket->close_timeout);
}

static void take_event(Websocket *socket, const FrameEvent *event) {
  switch (event->opcode) {
  case FRAME_PING:
    // A peer that sends many before it reads one answer gets only the last.
    memcpy(socket->pong, event->data, event->size);
    socket->pong_size = event->size;
    socket->pong_due = true;
    break;
  case FRAME_PONG:
    take_pong(socket, event);
    break;
  case FRAME_CLOSE:
    take_close(socket, event);
    break;
  default:
    keep_message(socket, event);
  }
}

static void refuse(Websocket *socket) {
  const FrameParser *parser = &socket->parser;
  const char *problem = parser->problem;
  int code = parser->close_code;
  if (socket->state != WEBSOCKET_OPEN) {
    websocket_end(socket);
    return;
  }
  if (code == 0) {
    websocket_fail(socket, "io", "ENOMEM", "receive", "%s", problem);
    return;
  }
  websocket_say_close(socket, (unsigned)code);
  if (code == CLOSE_TOO_BIG)
    websocket_fail(socket, "limit", "EMSGSIZE", "receive", "%s (%llu bytes)",
                   problem, (unsigned long long)parser->max_message);
  else
    websocket_fail(socket, "http", "EPROTO", "receive", "the server sent %s",
                   problem);
}

void websocket_feed(Websocket *socket, const uint8_t *bytes, size_t size) {
  int got = 0;
  FrameEvent event;
  while (socket->dial && !socket->close_received &&
         (got = frame_parse(&socket->parser, &bytes, &size, &event)) > 0)
    take_event(socket, &event);
  if (got < 0) refuse(socket);
}

void websocket_pull(Websocket *socket) {
  uint8_t bytes[DIAL_BUFFER];
  size_t burst = 0;
  while (websocket_wants_bytes(socket)) {
    if (burst >= WEBSOCKET_BURST) {
      // Not left to the socket: TLS may hold what it no longer has.
      (void)timer_start(&socket->reactor->timers, &socket->resume, 0);
      return;
    }
    ssize_t size =
        transfer_receive(&socket->dial->transfer, (char *)bytes, sizeof(bytes));
    if (size == UV_EAGAIN) return;
    if (size <= 0) {
      websocket_lose(socket, size, "receive");
      return;
    }
    burst += (size_t)size;
    socket->heard = true;
    websocket_feed(socket, bytes, (size_t)size);
  }
}
