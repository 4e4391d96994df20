// Copying one file: by sharing its blocks where the file system can, else in
// the kernel, else through a buffer.

#define _GNU_SOURCE
#include "fs_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

// Bytes between two looks at `stop`.
#define KERNEL_CHUNK ((size_t)8 * 1024 * 1024)
#define BUFFER_CHUNK ((size_t)256 * 1024)

typedef struct Ends {
  int in, out;
  const atomic_bool *stop;
} Ends;

static int write_at(int fd, const char *bytes, size_t size, off_t at) {
  while (size > 0) {
    ssize_t taken = pwrite(fd, bytes, size, at);
    if (taken < 0) return -errno;
    bytes += taken;
    size -= (size_t)taken;
    at += taken;
  }
  return 0;
}

// Copies from `*at` to `end` or to the end of the file, whichever comes first,
// and leaves in `*at` how far it came.
static int copy_by_buffer(const Ends *ends, off_t *at, off_t end) {
  char *buffer = malloc(BUFFER_CHUNK);
  if (buffer == NULL) return -ENOMEM;
  int status = 0;
  while (status == 0 && *at < end) {
    if (atomic_load(ends->stop)) {
      status = -ECANCELED;
      break;
    }
    off_t left = end - *at;
    size_t size = left < (off_t)BUFFER_CHUNK ? (size_t)left : BUFFER_CHUNK;
    ssize_t count = pread(ends->in, buffer, size, *at);
    if (count < 0) status = -errno;
    if (count <= 0) break;
    status = write_at(ends->out, buffer, (size_t)count, *at);
    *at += count;
  }
  free(buffer);
  return status;
}

// The same inside the kernel, as far as that goes; what is left, and the word
// on failures, is the buffer's.
static int copy_in_kernel(const Ends *ends, off_t *at, off_t end) {
  while (*at < end) {
    if (atomic_load(ends->stop)) return -ECANCELED;
    off_t left = end - *at;
    size_t size = left < (off_t)KERNEL_CHUNK ? (size_t)left : KERNEL_CHUNK;
    off_t to = *at;
    if (copy_file_range(ends->in, at, ends->out, &to, size, 0) <= 0) break;
  }
  return 0;
}

static int copy_range(const Ends *ends, off_t *at, off_t end) {
  int status = copy_in_kernel(ends, at, end);
  return status == 0 ? copy_by_buffer(ends, at, end) : status;
}

// Copies the parts that hold data; what lies between them stays a hole.
static int copy_data(const Ends *ends, off_t size) {
  off_t at = 0;
  while (at < size) {
    off_t data = lseek(ends->in, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // a hole up to the end
    off_t hole = data < 0 ? -1 : lseek(ends->in, data, SEEK_HOLE);
    if (data < 0) data = at;
    if (hole <= data || hole > size) hole = size;
    if (data >= size) break;
    at = data;
    int status = copy_range(ends, &at, hole);
    if (status != 0) return status;
    if (at < hole) return 0;  // it became shorter meanwhile
  }
  return at < size && ftruncate(ends->out, size) != 0 ? -errno : 0;
}

static int copy_bytes(const Ends *ends, off_t size) {
  // What lives in /proc says 0 and is read to its end.
  if (size == 0) {
    off_t at = 0;
    return copy_by_buffer(ends, &at, (off_t)1 << 62);
  }
  if (ioctl(ends->out, FICLONE, ends->in) == 0) return 0;
  return copy_data(ends, size);
}

static int set_times(int fd, const struct stat *facts) {
  struct timespec times[] = {facts->st_atim, facts->st_mtim};
  return futimens(fd, times) != 0 ? -errno : 0;
}

// Gives the finished copy its name. Without `overwrite` no moment exists in
// which a file of that name could be lost.
static int put_in_place(const FsCopy *copy) {
  const char *from = copy->temporary;
  if (copy->overwrite) return rename(from, copy->to) != 0 ? -errno : 0;
  if (renameat2(AT_FDCWD, from, AT_FDCWD, copy->to, RENAME_NOREPLACE) == 0) {
    return 0;
  }
  if (errno != EINVAL && errno != ENOSYS) return -errno;
  // A file system that cannot: a second name, then the first one goes.
  if (link(from, copy->to) != 0) return -errno;
  (void)unlink(from);  // if it stays, the copy is whole all the same
  return 0;
}

// Fills the open `out` and puts it in place. `out` stays open.
static int finish_copy(const FsCopy *copy, const Ends *ends,
                       const struct stat *facts) {
  int status = copy_bytes(ends, facts->st_size);
  if (status == 0 && copy->preserve) {
    if (fchmod(ends->out, facts->st_mode & 0777) != 0) status = -errno;
    if (status == 0) status = set_times(ends->out, facts);
  }
  if (status == 0 && atomic_load(ends->stop)) status = -ECANCELED;
  return status;
}

static int copy_open(const FsCopy *copy, int in, const atomic_bool *stop) {
  struct stat facts;
  if (fstat(in, &facts) != 0) return -errno;
  if (!S_ISREG(facts.st_mode)) return -EINVAL;
  int out = open(copy->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                 facts.st_mode & 0777);
  if (out < 0) return -errno;
  const Ends ends = {in, out, stop};
  int status = finish_copy(copy, &ends, &facts);
  // A full disk may show only here.
  if (close(out) != 0 && status == 0) status = -errno;
  if (status == 0) status = put_in_place(copy);
  if (status != 0) (void)unlink(copy->temporary);
  return status;
}

int fs_copy_file(const FsCopy *copy, const atomic_bool *stop) {
  struct stat facts;
  if (!copy->overwrite && lstat(copy->to, &facts) == 0) return -EEXIST;
  int in = open(copy->from,
                O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (in < 0) return -errno;
  int status = copy_open(copy, in, stop);
  (void)close(in);
  return status;
}

int fs_copy_folder_facts(const char *from, const char *to, bool preserve) {
  struct stat facts, made;
  if (stat(from, &facts) != 0) return -errno;
  int fd = open(to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -errno;
  int status = fstat(fd, &made) != 0 ? -errno : 0;
  mode_t mode = made.st_mode & facts.st_mode & 0777;
  if (preserve) mode = facts.st_mode & 0777;
  mode |= made.st_mode & 07000;  // what it has from the folder it is in
  if (status == 0 && fchmod(fd, mode) != 0) status = -errno;
  if (status == 0 && preserve) status = set_times(fd, &facts);
  (void)close(fd);
  return status;
}
