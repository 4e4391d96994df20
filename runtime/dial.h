// A raw connection that libcurl has made: TLS and proxies are behind it, and
// the bytes are the owner's. Bytes flow only while somebody waits for them, as
// with a stream. No Lua values.

#ifndef SBX_DIAL_H
#define SBX_DIAL_H

#include <stdbool.h>
#include <stddef.h>

#include "transfer.h"
#include "wait.h"

#define DIAL_TYPE "sbx.dial"
#define DIAL_BUFFER ((size_t)64 * 1024)

typedef struct Dial {
  Transfer transfer;    // first, so that a Transfer * is a Dial *
  char *arrived;        // bytes nobody has read yet, else NULL
  size_t first, count;  // where they are in `arrived`
  const char *rest;     // what the writer has still to hand over, borrowed
  size_t left;
  char *chunk;  // a copy of what libcurl is to take next, or NULL; stays put
  size_t chunk_at, chunk_left;
  Wait *opener, *reader, *writer;  // suspended, else NULL
  bool ended;                      // the peer sends no more
  bool read_claimed;               // from the start of a read to its end
  bool write_claimed;              // the same for a write
  bool broken;  // a write was not finished: its peer saw a part of it
  void *owner;  // who has taken it over, and set transfer.on_ready
} Dial;

// What a task waits for on a dial. `dial` is valid until `close` was called.
typedef struct DialWait {
  Wait wait;
  Dial *dial;
  size_t max;  // of a read: the most bytes to return
} DialWait;

// Makes a dial whose transfer is to be filled in. NULL without memory.
Dial *dial_new(void);

// Closes the connection and frees the block; who waits gets UV_EBADF.
void dial_free(Dial *dial);

// Each starts an operation, which settles at once or later. An attempt to open
// settles with 0 also when it failed: see transfer.failure. `bytes` must stay
// valid until the write has settled.
void dial_start_open(DialWait *op, Reactor *reactor);
void dial_start_read(DialWait *op);
void dial_start_write(DialWait *op, const char *bytes, size_t size);

// The `close` step of those waits. A cancelled read loses nothing. A cancelled
// write leaves the dial broken for writing.
void dial_close_open(Wait *wait);
void dial_close_read(Wait *wait);
void dial_close_write(Wait *wait);

// Lends up to `max` of the bytes that have arrived and takes them off the dial;
// valid until dial_release, which must follow.
size_t dial_take(Dial *dial, size_t max, const char **bytes);
void dial_release(Dial *dial);

#endif
