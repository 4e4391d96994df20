#define _GNU_SOURCE  // memfd_create and its seals
#include "child_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

// A file in memory that holds the bytes, can no longer change, and is read from
// the start. Returns the descriptor or a negated errno.
static int open_bytes(const ChildFd *fd) {
  int file = memfd_create("sbxlua", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return -errno;
  size_t done = 0;
  while (done < fd->size) {
    ssize_t size = write(file, fd->data + done, fd->size - done);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) break;
    done += (size_t)size;
  }
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
  if (done < fd->size || fcntl(file, F_ADD_SEALS, seals) != 0 ||
      lseek(file, 0, SEEK_SET) != 0) {
    int status = -errno;
    (void)close(file);
    return status;
  }
  return file;
}

// A socket that listens at a path which must not exist, for this user alone.
// Returns the descriptor or a negated errno.
static int open_listener(const ChildFd *fd) {
  enum { BACKLOG = 16, OWNER_ONLY = 0600 };

  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (fd->size >= sizeof(address.sun_path)) return -ENAMETOOLONG;
  memcpy(address.sun_path, fd->data, fd->size);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return -errno;
  // The path takes its mode from the socket, so that it never has another.
  bool bound =
      fchmod(listener, OWNER_ONLY) == 0 &&
      bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0;
  if (bound && listen(listener, BACKLOG) == 0) return listener;
  int status = -errno;
  (void)close(listener);
  if (bound) (void)unlink(fd->data);
  return status;
}

// Opens the two ends of a pipe or a socket pair; ours becomes a Stream.
static int open_pair(uv_loop_t *loop, ChildFd *fd, const char *program) {
  static const char *const names[] = {"stdin", "stdout", "stderr"};
  const int ours = UV_NONBLOCK_PIPE;
  int ends[2];  // ours, the child's
  int status;
  if (fd->kind == FD_SOCKET) {
    status = uv_socketpair(SOCK_STREAM, 0, ends, ours, 0);
  } else if (fd->number == 0) {
    int pipe[2];  // reading end, writing end
    status = uv_pipe(pipe, 0, ours);
    ends[0] = pipe[1];
    ends[1] = pipe[0];
  } else {
    status = uv_pipe(ends, ours, 0);
  }
  if (status != 0) return status;
  fd->opened = ends[1];
  char name[sizeof((*fd->slot)->name)];
  if (fd->number <= 2) {
    (void)snprintf(name, sizeof(name), "%s of %s", names[fd->number], program);
  } else {
    (void)snprintf(name, sizeof(name), "fd %d of %s", fd->number, program);
  }
  return stream_adopt(fd->slot, loop, ends[0], name);
}

int child_fd_open(uv_loop_t *loop, ChildFd *fd, const char *program) {
  fd->opened = -1;
  switch (fd->kind) {
  case FD_PIPE:
  case FD_SOCKET:
    return open_pair(loop, fd, program);
  case FD_NULL:
    fd->opened = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fd->opened < 0 ? -errno : 0;
  case FD_BYTES:
    fd->opened = open_bytes(fd);
    return fd->opened < 0 ? fd->opened : 0;
  case FD_LISTEN:
    fd->opened = open_listener(fd);
    return fd->opened < 0 ? fd->opened : 0;
  case FD_INHERIT:
    break;
  }
  return 0;
}

void child_fd_close(ChildFd *fd, bool keep) {
  if (fd->opened < 0) return;
  (void)close(fd->opened);
  fd->opened = -1;
  if (fd->kind == FD_LISTEN && !keep) (void)unlink(fd->data);
}
