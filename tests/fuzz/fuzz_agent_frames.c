// libFuzzer over the agent's frame parser: any bytes, cut at any places, must
// give frames within bounds and fields within frames.
//
// clang -g -fsanitize=fuzzer,address,undefined -Iruntime \
//   tests/fuzz/fuzz_agent_frames.c runtime/agent_frame.c

#include <stdlib.h>
#include <string.h>

#include "agent_frame.h"
#include "agent_protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Reads every byte, so that the sanitizer sees where they lie.
static void touch(const char *text) {
  volatile size_t length = strlen(text);
  (void)length;
}

static void parse_program(const Frame *frame) {
  StartRequest request;
  if (parse_start(frame, &request) == 0) {
    touch(request.cwd);
    if (!request.arguments[0] || !request.arguments[0][0]) abort();
    for (size_t i = 0; request.arguments[i]; i++)
      touch(request.arguments[i]);
    for (size_t i = 0; i < request.entry_count; i++) {
      touch(request.entries[i]);
      if (!strchr(request.entries[i], '=')) abort();
    }
  }
  start_request_free(&request);
}

static void parse(const Frame *frame) {
  ExecRequest request;
  if (frame->size > FRAME_LIMIT) abort();
  parse_program(frame);
  if (parse_exec(frame, &request) == 0) {
    touch(request.cwd);
    touch(request.command);
    for (size_t i = 0; i < request.entry_count; i++) {
      touch(request.entries[i]);
      if (!strchr(request.entries[i], '=')) abort();
    }
  }
  free(request.entries);

  Cursor cursor = frame_cursor(frame);
  while (!cursor.bad && !cursor_ended(&cursor)) {
    touch(take_string(&cursor));
    take_u16(&cursor);
    take_u64(&cursor);
  }
}

// The first byte says into which portions the rest is cut.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  FrameReader reader = {0};
  size_t portion = (size_t)data[0] + 1;
  int got = 0;
  for (size_t at = 1; at < size && got >= 0;) {
    size_t room;
    uint8_t *space = frame_space(&reader, &room);
    if (!space || room == 0) abort();
    size_t count = size - at < portion ? size - at : portion;
    if (count > room) count = room;
    memcpy(space, data + at, count);
    frame_fed(&reader, count);
    at += count;
    Frame frame;
    while ((got = frame_next(&reader, &frame)) > 0)
      parse(&frame);
  }
  frame_reader_free(&reader);
  return 0;
}
