#include "websocket_frame.h"

#include <stdlib.h>
#include <string.h>

#include "json_text.h"

// Writing

size_t frame_write_head(uint8_t out[FRAME_HEAD_MOST], int opcode, bool last,
                        uint64_t size, const uint8_t mask[4]) {
  size_t used = 0;
  int length_bytes = size <= 125 ? 0 : size <= 0xFFFF ? 2 : 8;
  uint64_t word = length_bytes == 0 ? size : length_bytes == 2 ? 126 : 127;
  out[used++] = (uint8_t)((last ? 0x80 : 0) | opcode);
  out[used++] = (uint8_t)(0x80 | word);
  for (int i = length_bytes - 1; i >= 0; i--)
    out[used++] = (uint8_t)(size >> (8 * i));
  memcpy(out + used, mask, 4);
  return used + 4;
}

void frame_mask(uint8_t *out, const uint8_t *bytes, size_t size,
                const uint8_t mask[4], uint64_t offset) {
  uint8_t turned[8];
  for (size_t i = 0; i < sizeof(turned); i++)
    turned[i] = mask[(offset + i) % 4];
  uint64_t key, word;
  memcpy(&key, turned, sizeof(key));
  size_t i = 0;
  for (; size - i >= sizeof(word); i += sizeof(word)) {
    memcpy(&word, bytes + i, sizeof(word));
    word ^= key;
    memcpy(out + i, &word, sizeof(word));
  }
  for (; i < size; i++)
    out[i] = bytes[i] ^ turned[i % 4];
}

bool frame_valid_close(unsigned code) {
  if (code >= 3000) return code <= 4999;
  return code >= 1000 && code <= 1014 && code != 1004 &&
         code != CLOSE_NO_CODE && code != CLOSE_ABNORMAL;
}

// Reading

static int breach(FrameParser *parser, int code, const char *problem) {
  parser->close_code = code;
  parser->problem = problem;
  return -1;
}

static size_t head_needed(const FrameParser *parser) {
  if (parser->head_size < 2) return 2;
  uint8_t length = parser->head[1] & 0x7F;
  return length == 126 ? 4 : length == 127 ? 10 : 2;
}

// The length of the payload, or UINT64_MAX where it is not written shortly.
static uint64_t payload_length(const FrameParser *parser) {
  const uint8_t *head = parser->head;
  uint64_t length = head[1] & 0x7F;
  size_t size = head_needed(parser);
  if (size == 2) return length;
  length = 0;
  for (size_t i = 2; i < size; i++)
    length = length << 8 | head[i];
  return length <= (size == 4 ? 125 : 0xFFFF) || length >> 63 ? UINT64_MAX
                                                              : length;
}

static int check_control(FrameParser *parser, bool last, uint64_t length) {
  if (!last) return breach(parser, CLOSE_PROTOCOL, "a control frame in parts");
  if (length > CONTROL_MOST)
    return breach(parser, CLOSE_PROTOCOL, "a control frame that is too long");
  parser->control_size = 0;
  return 0;
}

static int check_data(FrameParser *parser, int opcode, uint64_t length) {
  if (opcode == FRAME_CONTINUATION && parser->message == 0)
    return breach(parser, CLOSE_PROTOCOL, "a continuation of no message");
  if (opcode != FRAME_CONTINUATION && parser->message != 0)
    return breach(parser, CLOSE_PROTOCOL, "a message inside another");
  if (length > parser->max_message - parser->size)
    return breach(parser, CLOSE_TOO_BIG, "a message larger than max_message");
  if (opcode != FRAME_CONTINUATION) parser->message = opcode;
  return 0;
}

// The head is complete: refuses all that no payload could make good.
static int open_frame(FrameParser *parser) {
  const uint8_t *head = parser->head;
  int opcode = head[0] & 0x0F;
  uint64_t length = payload_length(parser);
  if (head[0] & 0x70)
    return breach(parser, CLOSE_PROTOCOL, "a frame with reserved bits");
  if (head[1] & 0x80)
    return breach(parser, CLOSE_PROTOCOL, "a masked frame from a server");
  if (length == UINT64_MAX)
    return breach(parser, CLOSE_PROTOCOL, "a frame with a malformed length");
  parser->in_payload = true;
  parser->left = length;
  switch (opcode) {
  case FRAME_CLOSE:
  case FRAME_PING:
  case FRAME_PONG:
    return check_control(parser, head[0] & 0x80, length);
  case FRAME_CONTINUATION:
  case FRAME_TEXT:
  case FRAME_BINARY:
    return check_data(parser, opcode, length);
  default:
    return breach(parser, CLOSE_PROTOCOL, "a frame with an unknown opcode");
  }
}

// Collects bytes until `wanted` of the head are there.
static bool take_head(FrameParser *parser, const uint8_t **bytes,
                      size_t *size) {
  while (parser->head_size < head_needed(parser)) {
    if (*size == 0) return false;
    parser->head[parser->head_size++] = **bytes;
    ++*bytes;
    --*size;
  }
  return true;
}

static int append(FrameParser *parser, const uint8_t *bytes, size_t size) {
  if (size > parser->capacity - parser->size) {
    size_t capacity = parser->capacity * 2;
    if (capacity < parser->size + size) capacity = parser->size + size;
    if (capacity > parser->max_message) capacity = (size_t)parser->max_message;
    uint8_t *grown = realloc(parser->data, capacity);
    if (!grown) return breach(parser, 0, "no memory for a message");
    parser->data = grown;
    parser->capacity = capacity;
  }
  memcpy(parser->data + parser->size, bytes, size);
  parser->size += size;
  return 0;
}

static int take_payload(FrameParser *parser, const uint8_t **bytes,
                        size_t *size) {
  size_t count = *size < parser->left ? *size : (size_t)parser->left;
  if (count == 0) return 0;
  if (parser->head[0] & 0x08) {
    memcpy(parser->control + parser->control_size, *bytes, count);
    parser->control_size += count;
  } else if (append(parser, *bytes, count) != 0) {
    return -1;
  }
  *bytes += count;
  *size -= count;
  parser->left -= count;
  return 0;
}

static int finish_close(FrameParser *parser) {
  if (parser->control_size == 0) return 1;
  if (parser->control_size == 1)
    return breach(parser, CLOSE_PROTOCOL, "a Close frame with half a code");
  unsigned code = (unsigned)parser->control[0] << 8 | parser->control[1];
  if (!frame_valid_close(code))
    return breach(parser, CLOSE_PROTOCOL, "a Close frame with a wrong code");
  if (json_bad_utf8((const char *)parser->control + 2,
                    parser->control_size - 2))
    return breach(parser, CLOSE_BAD_TEXT, "a Close frame that is not UTF-8");
  return 1;
}

static int finish_message(FrameParser *parser, FrameEvent *event) {
  if (parser->message == FRAME_TEXT && parser->size > 0 &&
      json_bad_utf8((const char *)parser->data, parser->size))
    return breach(parser, CLOSE_BAD_TEXT, "a text that is not UTF-8");
  *event = (FrameEvent){parser->message, parser->data, parser->size};
  parser->data = NULL;
  parser->size = parser->capacity = 0;
  parser->message = 0;
  return 1;
}

// The frame is complete. Returns as frame_parse does; 0: a message goes on.
static int close_frame(FrameParser *parser, FrameEvent *event) {
  int opcode = parser->head[0] & 0x0F;
  bool last = parser->head[0] & 0x80;
  parser->head_size = 0;
  parser->in_payload = false;
  if (opcode & 0x08) {
    *event = (FrameEvent){opcode, parser->control, parser->control_size};
    return opcode == FRAME_CLOSE ? finish_close(parser) : 1;
  }
  return last ? finish_message(parser, event) : 0;
}

int frame_parse(FrameParser *parser, const uint8_t **bytes, size_t *size,
                FrameEvent *event) {
  for (;;) {
    if (!parser->in_payload) {
      if (!take_head(parser, bytes, size)) return 0;
      if (open_frame(parser) != 0) return -1;
    }
    if (take_payload(parser, bytes, size) != 0) return -1;
    if (parser->left > 0) return 0;
    int got = close_frame(parser, event);
    if (got != 0) return got;
  }
}

void frame_parser_free(FrameParser *parser) {
  free(parser->data);
  parser->data = NULL;
  parser->size = parser->capacity = 0;
}
