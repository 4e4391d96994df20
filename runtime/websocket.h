// A WebSocket connection (RFC 6455), from the moment that the server has agreed
// to one. It answers pings and notices the end by itself, whether or not a task
// waits: bytes are read ahead, up to WEBSOCKET_AHEAD behind the first message
// that nobody has taken. No Lua values.

#ifndef SBX_WEBSOCKET_H
#define SBX_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dial.h"
#include "reactor.h"
#include "timer.h"
#include "wait.h"
#include "websocket_frame.h"

#define WEBSOCKET_AHEAD ((size_t)256 * 1024)
// Bytes moved at a stretch before other tasks get their turn.
#define WEBSOCKET_BURST ((size_t)1024 * 1024)

// A message that has come in whole.
typedef struct Message {
  struct Message *next;
  int opcode;     // FRAME_TEXT or FRAME_BINARY
  uint8_t *data;  // NULL when empty
  size_t size;
} Message;

// The message that is going out.
typedef struct Outgoing {
  const uint8_t *bytes;  // borrowed from the sender
  size_t size, at;       // of it all; what has been copied to the chunk
  size_t frame_left;     // of the frame that is being copied
  int opcode;
  uint8_t mask[4];    // of that frame
  uint64_t frame_at;  // where in it
  bool busy;          // some of it, be it an empty frame, is to be copied
  bool sent;          // libcurl has taken all of it
} Outgoing;

typedef enum WebsocketState {
  WEBSOCKET_OPEN,
  WEBSOCKET_CLOSING,  // one side has said Close
  WEBSOCKET_ENDED,    // the connection is gone
} WebsocketState;

typedef struct Websocket {
  Timer timer;   // the next ping; later, the end of the patience with closing
  Timer resume;  // goes on reading after other tasks have had their turn
  Reactor *reactor;
  Dial *dial;  // NULL once ended
  char *label;
  WebsocketState state;
  double ping_interval;  // seconds; 0: none
  double close_timeout;  // seconds

  // In.
  FrameParser parser;
  Message *first, *last;
  size_t held;        // bytes of the messages in the list, and their cost
  bool heard;         // a sign of life since the last automatic ping
  bool expects_pong;  // such a ping has been sent
  bool closed_by_us;  // we were first; what still comes is thrown away
  bool close_received;
  int close_code;  // of the peer's Close, or CLOSE_ABNORMAL
  char close_reason[CONTROL_MOST];
  size_t close_reason_size;

  // Out.
  uint8_t *chunk;  // what libcurl is to take next; stays put, see transfer_send
  size_t chunk_at, chunk_left;
  Outgoing message;
  uint8_t pong[CONTROL_MOST], close[CONTROL_MOST];
  size_t pong_size, close_size;
  bool pong_due, ping_due, probe_due, close_due;
  bool close_sent;  // in the chunk, perhaps still there
  bool broken;      // a message was cut short: the peer waits for its rest
  uint64_t probe;   // number of the last ping that a task waits for
  double probe_at;  // when it was sent, and how long its pong took
  double probe_took;

  Wait *receiver, *sender, *pinger, *closer;  // suspended, else NULL
  Failure failure;  // why it ended, unless by a Close; kind NULL: it did not
} Websocket;

// What a task waits for on a WebSocket.
typedef struct WebsocketWait {
  Wait wait;
  Websocket *socket;
} WebsocketWait;

// Takes over an open dial of which nothing is waited for. `label` is copied.
// NULL without memory: the dial is still the caller's.
Websocket *websocket_new(Reactor *reactor, Dial *dial, const char *label,
                         uint64_t max_message);

// Begins: reads `bytes`, which followed the server's answer, and pings every
// ping_interval from now on.
void websocket_start(Websocket *socket, const char *bytes, size_t size);

// Ends the connection at once, with a Close frame where one can be sent without
// waiting. Harmless when it has ended.
void websocket_drop(Websocket *socket);

// The same, and frees the block.
void websocket_free(Websocket *socket);

// Each starts an operation, which settles with 0 once there is something to
// tell: `failure`, the state and the fields say what. `bytes` must stay valid
// until the sending has settled.
void websocket_start_receive(WebsocketWait *op);
void websocket_start_send(WebsocketWait *op, int opcode, const char *bytes,
                          size_t size);
void websocket_start_ping(WebsocketWait *op);

// Says Close, unless that has been done. Settles when the connection has ended.
void websocket_start_close(WebsocketWait *op, unsigned code, const char *reason,
                           size_t size);

// The `close` step of those waits. A cancelled receive loses nothing. Of a
// cancelled message nothing is sent, or all of it; where neither is possible
// any more the WebSocket is broken for sending.
void websocket_close_receive(Wait *wait);
void websocket_close_send(Wait *wait);
void websocket_close_ping(Wait *wait);
void websocket_close_close(Wait *wait);

// Takes the first message off the list, which becomes the caller's, or NULL.
Message *websocket_take(Websocket *socket);
void message_free(Message *message);

#endif
