// A connected byte stream on the loop: a TCP or Unix socket, or one end of a
// pipe. Bytes flow only while somebody waits for them: reading starts when a
// reader waits and stops as soon as something has come, so that at most
// STREAM_BUFFER bytes are held for a slow script, and an idle open stream
// neither costs a buffer nor keeps the loop alive.

#ifndef SBX_STREAM_H
#define SBX_STREAM_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "wait.h"

#define STREAM_TYPE "sbx.stream"
#define STREAM_BUFFER ((size_t)64 * 1024)

// Freed by the loop, in the close callback of its handle.
typedef struct Stream {
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  } uv;

  union {  // never two at a time; here since the loop may outlast the waiter
    uv_connect_t connect;
    uv_write_t write;
    uv_shutdown_t shutdown;
  } request;

  char name[64];        // for messages: "tcp 127.0.0.1:80"
  char *arrived;        // bytes nobody has read yet, else NULL
  size_t first, count;  // where they are in `arrived`
  int ending;           // what follows them: 0, UV_EOF or an error
  const char *rest;     // what the writer has still to hand over, borrowed
  size_t left;
  char *chunk;         // a copy of what the kernel has not taken yet, or NULL
  Wait *reader;        // suspended until something comes, else NULL
  Wait *writer;        // suspended in connect, write or shutdown, else NULL
  bool read_claimed;   // from the start of a read to its end in the task
  bool write_claimed;  // the same for write and shutdown
  bool broken;         // a write was not finished: its peer saw a part of it
  bool shut;           // our side has been ended
  bool one_way;        // a pipe, whose only side that was
} Stream;

typedef enum StreamKind { STREAM_TCP, STREAM_PIPE } StreamKind;

// What a task waits for on a stream. `stream` is valid until `close` was
// called.
typedef struct StreamWait {
  Wait wait;
  Stream *stream;
  size_t max;  // of a read: the most bytes to return
} StreamWait;

// Makes a stream without a descriptor in `*out`. `name` is for messages and is
// cut to fit. Returns 0 or a libuv error, with `*out` NULL.
int stream_new(Stream **out, uv_loop_t *loop, StreamKind kind,
               const char *name);

// Makes a stream of an open, connected descriptor, which it takes over: after a
// failure `fd` is closed. The descriptor becomes non-blocking.
int stream_adopt(Stream **out, uv_loop_t *loop, int fd, const char *name);

// Ends both directions; who waits gets UV_EBADF. The block is the loop's now.
void stream_close(Stream *stream);

// Each starts an operation for a StreamWait, which settles at once or later.
// `bytes` must stay valid until then.
void stream_start_read(StreamWait *op);
void stream_start_write(StreamWait *op, const char *bytes, size_t size);
void stream_start_shutdown(StreamWait *op);

// The `close` step of those waits. A cancelled read loses nothing. A cancelled
// write leaves the stream broken for writing.
void stream_close_read(Wait *wait);
void stream_close_write(Wait *wait);

// Lends up to `max` of the bytes that have arrived and takes them off the
// stream; valid until stream_release, which must follow.
size_t stream_take(Stream *stream, size_t max, const char **bytes);
void stream_release(Stream *stream);

// Pushes a Stream userdata in its closed state, *slot == NULL. What is put
// there belongs to the userdata.
Stream **stream_push(lua_State *L);

#endif
