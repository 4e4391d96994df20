// One descriptor of a child process, and our end of it.

#ifndef SBX_CHILD_FD_H
#define SBX_CHILD_FD_H

#include <stddef.h>
#include <uv.h>

#include "stream.h"

typedef enum ChildFdKind {
  FD_PIPE,     // the child reads number 0 and writes all others
  FD_SOCKET,   // one end of a socket pair
  FD_NULL,     // /dev/null
  FD_INHERIT,  // one of ours
  FD_BYTES,    // a sealed file in memory
} ChildFdKind;

typedef struct ChildFd {
  int number;  // in the child
  ChildFdKind kind;
  int from;          // our descriptor, for FD_INHERIT
  const char *data;  // for FD_BYTES, borrowed
  size_t size;
  Stream **slot;  // where our end goes, for FD_PIPE and FD_SOCKET
  int opened;     // the child's end, for the caller to close; else -1
} ChildFd;

// Opens the child's end into `opened`, and ours into `*slot`. `program` is for
// messages. Returns 0 or a libuv error; what is open then stays open.
int child_fd_open(uv_loop_t *loop, ChildFd *fd, const char *program);

#endif
