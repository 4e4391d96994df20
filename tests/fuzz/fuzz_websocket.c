// libFuzzer over the frames of a WebSocket server: any bytes, cut at any
// places, must give messages within bounds, or a breach; and what is written is
// read back the same, but for the mask.
//
// clang -g -fsanitize=fuzzer,address,undefined -Iruntime \
//   tests/fuzz/fuzz_websocket.c runtime/websocket_frame.c runtime/json_check.c

#include <stdlib.h>
#include <string.h>

#include "websocket_frame.h"

enum { MAX_MESSAGE = 1000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(FrameEvent *event) {
  // Reads every byte, so that the sanitizer sees where they lie.
  unsigned sum = 0;
  for (size_t i = 0; i < event->size; i++)
    sum += event->data[i];
  volatile unsigned seen = sum;
  (void)seen;
  bool message = event->opcode == FRAME_TEXT || event->opcode == FRAME_BINARY;
  if (event->size > (message ? MAX_MESSAGE : CONTROL_MOST)) abort();
  if (event->opcode == FRAME_CLOSE && event->size == 1) abort();
  if (message) free(event->data);
}

// The first byte says into which portions the rest is cut.
static void parse(const uint8_t *data, size_t size) {
  FrameParser parser = {.max_message = MAX_MESSAGE};
  size_t portion = (size_t)data[0] + 1;
  int got = 0;
  for (size_t at = 1; at < size && got >= 0;) {
    size_t count = size - at < portion ? size - at : portion;
    // A copy of just this size, so that reading past it shows.
    uint8_t *copy = malloc(count);
    if (!copy) break;
    memcpy(copy, data + at, count);
    at += count;
    const uint8_t *bytes = copy;
    FrameEvent event;
    while ((got = frame_parse(&parser, &bytes, &count, &event)) > 0)
      take(&event);
    if (got == 0 && count != 0) abort();
    if (got < 0 && !parser.problem) abort();
    if (parser.size > parser.capacity || parser.capacity > MAX_MESSAGE) abort();
    free(copy);
  }
  frame_parser_free(&parser);
}

// Writes a frame in two portions, unmasks it and reads it back.
static void round_trip(const uint8_t *data, size_t size) {
  uint8_t mask[4] = {1, 0x82, 3, data[0]}, head[FRAME_HEAD_MOST];
  if (size > MAX_MESSAGE) size = MAX_MESSAGE;
  size_t head_size = frame_write_head(head, FRAME_BINARY, true, size, mask);
  uint8_t *frame = malloc(head_size - 4 + size);
  if (!frame) return;
  head[1] &= 0x7F;
  memcpy(frame, head, head_size - 4);
  uint8_t *payload = frame + head_size - 4;
  size_t cut = data[0] % (size + 1);
  frame_mask(payload, data, cut, mask, 0);
  frame_mask(payload + cut, data + cut, size - cut, mask, cut);
  frame_mask(payload, payload, size, mask, 0);

  FrameParser parser = {.max_message = MAX_MESSAGE};
  FrameEvent event;
  const uint8_t *bytes = frame;
  size_t left = head_size - 4 + size;
  if (frame_parse(&parser, &bytes, &left, &event) != 1 || left != 0) abort();
  if (event.opcode != FRAME_BINARY || event.size != size) abort();
  if (size > 0 && memcmp(event.data, data, size) != 0) abort();
  free(event.data);
  free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  parse(data, size);
  round_trip(data, size);
  return 0;
}
