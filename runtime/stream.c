#include "stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Bytes handed to the kernel at a stretch before other tasks get their turn.
#define WRITE_BURST ((size_t)1024 * 1024)

static void on_closed(uv_handle_t *handle) {
  Stream *stream = handle->data;
  free(stream->arrived);
  free(stream->chunk);
  free(stream);
}

int stream_new(Stream **out, uv_loop_t *loop, StreamKind kind,
               const char *name) {
  *out = NULL;
  Stream *stream = calloc(1, sizeof(*stream));
  if (stream == NULL) return UV_ENOMEM;
  int status = kind == STREAM_TCP ? uv_tcp_init(loop, &stream->uv.tcp)
                                  : uv_pipe_init(loop, &stream->uv.pipe, 0);
  if (status != 0) {
    free(stream);
    return status;
  }
  stream->uv.handle.data = stream;
  (void)snprintf(stream->name, sizeof(stream->name), "%s", name);
  *out = stream;
  return 0;
}

int stream_adopt(Stream **out, uv_loop_t *loop, int fd, const char *name) {
  // libuv aborts when it is to watch what epoll cannot, such as a plain file.
  uv_handle_type type = uv_guess_handle(fd);
  int status = UV_EINVAL;
  *out = NULL;
  if (type == UV_NAMED_PIPE || type == UV_TCP || type == UV_TTY) {
    status = stream_new(out, loop, STREAM_PIPE, name);
  }
  if (status == 0) {
    status = uv_pipe_open(&(*out)->uv.pipe, fd);
    if (status == 0) return 0;
    stream_close(*out);
    *out = NULL;
  }
  (void)close(fd);  // nothing was written: nothing can be lost
  return status;
}

void stream_close(Stream *stream) {
  if (stream->reader != NULL) wait_settle(stream->reader, UV_EBADF);
  if (stream->writer != NULL) wait_settle(stream->writer, UV_EBADF);
  uv_close(&stream->uv.handle, on_closed);
}

// Reading

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
  Stream *stream = handle->data;
  if (stream->arrived == NULL) stream->arrived = malloc(STREAM_BUFFER);
  buffer->base = stream->arrived;
  buffer->len = stream->arrived == NULL ? 0 : STREAM_BUFFER;
}

static void on_read(uv_stream_t *handle, ssize_t size, const uv_buf_t *buffer) {
  Stream *stream = handle->data;
  if (size == 0) return;  // not ready after all
  if (size > 0) {
    stream->first = 0;
    stream->count = (size_t)size;
  } else {
    stream->ending = (int)size;
    stream_release(stream);
  }
  if (stream->reader != NULL) wait_settle(stream->reader, 0);
}

void stream_start_read(StreamWait *op) {
  Stream *stream = op->stream;
  stream->reader = &op->wait;
  int status = 0;
  if (stream->count == 0 && stream->ending == 0) {
    status = uv_read_start(&stream->uv.stream, on_alloc, on_read);
    if (status == 0) return;
  }
  wait_settle(&op->wait, status);
}

void stream_close_read(Wait *wait) {
  Stream *stream = ((StreamWait *)wait)->stream;
  (void)uv_read_stop(&stream->uv.stream);  // always succeeds
  stream->reader = NULL;
  wait_done(wait);
}

size_t stream_take(Stream *stream, size_t max, const char **bytes) {
  size_t size = stream->count < max ? stream->count : max;
  *bytes = stream->arrived + stream->first;
  stream->first += size;
  stream->count -= size;
  return size;
}

void stream_release(Stream *stream) {
  if (stream->count > 0) return;
  free(stream->arrived);
  stream->arrived = NULL;
}

// Writing

static void on_write(uv_write_t *request, int status);

// Queues the next bytes as a copy, so that a writer may leave at any time.
static int queue_chunk(Stream *stream) {
  size_t size = stream->left < STREAM_BUFFER ? stream->left : STREAM_BUFFER;
  stream->chunk = malloc(size);
  if (stream->chunk == NULL) return UV_ENOMEM;
  memcpy(stream->chunk, stream->rest, size);
  uv_buf_t buffer = uv_buf_init(stream->chunk, (unsigned)size);
  stream->request.write.data = stream;
  int status = uv_write(&stream->request.write, &stream->uv.stream, &buffer, 1,
                        on_write);
  if (status != 0) {
    free(stream->chunk);
    stream->chunk = NULL;
    return status;
  }
  stream->rest += size;
  stream->left -= size;
  return 0;
}

// Gives the kernel all it takes now; the rest waits in a chunk.
static void hand_over(Stream *stream) {
  size_t burst = 0;
  while (stream->left > 0 && burst < WRITE_BURST) {
    size_t size = stream->left < WRITE_BURST ? stream->left : WRITE_BURST;
    // libuv does not write to the bytes; its type just cannot say so.
    uv_buf_t buffer = uv_buf_init((char *)stream->rest, (unsigned)size);
    int taken = uv_try_write(&stream->uv.stream, &buffer, 1);
    if (taken == UV_EAGAIN) break;
    if (taken < 0) {
      wait_settle(stream->writer, taken);
      return;
    }
    stream->rest += taken;
    stream->left -= (size_t)taken;
    burst += (size_t)taken;
  }
  int status = stream->left > 0 ? queue_chunk(stream) : 0;
  if (status != 0 || stream->chunk == NULL) wait_settle(stream->writer, status);
}

static void on_write(uv_write_t *request, int status) {
  Stream *stream = request->data;
  free(stream->chunk);
  stream->chunk = NULL;
  if (stream->writer == NULL) return;  // cancelled or closed meanwhile
  if (status != 0) {
    wait_settle(stream->writer, status);
  } else {
    hand_over(stream);
  }
}

void stream_start_write(StreamWait *op, const char *bytes, size_t size) {
  Stream *stream = op->stream;
  stream->writer = &op->wait;
  stream->rest = bytes;
  stream->left = size;
  if (stream->broken || stream->shut) {
    wait_settle(&op->wait, UV_EPIPE);
  } else {
    hand_over(stream);
  }
}

static void on_shutdown(uv_shutdown_t *request, int status) {
  Stream *stream = request->data;
  // A pipe has one direction and ends by being closed, which the binding does.
  if (status == UV_ENOTSOCK) {
    stream->one_way = true;
    status = 0;
  }
  if (stream->writer != NULL) wait_settle(stream->writer, status);
}

void stream_start_shutdown(StreamWait *op) {
  Stream *stream = op->stream;
  stream->writer = &op->wait;
  int status = 0;
  if (stream->broken) {
    // A clean end would make the peer take a part for the whole.
    status = UV_EPIPE;
  } else if (!stream->shut) {
    stream->shut = true;
    stream->request.shutdown.data = stream;
    status =
        uv_shutdown(&stream->request.shutdown, &stream->uv.stream, on_shutdown);
    if (status == 0) return;
  }
  wait_settle(&op->wait, status);
}

void stream_close_write(Wait *wait) {
  Stream *stream = ((StreamWait *)wait)->stream;
  if (wait->status != 0 && !stream->shut) stream->broken = true;
  stream->writer = NULL;
  stream->rest = NULL;
  stream->left = 0;
  wait_done(wait);
}
