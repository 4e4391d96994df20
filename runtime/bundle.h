// A program that `sbxlua bundle` made is a copy of this binary with a script
// behind its end. Where that begins stands in a mark inside the binary, so that
// a plain start reads no file to learn that there is none.

#ifndef SBX_BUNDLE_H
#define SBX_BUNDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// All numbers are little endian; in a plain binary all but `magic` is zero.
typedef struct BundleMark {
  uint8_t magic[16];
  uint8_t offset[8];   // where the payload begins in the file
  uint8_t size[8];     // of the payload
  uint8_t digest[32];  // SHA-256 of the payload
} BundleMark;

// The mark of the running program.
void bundle_mark(BundleMark *mark);

// Whether a script goes along that this run is to run. The environment says no
// with SBXLUA_BUNDLE=ignore: then the program is sbxlua itself.
bool bundle_is_here(void);

// Reads the payload into a new block, which the caller frees. Returns 0, or a
// negative errno; -EBADMSG where the file does not hold what the mark says.
int bundle_read(char **bytes, size_t *size);

#endif
