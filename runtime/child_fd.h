// One descriptor of a child process, and our end of it.

#ifndef SBX_CHILD_FD_H
#define SBX_CHILD_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "stream.h"

typedef enum ChildFdKind {
  FD_PIPE,     // the child reads number 0 and writes all others
  FD_SOCKET,   // one end of a socket pair
  FD_NULL,     // /dev/null
  FD_INHERIT,  // one of ours
  FD_BYTES,    // a sealed file in memory
  FD_LISTEN,   // a listening Unix socket
} ChildFdKind;

typedef struct ChildFd {
  int number;  // in the child
  ChildFdKind kind;
  int from;          // our descriptor, for FD_INHERIT
  const char *data;  // for FD_BYTES, borrowed; for FD_LISTEN, the path
  size_t size;
  Stream **slot;  // where our end goes, for FD_PIPE and FD_SOCKET
  int opened;     // the child's end, for the caller to close; else -1
} ChildFd;

// Opens the child's end into `opened`, and ours into `*slot`. `program` is for
// messages. Returns 0 or a libuv error; what is open then stays open.
int child_fd_open(uv_loop_t *loop, ChildFd *fd, const char *program);

// Closes the child's end, here. When there will be no child that `keep`s it,
// what was made for it goes too: the path of a listening socket.
void child_fd_close(ChildFd *fd, bool keep);

#endif
