// Watches the descriptors of slow files without making them non-blocking.

#define _GNU_SOURCE
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "slow_file.h"

enum { BATCH = 32 };

static void settle_ready(SlowFile *file, unsigned ready) {
  if (file->reader && (ready & ~(unsigned)EPOLLOUT))
    (void)wait_settle(&file->reader->wait, 0);
  // The last to use the file: without a holder it ends with its backlog.
  if (file->out_count > 0 && (ready & ~(unsigned)EPOLLIN))
    (void)slow_file_push(file);
  else
    slow_file_watch(file);
}

static void on_ready(uv_poll_t *poll, int status, int events) {
  SlowFiles *all = poll->data;
  struct epoll_event ready[BATCH];
  int count = epoll_wait(all->epoll, ready, BATCH, 0);
  for (int i = 0; i < count; i++)
    settle_ready(ready[i].data.ptr, ready[i].events);
}

int slow_files_open(SlowFiles *all, uv_loop_t *loop,
                    const volatile sig_atomic_t *stop) {
  all->stop = stop;
  all->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (all->epoll < 0) return -errno;
  int status = uv_poll_init(loop, &all->poll, all->epoll);
  if (status != 0) {
    (void)close(all->epoll);
    return status;
  }
  all->poll.data = all;
  uv_unref((uv_handle_t *)&all->poll);
  return uv_poll_start(&all->poll, UV_READABLE, on_ready);
}

void slow_files_close(SlowFiles *all) {
  while (all->first) {
    SlowFile *file = all->first;
    if (file->is_output && file->out_count > 0)
      all->output_error = UV_ETIMEDOUT;
    slow_file_end(file);
  }
  uv_close((uv_handle_t *)&all->poll, NULL);
  (void)close(all->epoll);
}

bool slow_files_can_watch(SlowFiles *all, int fd) {
  struct epoll_event event = {0};
  if (epoll_ctl(all->epoll, EPOLL_CTL_ADD, fd, &event) != 0) return false;
  (void)epoll_ctl(all->epoll, EPOLL_CTL_DEL, fd, &event);
  return true;
}

void slow_file_watch(SlowFile *file) {
  SlowFiles *all = file->all;
  unsigned wanted = 0;
  if (file->reader) wanted |= EPOLLIN;
  if (file->out_count > 0) wanted |= EPOLLOUT;
  if (wanted == file->events) return;
  struct epoll_event event = {.events = wanted, .data = {.ptr = file}};
  // Without any interest it has to go: hang-ups are told all the same.
  int change = !wanted        ? EPOLL_CTL_DEL
               : file->events ? EPOLL_CTL_MOD
                              : EPOLL_CTL_ADD;
  (void)epoll_ctl(all->epoll, change, file->fd, &event);
  file->events = wanted;
}

void slow_files_hold(SlowFiles *all) {
  if (all->waits++ == 0) uv_ref((uv_handle_t *)&all->poll);
}

void slow_files_release(SlowFiles *all) {
  if (--all->waits == 0) uv_unref((uv_handle_t *)&all->poll);
}
