// The body of a request on its way from the socket to a reader: raw bytes, or
// the parts of a form. It holds at most `window` bytes, and whoever feeds it
// stops the peer while it is full. No Lua values, no waiting.

#ifndef SBX_SERVER_UPLOAD_H
#define SBX_SERVER_UPLOAD_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct Piece Piece;

struct Piece {
  Piece *next;
  size_t length, room;   // of `bytes`
  size_t overhead;       // of a form's piece: counts as queued
  unsigned part;         // counts the form's parts from 1; 0 for raw bytes
  const char *name;      // of the part; inside this block, after the bytes
  const char *filename;  // the same; NULL when the part has none
  char bytes[];
};

typedef struct Upload {
  Piece *first, *last;
  size_t queued;                   // bytes in the pieces, and their overhead
  size_t window;                   // take no more than this ahead of the reader
  struct MHD_PostProcessor *form;  // NULL for a raw body
  unsigned part;                   // the part that is arriving
  size_t part_bytes;               // of it, until now
  bool taken;                      // a reader has had some of it
  bool whole;                      // the reader wants all of it at once
  bool ended;                      // the last byte was taken in
  bool malformed;                  // it is no form, or a broken one
} Upload;

// Prepares an empty body.
void upload_open(Upload *upload);

// Frees the pieces; safe to repeat.
void upload_drop_pieces(Upload *upload);

// Lets go of the form's parser, which points into the connection's memory: call
// it before the connection ends. A form that stops in the middle becomes
// `malformed`.
void upload_end_form(Upload *upload);

// Reads the body as a form, from its beginning. Returns 0, UV_EALREADY when a
// reader has had some of it, or UV_EINVAL when the request's content type is
// none.
int upload_start_form(Upload *upload, struct MHD_Connection *connection);

// Takes in the front of `data`, as much as the window allows, and returns how
// much that was; -1 when memory is short. A malformed form swallows the rest.
ssize_t upload_feed(Upload *upload, const char *data, size_t size);

// Whether the peer has to wait for the reader.
static inline bool upload_full(const Upload *upload) {
  return upload->queued >= upload->window;
}

// Whether a reader has something to do: bytes, the end or a failure.
static inline bool upload_ready(const Upload *upload) {
  if (upload->ended || upload->malformed) return true;
  return upload->whole ? upload_full(upload) : upload->first != NULL;
}

// What the reader wants: the next piece, or all of it, if that is no more than
// `max` bytes.
void upload_want_piece(Upload *upload);
void upload_want_whole(Upload *upload, size_t max);

// Frees the first piece: a reader has it.
void upload_shift(Upload *upload);

#endif
