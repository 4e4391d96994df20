// Files in and out. Only regular files, so that no FIFO or device can hold the
// loop up; an upload appears whole, under its name, or not at all.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent.h"

// File systems whose files are made up as they are read and have no size; at
// most so much is read of one.
enum {
  PROC_FILES = 0x9fa0,
  SYS_FILES = 0x62656572,
  CGROUP_FILES = 0x27e0eb,
  CGROUP2_FILES = 0x63677270,
  MADE_UP = 16 * 1024 * 1024
};

typedef struct Put {
  Channel channel;
  int fd;
  mode_t mode;
  uint64_t size;
  size_t made_from;  // bytes of `target` whose directories were there before
  char target[PATH_MAX];
  char temporary[PATH_MAX + 32];  // beside the target; "" once renamed
} Put;

typedef struct Get {
  Channel channel;
  int fd;
  uint64_t at, end;  // offsets in the file
  uint64_t sent;
} Get;

static int regular(const struct stat *info) {
  if (S_ISDIR(info->st_mode)) return EISDIR;
  return S_ISREG(info->st_mode) ? 0 : EINVAL;
}

// Finds where an upload goes: through links when they lead to a file, so that
// the link stays. Sets the mode when there is a file already.
static int resolve_target(const char *path, Put *put) {
  size_t length = strlen(path);
  struct stat info;
  if (length == 0) return ENOENT;
  if (length >= sizeof(put->target)) return ENAMETOOLONG;
  if (path[length - 1] == '/') return EISDIR;
  if (!realpath(path, put->target)) {
    if (errno != ENOENT) return errno;
    memcpy(put->target, path, length + 1);
    return 0;
  }
  if (stat(put->target, &info) != 0) return errno;
  if (put->mode == 0) put->mode = info.st_mode & 07777;
  return regular(&info);
}

// Makes the directories above the target and notes where it began to.
static int make_parents(Put *put) {
  char *path = put->target;
  for (char *slash = strchr(path + 1, '/'); slash;
       slash = strchr(slash + 1, '/')) {
    *slash = 0;
    int error = mkdir(path, 0755) == 0 ? 0 : errno;
    *slash = '/';
    if (error == 0 && !put->made_from) put->made_from = (size_t)(slash - path);
    // A directory that is there may also refuse in other words (read-only).
    if (error == 0 || error == EEXIST) continue;
    struct stat info;
    *slash = 0;
    bool there = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    *slash = '/';
    if (!there) return error;
  }
  return 0;
}

// Removes what an upload that failed has made.
static void undo(Put *put) {
  if (put->fd >= 0) close(put->fd);
  put->fd = -1;
  if (put->temporary[0]) unlink(put->temporary);
  put->temporary[0] = 0;
  while (put->made_from) {
    char *slash = strrchr(put->target, '/');
    if (!slash || (size_t)(slash - put->target) < put->made_from) break;
    *slash = 0;
    if (rmdir(put->target) != 0) break;
  }
}

static int open_temporary(Put *put) {
  const char *slash = strrchr(put->target, '/');
  int folder = slash ? (int)(slash - put->target) + 1 : 0;
  for (int try = 0; try < 100; try++) {
    snprintf(put->temporary, sizeof(put->temporary), "%.*s.sbx-put-%x-%d",
             folder, put->target, (unsigned)put->channel.id, try);
    put->fd = open(put->temporary,
                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (put->fd >= 0) return 0;
    if (errno != EEXIST) break;
  }
  int error = errno;
  put->temporary[0] = 0;
  return error;
}

static void put_fail(Agent *agent, Put *put, int error) {
  undo(put);
  out_fail(agent, put->channel.id, error, "write the file", "");
  put->channel.over = true;
}

static void put_on_data(Agent *agent, Channel *channel, const Frame *frame) {
  Put *put = (Put *)channel;
  size_t done = 0;
  while (done < frame->size) {
    ssize_t count = write(put->fd, frame->payload + done, frame->size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      put_fail(agent, put, count < 0 ? errno : ENOSPC);
      return;
    }
    done += (size_t)count;
  }
  put->size += done;
  out_credit(agent, channel->id, done);
}

static void put_on_eof(Agent *agent, Channel *channel) {
  Put *put = (Put *)channel;
  int error = 0;
  if (fchmod(put->fd, put->mode ? put->mode : 0644) != 0) error = errno;
  if (close(put->fd) != 0 && !error) error = errno;
  put->fd = -1;
  if (!error && rename(put->temporary, put->target) != 0) error = errno;
  if (error) {
    put_fail(agent, put, error);
    return;
  }
  put->temporary[0] = 0;
  put->made_from = 0;
  out_done(agent, channel, put->size);
}

static void put_on_kill(Agent *agent, Channel *channel) {
  undo((Put *)channel);
  out_done(agent, channel, 0);
}

static void put_destroy(Agent *agent, Channel *channel) {
  undo((Put *)channel);
  free(channel);
}

static const ChannelKind put_kind = {.on_data = put_on_data,
                                     .on_eof = put_on_eof,
                                     .on_kill = put_on_kill,
                                     .destroy = put_destroy};

void put_start(Agent *agent, const Frame *frame) {
  Cursor cursor = frame_cursor(frame);
  uint32_t mode = take_u32(&cursor);
  const char *path = take_string(&cursor);
  Put *put = channel_new(agent, &put_kind, frame->id, sizeof(*put));
  if (!put) {
    out_fail(agent, frame->id, ENOMEM, "write ", path);
    return;
  }
  put->fd = -1;
  put->mode = mode & 07777;
  int error = cursor_ended(&cursor) ? 0 : EINVAL;
  if (!error) error = resolve_target(path, put);
  if (!error) error = make_parents(put);
  if (!error) error = open_temporary(put);
  if (!error) return;
  undo(put);
  out_fail(agent, frame->id, error, "write ", path);
  put->channel.over = true;
}

static void get_prepare(Agent *agent, Channel *channel) {
  if (out_room(agent, channel) > 0) wake_by(agent, agent->now);
}

static void get_run(Agent *agent, Channel *channel) {
  Get *get = (Get *)channel;
  size_t room = out_room(agent, channel);
  if (get->end - get->at < room) room = (size_t)(get->end - get->at);
  if (get->at < get->end) {
    if (room == 0) return;
    uint8_t *at = out_reserve(agent, room);
    if (!at) return;
    ssize_t count = pread(get->fd, at, room, (off_t)get->at);
    if (count < 0 && errno == EINTR) return;
    if (count < 0) {
      out_fail(agent, channel->id, errno, "read the file", "");
      channel->over = true;
      return;
    }
    // A file that became shorter meanwhile ends where it ends.
    if (count == 0) get->end = get->at;
    get->at += (uint64_t)count;
    get->sent += (uint64_t)count;
    channel->credit -= (uint32_t)count;
    if (count > 0) out_commit(agent, FRAME_DATA, channel->id, (size_t)count);
  }
  if (get->at >= get->end) out_done(agent, channel, get->sent);
}

static void get_on_kill(Agent *agent, Channel *channel) {
  out_done(agent, channel, ((Get *)channel)->sent);
}

static void get_destroy(Agent *agent, Channel *channel) {
  int fd = ((Get *)channel)->fd;
  if (fd >= 0) close(fd);
  free(channel);
}

static const ChannelKind get_kind = {.prepare = get_prepare,
                                     .run = get_run,
                                     .on_kill = get_on_kill,
                                     .destroy = get_destroy};

// Opens a regular file and says how many bytes it may give.
static int open_regular(const char *path, int *fd, uint64_t *size,
                        uint64_t *end) {
  struct stat info;
  struct statfs system;
  *fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (*fd < 0) return errno;
  if (fstat(*fd, &info) != 0 || fstatfs(*fd, &system) != 0) return errno;
  bool made_up = system.f_type == PROC_FILES || system.f_type == SYS_FILES ||
                 system.f_type == CGROUP_FILES ||
                 system.f_type == CGROUP2_FILES;
  *size = made_up ? 0 : (uint64_t)info.st_size;
  *end = made_up ? MADE_UP : *size;
  return regular(&info);
}

static void set_window(Get *get, int64_t offset, int64_t length,
                       uint64_t total) {
  uint64_t at = (uint64_t)offset;
  if (offset < 0) {
    uint64_t back = ~(uint64_t)offset + 1;
    at = back < total ? total - back : 0;
  }
  get->at = at < total ? at : total;
  get->end = total;
  if (length >= 0 && (uint64_t)length < total - get->at)
    get->end = get->at + (uint64_t)length;
}

void get_start(Agent *agent, const Frame *frame) {
  Cursor cursor = frame_cursor(frame);
  int64_t offset = (int64_t)take_u64(&cursor);
  int64_t length = (int64_t)take_u64(&cursor);
  const char *path = take_string(&cursor);
  Get *get = channel_new(agent, &get_kind, frame->id, sizeof(*get));
  if (!get) {
    out_fail(agent, frame->id, ENOMEM, "read ", path);
    return;
  }
  uint64_t size = 0, end = 0;
  get->fd = -1;
  int error = cursor_ended(&cursor) ? 0 : EINVAL;
  if (!error) error = open_regular(path, &get->fd, &size, &end);
  if (error) {
    out_fail(agent, frame->id, error, "read ", path);
    get->channel.over = true;
    return;
  }
  uint8_t payload[8];
  put_u64(payload, size);
  out_frame(agent, FRAME_OPENED, frame->id, payload, sizeof(payload));
  set_window(get, offset, length, end);
}

void stat_answer(Agent *agent, const Frame *frame) {
  Cursor cursor = frame_cursor(frame);
  const char *path = take_string(&cursor);
  struct stat info;
  int error = cursor_ended(&cursor) ? 0 : EINVAL;
  if (!error && stat(path, &info) != 0) error = errno;
  if (error) {
    out_fail(agent, frame->id, error, "look at ", path);
    return;
  }
  uint8_t payload[21];
  payload[0] = S_ISREG(info.st_mode)   ? FILE_REGULAR
               : S_ISDIR(info.st_mode) ? FILE_DIRECTORY
                                       : FILE_OTHER;
  put_u32(payload + 1, info.st_mode & 07777);
  put_u64(payload + 5, (uint64_t)info.st_size);
  int64_t mtime = (int64_t)info.st_mtim.tv_sec * 1000000000;
  put_u64(payload + 13, (uint64_t)(mtime + info.st_mtim.tv_nsec));
  out_frame(agent, FRAME_STATED, frame->id, payload, sizeof(payload));
}
