// The bytes of slow files, on their way in and out.

#define _GNU_SOURCE
#include "slow_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// What fits into a pipe, a terminal or a socket that has room at all; and what
// is read at a time.
enum { SMALL_PIECE = 4096, READ_PIECE = 64 * 1024 };

SlowFile *slow_file_new(SlowFiles *all, FILE *stream, int fd, bool is_private) {
  SlowFile *file = calloc(1, sizeof(*file));
  if (!file) return NULL;
  file->all = all;
  file->stream = stream;
  file->fd = fd;
  file->is_private = is_private;
  file->holders = 1;
  int flags = fcntl(fd, F_GETFL);
  file->asks_first = flags < 0 || !(flags & O_NONBLOCK);
  file->next = all->first;
  if (file->next) file->next->previous = file;
  all->first = file;
  return file;
}

void slow_file_end(SlowFile *file) {
  file->out_count = 0;
  slow_file_watch(file);  // nothing is wanted any more
  if (file->previous)
    file->previous->next = file->next;
  else
    file->all->first = file->next;
  if (file->next) file->next->previous = file->previous;
  if (file->is_private) (void)close(file->fd);
  if (file->stream) (void)fclose(file->stream);
  free(file->in);
  free(file->out);
  free(file);
}

void slow_file_drop(SlowFile *file) {
  if (--file->holders > 0) return;
  if (file->out_count > 0)
    (void)slow_file_push(file);  // ends it, at once or later
  else
    slow_file_end(file);
}

// Asks the kernel now, because the descriptor could block.
static bool is_ready(const SlowFile *file, short events, int patience_ms) {
  struct pollfd asked = {.fd = file->fd, .events = events};
  return poll(&asked, 1, patience_ms) > 0;
}

// ---- reading

// Makes room for a piece behind the unread bytes.
static int make_room(SlowFile *file) {
  if (file->in_first > 0) {
    memmove(file->in, file->in + file->in_first, file->in_count);
    file->in_first = 0;
  }
  size_t needed = file->in_count + READ_PIECE;
  if (needed <= file->in_size) return 0;
  size_t size = file->in_size * 2 > needed ? file->in_size * 2 : needed;
  char *grown = realloc(file->in, size);
  if (!grown) return UV_ENOMEM;
  file->in = grown;
  file->in_size = size;
  return 0;
}

ssize_t slow_file_fill(SlowFile *file) {
  if (file->asks_first && !is_ready(file, POLLIN, 0)) return UV_EAGAIN;
  int status = make_room(file);
  if (status != 0) return status;
  ssize_t size = read(file->fd, file->in + file->in_count, READ_PIECE);
  if (size < 0) return errno == EINTR ? UV_EAGAIN : -errno;
  file->in_count += (size_t)size;
  return size;
}

void slow_file_take(SlowFile *file, size_t count) {
  file->in_first += count;
  file->in_count -= count;
  file->line_from = file->line_to = 0;
  if (file->in_count > 0) return;
  // An idle file holds no buffer.
  free(file->in);
  file->in = NULL;
  file->in_first = file->in_size = 0;
}

// ---- writing

int slow_file_append(SlowFile *file, const char *bytes, size_t size) {
  if (file->error) return file->error;
  if (size > file->out_size - file->out_first - file->out_count) {
    if (file->out_first > 0) {
      memmove(file->out, file->out + file->out_first, file->out_count);
      file->out_first = 0;
    }
    size_t needed = file->out_count + size;
    if (needed > file->out_size) {
      size_t wanted = file->out_size * 2 > needed ? file->out_size * 2 : needed;
      char *grown = realloc(file->out, wanted);
      if (!grown) return UV_ENOMEM;
      file->out = grown;
      file->out_size = wanted;
    }
  }
  if (size > 0)
    memcpy(file->out + file->out_first + file->out_count, bytes, size);
  file->out_count += size;
  file->appended += size;
  return 0;
}

// One piece. Returns 0, UV_EAGAIN or an error.
static int write_piece(SlowFile *file) {
  size_t size = file->out_count;
  if (file->asks_first) {
    if (!is_ready(file, POLLOUT, 0)) return UV_EAGAIN;
    if (size > SMALL_PIECE) size = SMALL_PIECE;
  }
  ssize_t taken = write(file->fd, file->out + file->out_first, size);
  if (taken < 0) return errno == EINTR ? UV_EAGAIN : -errno;
  file->out_first += (size_t)taken;
  file->out_count -= (size_t)taken;
  return 0;
}

// Wakes the writers whose bytes have gone, or all when they never will.
static void wake_writers(SlowFile *file) {
  uint64_t written = file->appended - file->out_count;
  for (SlowWait *wait = file->writers, *next; wait; wait = next) {
    next = wait->next;
    if (file->error || wait->target <= written)
      (void)wait_settle(&wait->wait, file->error);
  }
}

static int hand_over(SlowFile *file) {
  int status = 0;
  file->tried = file->appended;
  while (file->out_count > 0 && status == 0)
    status = write_piece(file);
  if (status != 0 && status != UV_EAGAIN) {
    file->error = status;
    if (file->is_output) file->all->output_error = status;
    file->out_count = 0;
  }
  if (file->out_count == 0) {
    free(file->out);
    file->out = NULL;
    file->out_first = file->out_size = 0;
  }
  wake_writers(file);
  slow_file_watch(file);
  return file->error;
}

static void end_if_done(SlowFile *file) {
  if (file->holders == 0 && file->out_count == 0) slow_file_end(file);
}

int slow_file_push(SlowFile *file) {
  int status = hand_over(file);
  end_if_done(file);
  return status;
}

int slow_file_push_all(SlowFile *file, size_t keep) {
  // A signal that comes just before the poll does not interrupt it.
  enum { LOOK_AGAIN = 200 };  // milliseconds

  int status = hand_over(file);
  while (status == 0 && file->out_count > keep && !*file->all->stop) {
    (void)is_ready(file, POLLOUT, LOOK_AGAIN);
    status = hand_over(file);
  }
  end_if_done(file);
  return status;
}

void slow_files_push(SlowFiles *all, bool patiently) {
  for (SlowFile *file = all->first, *next; file; file = next) {
    next = file->next;
    if (file->out_count == 0) continue;
    if (patiently)
      (void)slow_file_push_all(file, 0);
    else
      (void)slow_file_push(file);
  }
}
