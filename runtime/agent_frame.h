// Cuts the byte stream from the server into frames and reads their fields.
// Knows nothing of the rest of the agent, so that a fuzzer can link it alone.

#ifndef SBX_AGENT_FRAME_H
#define SBX_AGENT_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Frame {
  uint8_t type;
  uint32_t id;
  const uint8_t *payload;  // valid until the reader is fed again
  size_t size;             // of the payload
} Frame;

// Bytes that have arrived and are not used yet. All zero is the empty reader.
typedef struct FrameReader {
  uint8_t *bytes;
  size_t start, end, capacity;
} FrameReader;

// Where to put up to `*room` (at least 1) newly arrived bytes, or NULL when
// memory has run out. Tell frame_fed how many there were.
uint8_t *frame_space(FrameReader *reader, size_t *room);
void frame_fed(FrameReader *reader, size_t count);

// The next whole frame: 1 and the frame, 0 when more bytes are needed, or -1
// when the stream is not made of frames.
int frame_next(FrameReader *reader, Frame *frame);

void frame_reader_free(FrameReader *reader);

// Walks through a payload. A field that is not there sets `bad` and reads as 0
// or ""; so a parser looks at `bad` once, at its end.
typedef struct Cursor {
  const uint8_t *at, *end;
  bool bad;
} Cursor;

Cursor frame_cursor(const Frame *frame);
uint8_t take_u8(Cursor *cursor);
uint16_t take_u16(Cursor *cursor);
uint32_t take_u32(Cursor *cursor);
uint64_t take_u64(Cursor *cursor);
const char *take_string(Cursor *cursor);  // lies in the payload

// True when all fields were there and nothing follows them.
bool cursor_ended(const Cursor *cursor);

typedef struct ExecRequest {
  uint32_t timeout_ms;  // 0 = none
  uint64_t max_output;  // bytes of each of the two outputs
  const char *cwd;      // "" = the agent's own
  const char *command;
  const char **entries;  // NAME=VALUE; the array is ours, free() it
  size_t entry_count;
} ExecRequest;

// Reads an EXEC payload. Returns 0, or an errno: EINVAL, E2BIG or ENOMEM.
int parse_exec(const Frame *frame, ExecRequest *request);

typedef struct StartRequest {
  uint8_t flags;  // of StartFlag
  uint16_t columns, rows;
  const char *cwd;         // "" = the agent's own
  const char **arguments;  // at least one, NULL-ended; the array is ours
  const char **entries;    // NAME=VALUE; the array is ours
  size_t entry_count;
  const char *note;  // NULL without START_HELD
} StartRequest;

// Reads a START payload; free it in any case. Returns 0, or an errno: EINVAL,
// E2BIG or ENOMEM.
int parse_start(const Frame *frame, StartRequest *request);
void start_request_free(StartRequest *request);

// Writes `value` big endian.
void put_u32(uint8_t *at, uint32_t value);
void put_u64(uint8_t *at, uint64_t value);

#endif
