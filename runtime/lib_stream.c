// sbx.core.stream: reading and writing a connected stream. Who makes streams:
// sbx.core.net and sbx.core.process, and `pair` here.

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "luax.h"
#include "reactor.h"
#include "stream.h"
#include "wait.h"

static Stream **check_slot(lua_State *L) {
  return luaL_checkudata(L, 1, STREAM_TYPE);
}

static int raise_stream(lua_State *L, int status, const char *verb,
                        const Stream *stream) {
  if (stream == NULL) return raise_error(L, status, "%s: closed stream", verb);
  return raise_error(L, status, "%s %s", verb, stream->name);
}

// The open stream at index 1. Raises EBADF when it is closed.
static Stream *check_stream(lua_State *L, const char *verb) {
  Stream *stream = *check_slot(L);
  if (stream == NULL) raise_stream(L, UV_EBADF, verb, NULL);
  return stream;
}

static int end_read(lua_State *L, int status, lua_KContext context) {
  const StreamWait *op = (const StreamWait *)context;
  Stream *stream = *check_slot(L);  // NULL when it was closed meanwhile
  if (stream != NULL) stream->read_claimed = false;
  if (op->wait.status != 0) {
    return raise_stream(L, op->wait.status, "read", stream);
  }
  if (stream == NULL) return raise_stream(L, UV_EBADF, "read", NULL);
  if (stream->count > 0) {
    luaL_Buffer buffer;
    size_t size = stream->count < op->max ? stream->count : op->max;
    char *room = luaL_buffinitsize(L, &buffer, size);  // may raise: before take
    const char *bytes;
    size = stream_take(stream, size, &bytes);
    memcpy(room, bytes, size);
    stream_release(stream);
    luaL_pushresultsize(&buffer, size);
    return 1;
  }
  if (stream->ending != UV_EOF) {
    return raise_stream(L, stream->ending, "read", stream);
  }
  lua_pushnil(L);
  return 1;
}

// read(max?): what has arrived, 1 to max bytes (at most and by default 64 KiB),
// or nil at the end. Waits; raises io errors, EBADF once closed.
static int f_read(lua_State *L) {
  Stream *stream = check_stream(L, "read");
  lua_Integer max = luaL_optinteger(L, 2, (lua_Integer)STREAM_BUFFER);
  luaL_argcheck(L, max >= 1, 2, "must be at least 1");
  if (stream->read_claimed) return luaL_error(L, "another task is reading");

  StreamWait *op = wait_new(L, sizeof(*op), stream_close_read, "read");
  op->stream = stream;
  op->max = (size_t)max;
  stream->read_claimed = true;
  stream_start_read(op);
  return wait_yield(L, &op->wait, end_read);
}

static int end_write(lua_State *L, int status, lua_KContext context) {
  const StreamWait *op = (const StreamWait *)context;
  Stream *stream = *check_slot(L);
  if (stream != NULL) stream->write_claimed = false;
  if (op->wait.status == 0) return 0;
  return raise_stream(L, op->wait.status, op->wait.what, stream);
}

// write(bytes): returns once the kernel has taken all. Waits. Cancelled in the
// middle it leaves a part with the peer: further writes raise EPIPE.
static int f_write(lua_State *L) {
  Stream *stream = check_stream(L, "write");
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  if (stream->write_claimed) return luaL_error(L, "another task is writing");

  StreamWait *op = wait_new(L, sizeof(*op), stream_close_write, "write");
  op->stream = stream;
  stream->write_claimed = true;
  stream_start_write(op, bytes, size);  // the string stays at index 2
  return wait_yield(L, &op->wait, end_write);
}

static int end_shutdown(lua_State *L, int status, lua_KContext context) {
  Stream **slot = check_slot(L);
  Stream *stream = *slot;
  if (stream != NULL && stream->one_way) {
    *slot = NULL;
    stream_close(stream);
    return 0;
  }
  return end_write(L, status, context);
}

// shutdown(): ends our side; the peer reads the end. Waits.
static int f_shutdown(lua_State *L) {
  Stream *stream = check_stream(L, "shutdown");
  if (stream->write_claimed) return luaL_error(L, "another task is writing");

  StreamWait *op = wait_new(L, sizeof(*op), stream_close_write, "shutdown");
  op->stream = stream;
  stream->write_claimed = true;
  stream_start_shutdown(op);
  return wait_yield(L, &op->wait, end_shutdown);
}

// fileno(): the descriptor's number; it stays the stream's.
static int f_fileno(lua_State *L) {
  const Stream *stream = check_stream(L, "fileno");
  uv_os_fd_t fd;
  int status = uv_fileno(&stream->uv.handle, &fd);
  if (status != 0) return raise_stream(L, status, "fileno", stream);
  lua_pushinteger(L, fd);
  return 1;
}

static int gc_stream(lua_State *L) {
  Stream **slot = lua_touserdata(L, 1);
  Stream *stream = *slot;
  *slot = NULL;
  if (stream != NULL) stream_close(stream);
  return 0;
}

// close(): ends both directions; who waits gets EBADF. Closing twice is fine.
static int f_close(lua_State *L) {
  (void)check_slot(L);
  return gc_stream(L);
}

static int f_tostring(lua_State *L) {
  const Stream *stream = *check_slot(L);
  lua_pushfstring(L, "stream (%s)", stream == NULL ? "closed" : stream->name);
  return 1;
}

// pair(): two streams, each the other's peer.
static int f_pair(lua_State *L) {
  uv_loop_t *loop = &reactor_of(L)->loop;
  Stream **left = stream_push(L);
  Stream **right = stream_push(L);
  uv_os_sock_t ends[2];
  int status =
      uv_socketpair(SOCK_STREAM, 0, ends, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE);
  if (status != 0) return raise_error(L, status, "socketpair");
  status = stream_adopt(left, loop, ends[0], "pair");
  int other = stream_adopt(right, loop, ends[1], "pair");
  if (status == 0) status = other;
  if (status != 0) return raise_error(L, status, "socketpair");
  return 2;
}

// A pipe or a terminal has a file description of its own made, so that being
// non-blocking concerns nobody else, such as the shell that shares it. A socket
// can only be duplicated.
static int open_again(int fd) {
  struct stat info;
  int flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && fstat(fd, &info) == 0 && !S_ISSOCK(info.st_mode)) {
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int own =
        open(path, (flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (own >= 0) return own;
  }
  return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

// open(fd): a stream on an open pipe, terminal or socket, such as the standard
// input. A socket becomes non-blocking for all who share it.
static int f_open(lua_State *L) {
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd < INT_MAX, 1, "not a descriptor");
  Stream **slot = stream_push(L);
  int copy = open_again((int)fd);
  if (copy < 0) return raise_error(L, -errno, "open descriptor %d", (int)fd);
  char name[32];
  (void)snprintf(name, sizeof(name), "descriptor %d", (int)fd);
  int status = stream_adopt(slot, &reactor_of(L)->loop, copy, name);
  if (status != 0) return raise_error(L, status, "open %s", name);
  return 1;
}

static const luaL_Reg methods[] = {
    {"read",     f_read    },
    {"write",    f_write   },
    {"shutdown", f_shutdown},
    {"fileno",   f_fileno  },
    {"close",    f_close   },
    {NULL,       NULL      },
};

static const luaL_Reg metamethods[] = {
    {"__gc",       gc_stream },
    {"__close",    gc_stream },
    {"__tostring", f_tostring},
    {NULL,         NULL      },
};

static const luaL_Reg functions[] = {
    {"open", f_open},
    {"pair", f_pair},
    {NULL,   NULL  },
};

// Pushes the metatable of all streams.
static void push_metatable(lua_State *L) {
  if (!luaL_newmetatable(L, STREAM_TYPE)) return;
  luaL_setfuncs(L, metamethods, 0);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
}

Stream **stream_push(lua_State *L) {
  Stream **slot = lua_newuserdatauv(L, sizeof(Stream *), 0);
  *slot = NULL;
  push_metatable(L);
  lua_setmetatable(L, -2);
  return slot;
}

int luaopen_sbx_core_stream(lua_State *L) {
  luaL_newlib(L, functions);
  push_metatable(L);
  lua_getfield(L, -1, "__index");
  lua_setfield(L, -3, "methods");  // sbx.stream adds to them
  lua_pop(L, 1);
  return 1;
}
