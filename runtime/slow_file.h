// A slow file: a terminal, a pipe, a socket or a FIFO behind a Lua file handle,
// where a read or a write may take for ever. Bytes are held here between the
// script and the kernel, so that only the task that needs them waits.
//
// The standard descriptors are shared with other processes, such as the shell
// that started this one, and O_NONBLOCK would be theirs too. It is never set on
// them: the kernel is asked before each piece, and a piece is so small that it
// fits where there is room at all.

#ifndef SBX_SLOW_FILE_H
#define SBX_SLOW_FILE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <uv.h>

#include "wait.h"

typedef struct SlowFile SlowFile;
typedef struct SlowWait SlowWait;

// All of a reactor's slow files. Their descriptors are watched by an epoll
// instance of our own inside libuv's: uv_poll would make them non-blocking.
typedef struct SlowFiles {
  uv_poll_t poll;
  int epoll;
  SlowFile *first;
  size_t waits;                       // of tasks: these keep the loop alive
  const volatile sig_atomic_t *stop;  // set: block no longer
  int output_error;  // of the standard output, a libuv error or 0
} SlowFiles;

struct SlowFile {
  SlowFiles *all;
  SlowFile *previous, *next;
  FILE *stream;     // what is closed in the end, else NULL
  int fd;           // what is read and written
  unsigned events;  // what it is watched for
  int holders;      // handles of the script
  bool asks_first;  // the descriptor may block
  bool is_private;  // `fd` is ours alone, beside `stream`'s
  bool is_output;   // the standard output

  char *in;  // bytes that no read has taken yet, else NULL
  size_t in_first, in_count, in_size;
  size_t line_from, line_to;  // of the unread bytes: searched for a line's end
  SlowWait *reader;           // the task that waits for bytes
  SlowWait *turns;            // tasks that wait for their turn to read

  char *out;  // bytes that the kernel has not taken yet, else NULL
  size_t out_first, out_count, out_size;
  uint64_t appended;  // bytes ever put into `out`
  uint64_t tried;     // so many of them when the kernel was last asked
  int error;          // of a write; all later ones have it too
  SlowWait *writers;  // tasks that wait for `out` to shrink
};

// What a task waits for on a slow file. `file` is valid until it settles.
struct SlowWait {
  Wait wait;
  SlowFile *file;
  SlowWait *next;   // in `turns` or `writers`
  uint64_t target;  // of a writer: what has to be handed over
};

// Bytes that may wait in `out` before a writer has to.
enum { SLOW_BACKLOG = 64 * 1024 };

// ---- slow_poll.c

int slow_files_open(SlowFiles *all, uv_loop_t *loop,
                    const volatile sig_atomic_t *stop);

// What has not been written is lost.
void slow_files_close(SlowFiles *all);

// Whether a descriptor can be watched; a plain file, for one, cannot.
bool slow_files_can_watch(SlowFiles *all, int fd);

// Watches the file for what its waits and its backlog need.
void slow_file_watch(SlowFile *file);

// Counts a task's wait in or out.
void slow_files_hold(SlowFiles *all);
void slow_files_release(SlowFiles *all);

// ---- slow_file.c

// Makes a slow file with one holder. It owns the stream, if any, and, if
// `is_private`, the descriptor. NULL when memory is short; then both are still
// the caller's.
SlowFile *slow_file_new(SlowFiles *all, FILE *stream, int fd, bool is_private);

// Lets one holder go. The last one ends the file, but not before its backlog is
// written: that goes on in the loop.
void slow_file_drop(SlowFile *file);

// Ends the file at once.
void slow_file_end(SlowFile *file);

// Reads what there is. Returns how many bytes, 0 at the end, UV_EAGAIN, or
// another libuv error.
ssize_t slow_file_fill(SlowFile *file);

// The bytes that wait to be read, and how many were taken of them.
static inline const char *slow_file_unread(const SlowFile *file) {
  return file->in + file->in_first;
}

void slow_file_take(SlowFile *file, size_t count);

// Appends to the backlog. Returns 0 or the file's error.
int slow_file_append(SlowFile *file, const char *bytes, size_t size);

// Hands over what the kernel takes now. Returns 0 or the file's error.
int slow_file_push(SlowFile *file);

// The same, but blocks until no more than `keep` bytes are left, or a signal
// comes.
int slow_file_push_all(SlowFile *file, size_t keep);

// The same for every file; blocks only if `patiently`.
void slow_files_push(SlowFiles *all, bool patiently);

#endif
