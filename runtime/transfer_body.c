// Bytes that go out and come in. Files are read and written here, inside
// libcurl's callbacks, in blocks of at most 64 KiB: that goes to and from the
// page cache in some microseconds, less than handing each block to a thread
// and back would cost, and it keeps one buffer in memory however large the
// file is. A disk that stalls, stalls the loop; callers who must not be
// stalled put such files elsewhere.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transfer_pool.h"

// Bytes of a body that we reserve on the word of the peer.
enum { RESERVE_MOST = 16 * 1024 * 1024 };

static int fail_io(Transfer *transfer, int error, const char *verb,
                   const char *path) {
  transfer_fail(transfer, "io", uv_err_name(-error), NULL, "%s %.150s: %s",
                verb, path, uv_strerror(-error));
  return -1;
}

static int open_source(Transfer *transfer, Source *source) {
  source->transfer = transfer;
  if (!source->path) return 0;
  source->fd = open(source->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat facts;
  if (source->fd < 0 || fstat(source->fd, &facts) != 0)
    return fail_io(transfer, errno, "open", source->path);
  if (S_ISDIR(facts.st_mode))
    return fail_io(transfer, EISDIR, "read", source->path);
  if (!S_ISREG(facts.st_mode)) {
    transfer_fail(transfer, "io", "EINVAL", NULL,
                  "read %.150s: only a regular file has a length to send",
                  source->path);
    return -1;
  }
  source->size = facts.st_size;
  return 0;
}

// `mode` is that of the file to be replaced, or -1: as the umask says.
static int open_temporary(Transfer *transfer, int mode) {
  const char *target = transfer->save_target;
  const char *slash = strrchr(target, '/');
  int folder = slash ? (int)(slash + 1 - target) : 0;
  for (unsigned attempt = 0; attempt < 100; attempt++) {
    char *path = NULL;
    if (asprintf(&path, "%.*s.%.200s.%x%x.part", folder, target,
                 target + folder, (unsigned)getpid(),
                 (unsigned)uv_hrtime() + attempt) < 0)
      return fail_io(transfer, ENOMEM, "create", target);
    transfer->save_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                             mode < 0 ? 0666 : 0600);
    if (transfer->save_fd >= 0) {
      transfer->save_temporary = path;
      if (mode >= 0) (void)fchmod(transfer->save_fd, (mode_t)mode);
      return 0;
    }
    int error = errno;
    free(path);
    if (error != EEXIST) return fail_io(transfer, error, "create", target);
  }
  return fail_io(transfer, EEXIST, "create", target);
}

// Opens a temporary file beside the target. What is not a plain file, such as
// /dev/null, cannot be replaced and is written in place.
static int open_sink(Transfer *transfer) {
  const char *path = transfer->save_path;
  if (!path) return 0;
  char *target = realpath(path, NULL);  // a link is followed, not replaced
  transfer->save_target = target ? target : strdup(path);
  if (!transfer->save_target) return fail_io(transfer, ENOMEM, "create", path);
  struct stat facts;
  if (stat(path, &facts) != 0) return open_temporary(transfer, -1);
  if (S_ISREG(facts.st_mode))
    return open_temporary(transfer, (int)(facts.st_mode & 0777));
  transfer->save_fd = open(path, O_WRONLY | O_CLOEXEC);
  return transfer->save_fd < 0 ? fail_io(transfer, errno, "open", path) : 0;
}

int body_open(Transfer *transfer) {
  if (open_source(transfer, &transfer->body) != 0) return -1;
  for (size_t i = 0; i < transfer->part_count; i++)
    if (open_source(transfer, &transfer->parts[i].source) != 0) return -1;
  return open_sink(transfer);
}

static void close_file(int *fd) {
  if (*fd >= 0) (void)close(*fd);  // nothing was written, or it is given up
  *fd = -1;
}

// Closes the files; what was not committed is removed.
void body_close(Transfer *transfer) {
  close_file(&transfer->body.fd);
  for (size_t i = 0; i < transfer->part_count; i++)
    close_file(&transfer->parts[i].source.fd);
  close_file(&transfer->save_fd);
  if (transfer->save_temporary) (void)unlink(transfer->save_temporary);
  free(transfer->save_temporary);
  free(transfer->save_target);
  transfer->save_temporary = transfer->save_target = NULL;
}

// A page that tells of a failure, or leads elsewhere, is not what was to be
// saved.
static bool is_saved(const Transfer *transfer) {
  if (transfer->save_fd < 0 || transfer->status >= 400) return false;
  bool leads_on = transfer->status >= 301 && transfer->status <= 308 &&
                  transfer->status != 304;
  return !transfer->redirects || !leads_on;
}

// Gives a saved file its name, once the whole body of a good answer is in it.
int body_commit(Transfer *transfer) {
  if (!is_saved(transfer)) return 0;
  int fd = transfer->save_fd;
  transfer->save_fd = -1;
  if (close(fd) != 0)
    return fail_io(transfer, errno, "write", transfer->save_path);
  if (transfer->save_temporary) {
    if (rename(transfer->save_temporary, transfer->save_target) != 0)
      return fail_io(transfer, errno, "rename to", transfer->save_path);
    free(transfer->save_temporary);
    transfer->save_temporary = NULL;
  }
  transfer->saved = true;
  return 0;
}

size_t on_read(char *buffer, size_t size, size_t count, void *context) {
  Source *source = context;
  if (source->feed.active) return flow_read(source, buffer, size * count);
  int64_t left = source->size - source->offset;
  size_t room = size * count;
  if ((int64_t)room > left) room = (size_t)left;
  if (room == 0) return 0;
  if (source->path) {
    ssize_t got = pread(source->fd, buffer, room, source->offset);
    if (got <= 0) {
      // The promised length cannot be kept; the peer would wait for the rest.
      (void)fail_io(source->transfer, got < 0 ? errno : EIO, "read",
                    source->path);
      return CURL_READFUNC_ABORT;
    }
    room = (size_t)got;
  } else {
    memcpy(buffer, source->bytes + source->offset, room);
  }
  source->offset += (int64_t)room;
  return room;
}

// libcurl rewinds in order to send again.
int on_seek(void *context, curl_off_t offset, int origin) {
  Source *source = context;
  bool once = source->transfer->at_most_once || source->feed.active;
  if (once && source->offset > 0) return CURL_SEEKFUNC_FAIL;
  if (source->feed.active) return CURL_SEEKFUNC_OK;
  if (origin != SEEK_SET || offset < 0 || offset > source->size)
    return CURL_SEEKFUNC_FAIL;
  source->offset = offset;
  return CURL_SEEKFUNC_OK;
}

static int write_file(Transfer *transfer, const char *data, size_t size) {
  while (size > 0) {
    ssize_t done = write(transfer->save_fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return fail_io(transfer, errno, "write", transfer->save_path);
    data += done;
    size -= (size_t)done;
  }
  return 0;
}

static int keep(Transfer *transfer, const char *data, size_t size) {
  if (bytes_append(&transfer->body_in, data, size) == 0) return 0;
  transfer_fail(transfer, "io", "ENOMEM", "receive", "no memory for the body");
  return -1;
}

// Makes room for the whole body when its length is known and sensible.
static void choose_sink(Transfer *transfer) {
  CURL *easy = transfer->line->easy;
  curl_off_t length = -1;
  transfer->sink_chosen = true;
  (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &transfer->status);
  (void)curl_easy_getinfo(easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  if (is_saved(transfer)) return;
  if (length <= 0 || (uint64_t)length > transfer->max_body ||
      length > RESERVE_MOST)
    return;
  transfer->body_in.data = malloc((size_t)length);
  if (transfer->body_in.data) transfer->body_in.capacity = (size_t)length;
}

size_t on_write(char *data, size_t size, size_t count, void *context) {
  Transfer *transfer = context;
  size *= count;
  if (transfer->streamed) return flow_write(transfer, data, size);
  if (!transfer->sink_chosen) choose_sink(transfer);
  transfer->received += (int64_t)size;
  if ((uint64_t)transfer->received > transfer->max_body) {
    transfer_fail(transfer, "limit", "EFBIG", "receive",
                  "the body is larger than max_body (%zu bytes)",
                  transfer->max_body);
    return 0;
  }
  int status = is_saved(transfer) ? write_file(transfer, data, size)
                                  : keep(transfer, data, size);
  return status == 0 ? size : CURL_WRITEFUNC_ERROR;
}
