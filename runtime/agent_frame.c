// Frames in, fields out: see agent_frame.h.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent_frame.h"
#include "agent_protocol.h"

enum { FIRST_CAPACITY = 128 * 1024 };

uint8_t *frame_space(FrameReader *reader, size_t *room) {
  if (reader->start > 0) {
    memmove(reader->bytes, reader->bytes + reader->start,
            reader->end - reader->start);
    reader->end -= reader->start;
    reader->start = 0;
  }
  if (reader->end == reader->capacity) {
    // frame_next refuses longer frames, so this ends near twice FRAME_LIMIT.
    size_t capacity = reader->capacity ? reader->capacity * 2 : FIRST_CAPACITY;
    uint8_t *bytes = realloc(reader->bytes, capacity);
    if (!bytes) return NULL;
    reader->bytes = bytes;
    reader->capacity = capacity;
  }
  *room = reader->capacity - reader->end;
  return reader->bytes + reader->end;
}

void frame_fed(FrameReader *reader, size_t count) {
  reader->end += count;
}

void frame_reader_free(FrameReader *reader) {
  free(reader->bytes);
  *reader = (FrameReader){0};
}

static uint64_t load(const uint8_t *at, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; i++)
    value = value << 8 | at[i];
  return value;
}

static void store(uint8_t *at, size_t count, uint64_t value) {
  for (size_t i = count; i > 0; i--) {
    at[i - 1] = (uint8_t)value;
    value >>= 8;
  }
}

void put_u32(uint8_t *at, uint32_t value) {
  store(at, 4, value);
}

void put_u64(uint8_t *at, uint64_t value) {
  store(at, 8, value);
}

int frame_next(FrameReader *reader, Frame *frame) {
  const uint8_t *bytes = reader->bytes + reader->start;
  size_t have = reader->end - reader->start;
  if (have < 4) return 0;

  size_t length = (size_t)load(bytes, 4);
  if (length < FRAME_HEADER - 4 || length > FRAME_LIMIT) return -1;
  if (have < 4 + length) return 0;

  frame->type = bytes[4];
  frame->id = (uint32_t)load(bytes + 5, 4);
  frame->payload = bytes + FRAME_HEADER;
  frame->size = length - (FRAME_HEADER - 4);
  reader->start += 4 + length;
  return 1;
}

Cursor frame_cursor(const Frame *frame) {
  return (Cursor){frame->payload, frame->payload + frame->size, false};
}

static uint64_t take(Cursor *cursor, size_t count) {
  if (cursor->bad || (size_t)(cursor->end - cursor->at) < count) {
    cursor->bad = true;
    return 0;
  }
  uint64_t value = load(cursor->at, count);
  cursor->at += count;
  return value;
}

uint8_t take_u8(Cursor *cursor) {
  return (uint8_t)take(cursor, 1);
}

uint16_t take_u16(Cursor *cursor) {
  return (uint16_t)take(cursor, 2);
}

uint32_t take_u32(Cursor *cursor) {
  return (uint32_t)take(cursor, 4);
}

uint64_t take_u64(Cursor *cursor) {
  return take(cursor, 8);
}

const char *take_string(Cursor *cursor) {
  size_t length = take_u32(cursor);
  const uint8_t *text = cursor->at;
  // The first NUL must be the one that ends the string.
  if (cursor->bad || (size_t)(cursor->end - text) <= length ||
      memchr(text, 0, length + 1) != text + length) {
    cursor->bad = true;
    return "";
  }
  cursor->at = text + length + 1;
  return (const char *)text;
}

bool cursor_ended(const Cursor *cursor) {
  return !cursor->bad && cursor->at == cursor->end;
}

// Reads a count and that many strings into a malloced, NULL-ended array.
// Returns 0 or an errno; the array is there for the caller to free or NULL.
static int take_strings(Cursor *cursor, size_t limit, const char ***strings,
                        size_t *count) {
  *strings = NULL;
  *count = take_u32(cursor);
  if (cursor->bad) return EINVAL;
  if (*count > limit) return E2BIG;
  *strings = calloc(*count + 1, sizeof(**strings));
  if (!*strings) return ENOMEM;
  for (size_t i = 0; i < *count && !cursor->bad; i++)
    (*strings)[i] = take_string(cursor);
  return cursor->bad ? EINVAL : 0;
}

static int take_entries(Cursor *cursor, const char ***entries, size_t *count) {
  int error = take_strings(cursor, ENVIRONMENT_LIMIT, entries, count);
  for (size_t i = 0; i < *count && !error; i++) {
    const char *equals = strchr((*entries)[i], '=');
    if (!equals || equals == (*entries)[i]) error = EINVAL;
  }
  return error;
}

int parse_exec(const Frame *frame, ExecRequest *request) {
  Cursor cursor = frame_cursor(frame);
  *request = (ExecRequest){0};
  request->timeout_ms = take_u32(&cursor);
  request->max_output = take_u64(&cursor);
  request->cwd = take_string(&cursor);
  request->command = take_string(&cursor);
  int error = take_entries(&cursor, &request->entries, &request->entry_count);
  if (!error && !cursor_ended(&cursor)) error = EINVAL;
  if (!error) return 0;
  free(request->entries);
  request->entries = NULL;
  return error;
}

int parse_start(const Frame *frame, StartRequest *request) {
  Cursor cursor = frame_cursor(frame);
  *request = (StartRequest){0};
  request->flags = take_u8(&cursor);
  request->columns = take_u16(&cursor);
  request->rows = take_u16(&cursor);
  request->cwd = take_string(&cursor);
  size_t count = 0;
  int error =
      take_strings(&cursor, ARGUMENT_LIMIT, &request->arguments, &count);
  if (!error && (count == 0 || !request->arguments[0][0])) error = EINVAL;
  if (!error)
    error = take_entries(&cursor, &request->entries, &request->entry_count);
  if (!error && request->flags & START_HELD) {
    request->note = take_string(&cursor);
    if (strlen(request->note) > NOTE_LIMIT) error = E2BIG;
  }
  uint8_t known = START_INPUT | START_TERMINAL | START_HELD;
  if (!error && !cursor_ended(&cursor)) error = EINVAL;
  if (!error && request->flags & ~known) error = EINVAL;
  return error;
}

void start_request_free(StartRequest *request) {
  free(request->arguments);
  free(request->entries);
  request->arguments = request->entries = NULL;
}
