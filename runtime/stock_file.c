// Handles of slow files: how they are opened and closed.

#define _GNU_SOURCE
#include "stock_io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "luax.h"
#include "task.h"

// As stdio has it for a pipe.
enum { BUFFER = 4096 };

static const char mark;

int call_stock(lua_State *L) {
  return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

bool can_wait(lua_State *L) {
  const Reactor *reactor = reactor_of(L);
  return reactor->current && !reactor->closing && lua_isyieldable(L);
}

// ---- handles

// The handle at `index` if it is of our making, be it closed.
static FileHandle *our_handle(lua_State *L, int index) {
  FileHandle *handle = luaL_testudata(L, index, LUA_FILEHANDLE);
  if (!handle || lua_rawlen(L, index) != sizeof(*handle)) return NULL;
  return handle->mark == &mark ? handle : NULL;
}

FileHandle *slow_handle(lua_State *L, int index) {
  FileHandle *handle = our_handle(L, index);
  return handle && handle->stock.closef ? handle : NULL;
}

FileHandle *keep_if_slow(lua_State *L) {
  FileHandle *handle = slow_handle(L, -1);
  if (!handle) lua_pop(L, 1);
  return handle;
}

FileHandle *push_default_handle(lua_State *L, const char *key) {
  lua_getfield(L, LUA_REGISTRYINDEX, key);
  return keep_if_slow(L);
}

// Lets go of the bytes and the descriptor.
static void release(FileHandle *handle) {
  SlowFile *slow = handle->slow;
  handle->stock.closef = NULL;
  handle->slow = NULL;
  if (slow) slow_file_drop(slow);
}

// What stands in `closef` of an open handle, for whoever calls that.
static int close_foreign(lua_State *L) {
  release(luaL_checkudata(L, 1, LUA_FILEHANDLE));
  return luaL_fileresult(L, 1, NULL);
}

// Pushes a handle in its closed state.
FileHandle *push_closed_handle(lua_State *L, int number, const char *mode) {
  FileHandle *handle =
      lua_newuserdatauv(L, sizeof(*handle), HANDLE_USER_VALUES);
  memset(handle, 0, sizeof(*handle));
  handle->mark = &mark;
  handle->number = number;
  handle->buffer = BUFFER;
  bool both = strchr(mode, '+');
  handle->reads = both || mode[0] == 'r';
  handle->writes = both || mode[0] != 'r';
  luaL_setmetatable(L, LUA_FILEHANDLE);
  return handle;
}

int open_handle(Reactor *reactor, FileHandle *handle, FILE *stream) {
  int fd = fileno(stream);
  handle->slow = slow_file_new(reactor->slow_files, stream, fd, false);
  if (!handle->slow) return UV_ENOMEM;
  handle->by_line = isatty(fd);
  handle->stock.f = stream;
  handle->stock.closef = close_foreign;
  return 0;
}

// ---- opening

// Whether opening or using the file can take for ever. The devices that the
// kernel makes up, such as /dev/null and /dev/urandom, never do.
bool is_slow_kind(const struct stat *info) {
  enum { MEMORY_DEVICES = 1 };

  if (S_ISCHR(info->st_mode)) return major(info->st_rdev) != MEMORY_DEVICES;
  return S_ISFIFO(info->st_mode) || S_ISSOCK(info->st_mode);
}

bool is_slow_path(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && is_slow_kind(&info);
}

static bool is_mode(const char *mode) {
  if (!*mode || !strchr("rwa", *mode)) return false;
  if (*++mode == '+') mode++;
  return strspn(mode, "b") == strlen(mode);
}

static int open_flags(const char *mode) {
  int flags = O_NONBLOCK | O_CLOEXEC;
  if (mode[0] == 'w') flags |= O_CREAT | O_TRUNC;
  if (mode[0] == 'a') flags |= O_CREAT | O_APPEND;
  if (strchr(mode, '+')) return flags | O_RDWR;
  return flags | (mode[0] == 'r' ? O_RDONLY : O_WRONLY);
}

static int open_stream(Reactor *reactor, FileHandle *handle, const char *path,
                       const char *mode) {
  int fd = open(path, open_flags(mode), 0666);
  if (fd < 0) return -errno;
  FILE *stream = NULL;
  int status = UV_EPERM;
  if (slow_files_can_watch(reactor->slow_files, fd)) {
    stream = fdopen(fd, mode);
    status = stream ? open_handle(reactor, handle, stream) : -errno;
  }
  if (status != 0) (void)(stream ? fclose(stream) : close(fd));
  return status;
}

// Opens without blocking and pushes the handle. Returns 0 or an error, among
// them UV_ENXIO for a FIFO that nobody reads yet, and UV_EPERM for what cannot
// be watched; then nothing is pushed.
static int try_open(lua_State *L, const char *path, const char *mode) {
  FileHandle *handle = push_closed_handle(L, -1, mode);
  int status = open_stream(reactor_of(L), handle, path, mode);
  if (status != 0) lua_pop(L, 1);
  return status;
}

// A wait for somebody to read a FIFO. Nothing tells when that happens, so it is
// tried now and then.
typedef struct OpenWait {
  Wait wait;
  uv_timer_t timer;
  uint64_t pause;  // milliseconds
  int (*finish)(lua_State *L, int status);
} OpenWait;

enum { FIRST_PAUSE = 2, LONGEST_PAUSE = 100 };

static void on_timer_closed(uv_handle_t *timer) {
  wait_done(timer->data);
}

static void close_open(Wait *wait) {
  uv_close((uv_handle_t *)&((OpenWait *)wait)->timer, on_timer_closed);
}

static void on_pause_over(uv_timer_t *timer) {
  (void)wait_settle(timer->data, 0);
}

typedef int (*OpenFinish)(lua_State *L, int status);

static int open_slowly(lua_State *L, uint64_t pause, OpenFinish finish);

static int end_open(lua_State *L, int yielded, lua_KContext context) {
  OpenWait op = *(OpenWait *)context;
  if (op.wait.status != 0) return raise_error(L, op.wait.status, "open");
  lua_pop(L, 1);
  uint64_t pause = op.pause * 2;
  if (pause > LONGEST_PAUSE) pause = LONGEST_PAUSE;
  return open_slowly(L, pause, op.finish);
}

// Opens the path at index 1 in the mode at index 2, and calls `finish` with the
// status and, if that is 0, the handle on top of the stack.
static int open_slowly(lua_State *L, uint64_t pause, OpenFinish finish) {
  const char *path = lua_tostring(L, 1);
  int status = try_open(L, path, lua_tostring(L, 2));
  struct stat info;
  if (status != UV_ENXIO || stat(path, &info) != 0 || !S_ISFIFO(info.st_mode))
    return finish(L, status);
  OpenWait *op = wait_new(L, sizeof(*op), close_open, "open a FIFO");
  op->finish = finish;
  op->pause = pause;
  (void)uv_timer_init(&reactor_of(L)->loop, &op->timer);
  op->timer.data = &op->wait;
  (void)uv_timer_start(&op->timer, on_pause_over, pause, 0);
  return wait_yield(L, &op->wait, end_open);
}

static int finish_io_open(lua_State *L, int status) {
  if (status == 0) return 1;
  // Known only now: a device that is no different from a plain file.
  if (status == UV_EPERM) return call_stock(L);
  errno = -status;
  return luaL_fileresult(L, 0, lua_tostring(L, 1));
}

// io.open(path, mode?)
int f_io_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  const char *mode = luaL_optstring(L, 2, "r");
  if (!is_mode(mode) || !is_slow_path(path)) return call_stock(L);
  lua_settop(L, 2);
  lua_pushstring(L, mode);
  lua_replace(L, 2);
  return open_slowly(L, FIRST_PAUSE, finish_io_open);
}

static int raise_open(lua_State *L, int status) {
  return luaL_error(L, "cannot open file '%s' (%s)", lua_tostring(L, 1),
                    strerror(-status));
}

static int finish_default(lua_State *L, int status, const char *key) {
  if (status == UV_EPERM) {
    lua_settop(L, 1);
    return call_stock(L);
  }
  if (status != 0) return raise_open(L, status);
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, key);
  return 1;
}

static int finish_input(lua_State *L, int status) {
  return finish_default(L, status, DEFAULT_INPUT);
}

static int finish_output(lua_State *L, int status) {
  return finish_default(L, status, DEFAULT_OUTPUT);
}

static int open_default(lua_State *L, const char *mode, OpenFinish finish) {
  const char *path = lua_tostring(L, 1);
  if (!path || !is_slow_path(path)) return call_stock(L);
  lua_settop(L, 1);
  lua_pushstring(L, mode);
  return open_slowly(L, FIRST_PAUSE, finish);
}

// io.input(file or path?)
int f_io_input(lua_State *L) {
  return open_default(L, "r", finish_input);
}

// io.output(file or path?)
int f_io_output(lua_State *L) {
  return open_default(L, "w", finish_output);
}

// io.lines(path?, ...): upvalue 2 is whether closing values are lost; then
// there is none, and a file whose loop was left early is closed by the
// collector
int f_io_lines(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    if (!push_default_handle(L, DEFAULT_INPUT)) return call_stock(L);
    if (lua_gettop(L) > 1) lua_replace(L, 1);
    return push_lines(L, false);
  }
  bool keeps = !lua_toboolean(L, lua_upvalueindex(2));
  const char *path = luaL_checkstring(L, 1);
  int status = is_slow_path(path) ? try_open(L, path, "r") : UV_EPERM;
  if (status == UV_EPERM) {
    int results = call_stock(L);
    if (keeps) return results;
    lua_pop(L, results - 1);
    return 1;
  }
  if (status != 0) return raise_open(L, status);
  lua_replace(L, 1);
  (void)push_lines(L, true);
  if (!keeps) return 1;
  lua_pushnil(L);
  lua_pushnil(L);
  (void)lua_getupvalue(L, -3, 1);
  return 4;
}

// ---- closing

int push_no_close(lua_State *L) {
  luaL_pushfail(L);
  lua_pushliteral(L, "cannot close standard file");
  return 2;
}

// Stack: handle, whether an error ends its block, what the closer returned.
static int end_closer(lua_State *L, int status, lua_KContext context) {
  return lua_gettop(L) - 2;
}

static int end_close(lua_State *L, int yielded, lua_KContext context) {
  FileHandle *handle = lua_touserdata(L, 1);
  const Wait *wait = (const Wait *)context;
  int status = wait ? wait->status : handle->slow->error;
  // Also in a cancelled task: the loop writes what is left.
  release(handle);
  if (status == UV_ECANCELED) return raise_error(L, status, "close");
  lua_settop(L, 2);
  if (lua_getiuservalue(L, 1, HANDLE_CLOSER) == LUA_TFUNCTION) {
    lua_pushvalue(L, 2);
    lua_callk(L, 1, LUA_MULTRET, 0, end_closer);
    return end_closer(L, LUA_OK, 0);
  }
  errno = -status;
  return luaL_fileresult(L, status == 0, NULL);
}

int close_handle(lua_State *L, FileHandle *handle, bool failed) {
  if (handle->number >= 0) return push_no_close(L);
  lua_settop(L, 1);
  lua_pushboolean(L, failed);
  handle->stock.closef = NULL;
  abandon_reads(handle->slow);
  (void)slow_file_push(handle->slow);
  return await_output(L, handle->slow, 0, end_close);
}

// file:close()
int f_file_close(lua_State *L) {
  FileHandle *handle = slow_handle(L, 1);
  return handle ? close_handle(L, handle, false) : call_stock(L);
}

// io.close(file?)
int f_io_close(lua_State *L) {
  if (lua_isnone(L, 1) && !push_default_handle(L, DEFAULT_OUTPUT))
    return call_stock(L);
  return f_file_close(L);
}

// The end of a `<close>` variable, with the error that ended its block, or nil
int close_variable(lua_State *L) {
  if (!our_handle(L, 1)) return call_stock(L);
  FileHandle *handle = slow_handle(L, 1);
  if (!handle || handle->number >= 0) return 0;
  return close_handle(L, handle, !lua_isnoneornil(L, 2));
}

int gc_handle(lua_State *L) {
  FileHandle *handle = our_handle(L, 1);
  if (!handle) return call_stock(L);
  release(handle);
  return 0;
}

// ---- the rest

// file:seek(whence?, offset?): what is slow can seldom seek
int f_file_seek(lua_State *L) {
  FileHandle *handle = slow_handle(L, 1);
  if (!handle) return call_stock(L);
  static const int origins[] = {SEEK_SET, SEEK_CUR, SEEK_END};
  static const char *const names[] = {"set", "cur", "end", NULL};
  int origin = origins[luaL_checkoption(L, 2, "cur", names)];
  lua_Integer offset = luaL_optinteger(L, 3, 0);
  SlowFile *slow = handle->slow;
  (void)slow_file_push(slow);
  if (origin == SEEK_CUR) offset -= (lua_Integer)slow->in_count;
  off_t place = lseek(slow->fd, offset, origin);
  if (place < 0) return luaL_fileresult(L, 0, NULL);
  slow_file_take(slow, slow->in_count);
  lua_pushinteger(L, place);
  return 1;
}

// file:setvbuf(mode, size?)
int f_file_setvbuf(lua_State *L) {
  FileHandle *handle = slow_handle(L, 1);
  if (!handle) return call_stock(L);
  static const char *const names[] = {"no", "full", "line", NULL};
  int mode = luaL_checkoption(L, 2, NULL, names);
  lua_Integer size = luaL_optinteger(L, 3, LUAL_BUFFERSIZE);
  handle->by_line = mode == 2;
  handle->buffer = mode == 0 ? 0 : size > 0 ? (size_t)size : BUFFER;
  (void)slow_file_push(handle->slow);
  return luaL_fileresult(L, 1, NULL);
}
