// The frames of RFC 6455, as a client sees them: its own are masked, the
// server's are not. Plain C. No extension is spoken, so the reserved bits are
// 0.

#ifndef SBX_WEBSOCKET_FRAME_H
#define SBX_WEBSOCKET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  FRAME_CONTINUATION = 0,
  FRAME_TEXT = 1,
  FRAME_BINARY = 2,
  FRAME_CLOSE = 8,
  FRAME_PING = 9,
  FRAME_PONG = 10,

  FRAME_HEAD_MOST = 14,  // bytes before the payload
  CONTROL_MOST = 125,    // payload of the last three
};

// The status codes of a Close frame that are ours to use.
enum {
  CLOSE_NORMAL = 1000,
  CLOSE_GOING_AWAY = 1001,
  CLOSE_PROTOCOL = 1002,
  CLOSE_NO_CODE = 1005,   // never sent: the frame had none
  CLOSE_ABNORMAL = 1006,  // never sent: there was no frame
  CLOSE_BAD_TEXT = 1007,
  CLOSE_TOO_BIG = 1009,
};

// Writes the head of a masked frame to `out`; returns its size.
size_t frame_write_head(uint8_t out[FRAME_HEAD_MOST], int opcode, bool last,
                        uint64_t size, const uint8_t mask[4]);

// Copies `size` bytes of a payload, which begin at `offset` in it, masked.
void frame_mask(uint8_t *out, const uint8_t *bytes, size_t size,
                const uint8_t mask[4], uint64_t offset);

// Whether a Close frame may hold this code.
bool frame_valid_close(unsigned code);

// What came in: a whole message, or a control frame.
typedef struct FrameEvent {
  int opcode;     // FRAME_TEXT, _BINARY, _CLOSE, _PING or _PONG
  uint8_t *data;  // of a message: malloc'd, the taker frees it, NULL when
                  // empty; else lent until the next call
  size_t size;
} FrameEvent;

// Takes frames apart and puts messages together. Zeroed but for `max_message`.
typedef struct FrameParser {
  uint64_t max_message;           // bytes
  uint8_t head[FRAME_HEAD_MOST];  // of the frame that is coming in
  size_t head_size;
  uint64_t left;    // payload bytes still to come
  bool in_payload;  // the head is complete
  int message;      // opcode of the message in progress, else 0
  uint8_t *data;    // of the message
  size_t size, capacity;
  uint8_t control[CONTROL_MOST];
  size_t control_size;
  int close_code;       // of a breach: what to tell the peer
  const char *problem;  // static text, once frame_parse has returned -1
} FrameParser;

// Reads from `*bytes` and moves it on. Returns 1 with an event, 0 when all is
// read, -1 at a breach of the protocol or without memory (close_code is 0
// then); after that it must not be called again. Memory is taken for bytes that
// have come, never for those that a head promises.
int frame_parse(FrameParser *parser, const uint8_t **bytes, size_t *size,
                FrameEvent *event);

void frame_parser_free(FrameParser *parser);

#endif
