// The life of a WebSocket: its end, its clock, and the tasks that wait for it.

#include "websocket.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "websocket_part.h"

// Ending

void websocket_end(Websocket *socket) {
  if (socket->state == WEBSOCKET_ENDED) return;
  socket->state = WEBSOCKET_ENDED;
  if (!socket->close_received) socket->close_code = CLOSE_ABNORMAL;
  timer_stop(&socket->reactor->timers, &socket->timer);
  timer_stop(&socket->reactor->timers, &socket->resume);
  dial_free(socket->dial);
  socket->dial = NULL;
  frame_parser_free(&socket->parser);
  free(socket->chunk);
  socket->chunk = NULL;
  socket->chunk_left = 0;
  websocket_settle(socket->receiver);
  websocket_settle(socket->sender);
  websocket_settle(socket->pinger);
  websocket_settle(socket->closer);
}

void websocket_fail(Websocket *socket, const char *kind, const char *code,
                    const char *phase, const char *format, ...) {
  Failure *failure = &socket->failure;
  if (socket->state == WEBSOCKET_ENDED) return;
  failure->kind = kind;
  failure->code = code;
  failure->phase = phase;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(failure->reason, sizeof(failure->reason), format, arguments);
  va_end(arguments);
  websocket_end(socket);
}

void websocket_lose(Websocket *socket, ssize_t status, const char *phase) {
  if (socket->state == WEBSOCKET_OPEN)
    websocket_fail(socket, "http", status ? uv_err_name((int)status) : "EOF",
                   phase, "the connection broke: %s",
                   status ? uv_strerror((int)status) : "the server closed it");
  else
    websocket_end(socket);
}

void websocket_drop(Websocket *socket) {
  if (socket->state == WEBSOCKET_OPEN)
    websocket_say_close(socket, CLOSE_GOING_AWAY);
  websocket_end(socket);
}

// The loop's side

static void update(Websocket *socket) {
  if (!socket->dial) return;
  bool sends = socket->chunk_left > 0 || socket->message.busy;
  int events = (websocket_wants_bytes(socket) ? UV_READABLE : 0) |
               (sends ? UV_WRITABLE : 0);
  bool hold =
      socket->receiver || socket->sender || socket->pinger || socket->closer;
  int status = transfer_watch(&socket->dial->transfer, events, hold);
  if (status != 0) websocket_lose(socket, status, "wait");
}

static void move(Websocket *socket) {
  websocket_pull(socket);
  websocket_push(socket);
  update(socket);
}

static void on_ready(Transfer *transfer, int events) {
  (void)events;
  move(((Dial *)transfer)->owner);
}

static void on_resume(Timer *timer) {
  move((Websocket *)((char *)timer - offsetof(Websocket, resume)));
}

static void on_timer(Timer *timer) {
  Websocket *socket = (Websocket *)timer;
  if (socket->state != WEBSOCKET_OPEN) {
    websocket_end(socket);
    return;
  }
  // What we do not read may well hold the pong.
  if (socket->expects_pong && !socket->heard && websocket_wants_bytes(socket)) {
    websocket_fail(socket, "timeout", "ETIMEDOUT", "idle",
                   "the server did not answer a ping within %g s",
                   socket->ping_interval);
    return;
  }
  socket->heard = false;
  socket->expects_pong = socket->ping_due = !socket->broken;
  (void)timer_start(&socket->reactor->timers, &socket->timer,
                    socket->ping_interval);
  websocket_push(socket);
  update(socket);
}

Websocket *websocket_new(Reactor *reactor, Dial *dial, const char *label,
                         uint64_t max_message) {
  Websocket *socket = calloc(1, sizeof(*socket));
  if (!socket) return NULL;
  socket->label = strdup(label);
  if (!socket->label) {
    free(socket);
    return NULL;
  }
  socket->reactor = reactor;
  socket->parser.max_message = max_message;
  socket->timer.on_fire = on_timer;
  socket->resume.on_fire = on_resume;
  socket->dial = dial;
  dial->owner = socket;
  dial->transfer.on_ready = on_ready;
  return socket;
}

void websocket_start(Websocket *socket, const char *bytes, size_t size) {
  if (socket->ping_interval > 0)
    (void)timer_start(&socket->reactor->timers, &socket->timer,
                      socket->ping_interval);
  websocket_feed(socket, (const uint8_t *)bytes, size);
  move(socket);
}

void websocket_free(Websocket *socket) {
  if (!socket) return;
  websocket_drop(socket);
  while (socket->first)
    message_free(websocket_take(socket));
  free(socket->label);
  free(socket);
}

// Receiving

void message_free(Message *message) {
  if (!message) return;
  free(message->data);
  free(message);
}

Message *websocket_take(Websocket *socket) {
  Message *message = socket->first;
  if (!message) return NULL;
  bool paused = !websocket_wants_bytes(socket);
  socket->first = message->next;
  if (!socket->first) socket->last = NULL;
  socket->held -= message->size + sizeof(*message);
  // Goes on in the next turn: here the caller holds a message.
  if (paused && websocket_wants_bytes(socket))
    (void)timer_start(&socket->reactor->timers, &socket->resume, 0);
  return message;
}

void websocket_start_receive(WebsocketWait *op) {
  Websocket *socket = op->socket;
  socket->receiver = &op->wait;
  if (socket->first || !socket->dial)
    websocket_settle(&op->wait);
  else
    update(socket);
}

void websocket_close_receive(Wait *wait) {
  Websocket *socket = ((WebsocketWait *)wait)->socket;
  socket->receiver = NULL;
  wait_done(wait);
  update(socket);
}

// Sending

void websocket_start_send(WebsocketWait *op, int opcode, const char *bytes,
                          size_t size) {
  Websocket *socket = op->socket;
  socket->sender = &op->wait;
  socket->message.sent = false;
  if (socket->state != WEBSOCKET_OPEN || socket->broken) {
    websocket_settle(&op->wait);
    return;
  }
  socket->message = (Outgoing){
      .bytes = (const uint8_t *)bytes,
      .size = size,
      .opcode = opcode,
      .busy = true,
  };
  websocket_push(socket);
  update(socket);
}

void websocket_close_send(Wait *wait) {
  Websocket *socket = ((WebsocketWait *)wait)->socket;
  Outgoing *message = &socket->message;
  socket->sender = NULL;
  // What is wholly in the chunk goes out from there.
  if (message->busy && (message->at > 0 || message->frame_left > 0))
    socket->broken = true;
  message->busy = false;
  message->bytes = NULL;
  wait_done(wait);
  if (socket->broken && socket->state == WEBSOCKET_CLOSING)
    websocket_end(socket);  // the Close that is due cannot be said any more
  else
    update(socket);
}

void websocket_start_ping(WebsocketWait *op) {
  Websocket *socket = op->socket;
  socket->pinger = &op->wait;
  socket->probe_took = -1;
  if (socket->state != WEBSOCKET_OPEN || socket->broken) {
    websocket_settle(&op->wait);
    return;
  }
  socket->probe++;
  socket->probe_at = timer_seconds(&socket->reactor->timers);
  socket->probe_due = true;
  websocket_push(socket);
  update(socket);
}

void websocket_close_ping(Wait *wait) {
  Websocket *socket = ((WebsocketWait *)wait)->socket;
  socket->pinger = NULL;
  wait_done(wait);
  update(socket);
}

// Closing

void websocket_start_close(WebsocketWait *op, unsigned code, const char *reason,
                           size_t size) {
  Websocket *socket = op->socket;
  socket->closer = &op->wait;
  if (socket->state == WEBSOCKET_OPEN) {
    socket->state = WEBSOCKET_CLOSING;
    socket->closed_by_us = true;
    websocket_put_close(socket, code, reason, size);
    (void)timer_start(&socket->reactor->timers, &socket->timer,
                      socket->close_timeout);
    if (socket->broken) websocket_end(socket);  // nothing can be said any more
  }
  if (socket->dial)
    move(socket);
  else
    websocket_settle(&op->wait);
}

void websocket_close_close(Wait *wait) {
  Websocket *socket = ((WebsocketWait *)wait)->socket;
  socket->closer = NULL;
  wait_done(wait);
  update(socket);
}
