// libFuzzer over request targets: the spans lie inside the target, pairs use it
// up, and decoding never grows.
//
// clang -g -fsanitize=fuzzer,address,undefined -Iruntime \
//   tests/fuzz/fuzz_server_uri.c runtime/server_uri.c

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server_uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Decodes into a block of exactly the room that was promised to suffice.
static void decode(UriSpan from, bool plus) {
  char *out = malloc(from.length + 1);
  if (out == NULL) return;
  if (uri_decode(out, from, plus) > from.length) abort();
  free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *target = malloc(size + 1);
  if (target == NULL) return 0;
  if (size > 0) memcpy(target, data, size);
  target[size] = '\0';

  UriSpan path, query, name, value;
  uri_split(target, &path, &query);
  if (path.length == 0) abort();
  decode(path, false);
  size_t used = 0, all = query.length;
  while (uri_next_pair(&query, &name, &value)) {
    used += name.length + value.length;
    decode(name, true);
    decode(value, true);
  }
  if (used > all || query.length != 0) abort();
  free(target);
  return 0;
}
