// Writing to slow files. What a call writes is appended to the file's backlog
// at once and as a whole; then, when the backlog is long, its task waits. So
// the bytes of two tasks are never mixed, and their order is that of the calls.

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host.h"
#include "luax.h"
#include "screen.h"
#include "stock_io.h"

// ---- waiting for the backlog to shrink

static void close_writer(Wait *wait) {
  SlowWait *op = (SlowWait *)wait;
  for (SlowWait **at = &op->file->writers; *at; at = &(*at)->next) {
    if (*at != op) continue;
    *at = op->next;
    break;
  }
  slow_files_release(op->file->all);
  wait_done(wait);
}

int await_output(lua_State *L, SlowFile *file, size_t keep, lua_KFunction end) {
  if (file->error || file->out_count <= keep) return end(L, LUA_OK, 0);
  if (!can_wait(L)) {
    (void)slow_file_push_all(file, keep);
    return end(L, LUA_OK, 0);
  }
  SlowWait *op = wait_new(L, sizeof(*op), close_writer, "write");
  op->file = file;
  op->target = file->appended - keep;
  op->next = file->writers;
  file->writers = op;
  slow_files_hold(file->all);
  slow_file_watch(file);
  return wait_yield(L, &op->wait, end);
}

// ---- appending

// Appends, and hands over what the handle's buffering does not hold back.
static int put(lua_State *L, const FileHandle *handle, const char *bytes,
               size_t size) {
  SlowFile *file = handle->slow;
  if (handle->number > 0) screen_note_output(L, handle->number, bytes, size);
  int status = slow_file_append(file, bytes, size);
  if (status != 0) return status;
  bool now = file->appended - file->tried >= handle->buffer ||
             (handle->by_line && memchr(bytes, '\n', size));
  return now ? slow_file_push(file) : 0;
}

static int put_number(lua_State *L, const FileHandle *handle, int index) {
  char text[64];
  int size = lua_isinteger(L, index)
                 ? snprintf(text, sizeof(text), LUA_INTEGER_FMT,
                            (LUAI_UACINT)lua_tointeger(L, index))
                 : snprintf(text, sizeof(text), LUA_NUMBER_FMT,
                            (LUAI_UACNUMBER)lua_tonumber(L, index));
  return put(L, handle, text, (size_t)size);
}

// All values from `first` to `last`; stops writing, but not checking, at the
// first failure, as the stock function does.
static int put_values(lua_State *L, const FileHandle *handle, int first,
                      int last) {
  int status = 0;
  for (int i = first; i <= last; i++) {
    if (lua_type(L, i) == LUA_TNUMBER) {
      if (status == 0) status = put_number(L, handle, i);
    } else {
      size_t size;
      const char *bytes = luaL_checklstring(L, i, &size);
      if (status == 0) status = put(L, handle, bytes, size);
    }
  }
  return status;
}

// How much may wait without a writer's waiting: more, if a script asked for it.
static size_t backlog_of(const FileHandle *handle) {
  return handle->buffer > SLOW_BACKLOG ? handle->buffer : SLOW_BACKLOG;
}

// ---- results

// Raises what every failure of the standard output raises: a script that does
// not look at results must end when its reader is gone, as one that SIGPIPE
// stops would.
static int raise_broken(lua_State *L, int status, int number) {
  return raise_error(L, status, "write to std%s", number == 1 ? "out" : "err");
}

static int fail_write(lua_State *L, const FileHandle *handle, int status) {
  if (handle->number == 1 && status == UV_EPIPE)
    return raise_broken(L, status, 1);
  errno = -status;
  return luaL_fileresult(L, 0, NULL);
}

// The handle on top of the stack, without the wait that may lie over it.
// Raises when the task was cancelled.
static FileHandle *after_wait(lua_State *L, lua_KContext context, int *status) {
  const Wait *wait = (const Wait *)context;
  if (wait) {
    if (wait->status == UV_ECANCELED) raise_error(L, UV_ECANCELED, "write");
    lua_pop(L, 1);
  }
  FileHandle *handle = lua_touserdata(L, -1);
  *status = wait ? wait->status : handle->slow ? handle->slow->error : UV_EBADF;
  return handle;
}

static int end_write(lua_State *L, int yielded, lua_KContext context) {
  int status;
  const FileHandle *handle = after_wait(L, context, &status);
  return status == 0 ? 1 : fail_write(L, handle, status);
}

// The handle on top of the stack writes the values from `first` to `last`.
static int write_values(lua_State *L, const FileHandle *handle, int first,
                        int last) {
  if (handle->number > 0) screen_before_output(L, handle->number);
  int status = handle->writes ? put_values(L, handle, first, last) : UV_EBADF;
  if (status != 0) return fail_write(L, handle, status);
  return await_output(L, handle->slow, backlog_of(handle), end_write);
}

// ---- what Lua calls

// Ahead of a stock function that writes to the plain file at `index`.
static void before_stock_write(lua_State *L, int index) {
  const luaL_Stream *stream = luaL_testudata(L, index, LUA_FILEHANDLE);
  if (!stream || (stream->f != stdout && stream->f != stderr)) return;
  screen_before_output(L, stream->f == stdout ? 1 : 2);
  // Keeps the order of what both say where they go to one place.
  if (stream->f == stderr) (void)fflush(stdout);
}

// Stock Lua's own way with the output. Why something of stdout was lost is
// known only here: the results are then nil, a text and errno.
static int call_stock_output(lua_State *L) {
  bool was_sound = !ferror(stdout);
  int count = call_stock(L);
  if (was_sound && ferror(stdout) && count == 3)
    host_of(L)->output_error = (int)lua_tointeger(L, -1);
  return count;
}

// io.write(...)
int f_io_write(lua_State *L) {
  int last = lua_gettop(L);
  const FileHandle *handle = push_default_handle(L, DEFAULT_OUTPUT);
  if (handle) return write_values(L, handle, 1, last);
  lua_getfield(L, LUA_REGISTRYINDEX, DEFAULT_OUTPUT);
  before_stock_write(L, -1);
  lua_pop(L, 1);
  return call_stock_output(L);
}

// file:write(...)
int f_file_write(lua_State *L) {
  const FileHandle *handle = slow_handle(L, 1);
  if (!handle) {
    before_stock_write(L, 1);
    return call_stock_output(L);
  }
  int last = lua_gettop(L);
  lua_pushvalue(L, 1);
  return write_values(L, handle, 2, last);
}

static int end_flush(lua_State *L, int yielded, lua_KContext context) {
  int status;
  const FileHandle *handle = after_wait(L, context, &status);
  if (status != 0) return fail_write(L, handle, status);
  return luaL_fileresult(L, 1, NULL);
}

// The handle is on top of the stack.
static int flush_handle(lua_State *L, const FileHandle *handle) {
  (void)slow_file_push(handle->slow);
  return await_output(L, handle->slow, 0, end_flush);
}

// io.flush()
int f_io_flush(lua_State *L) {
  const FileHandle *handle = push_default_handle(L, DEFAULT_OUTPUT);
  return handle ? flush_handle(L, handle) : call_stock_output(L);
}

// file:flush()
int f_file_flush(lua_State *L) {
  const FileHandle *handle = slow_handle(L, 1);
  if (!handle) return call_stock_output(L);
  lua_settop(L, 1);
  return flush_handle(L, handle);
}

static int end_print(lua_State *L, int yielded, lua_KContext context) {
  int status;
  const FileHandle *handle = after_wait(L, context, &status);
  return status == 0 ? 0 : raise_broken(L, status, handle->number);
}

// To a plain file, through stdio. A flush that failed earlier has lost output:
// this is the first to say so.
static int put_stdio(lua_State *L, int number, const char *bytes, size_t size) {
  int lost = number == 1 ? host_of(L)->output_error : 0;
  if (lost) return -lost;
  errno = 0;
  if (number == 2) (void)fflush(stdout);
  if (fwrite(bytes, 1, size, number == 1 ? stdout : stderr) == size) return 0;
  return errno ? -errno : UV_EIO;
}

int stock_write(lua_State *L, int number, const char *bytes, size_t size) {
  screen_before_output(L, number);
  const FileHandle *handle = push_standard_handle(L, number);
  int status =
      handle ? put(L, handle, bytes, size) : put_stdio(L, number, bytes, size);
  if (status != 0) return raise_broken(L, status, number);
  if (!handle) return 0;
  return await_output(L, handle->slow, backlog_of(handle), end_print);
}

static int put_anywhere(lua_State *L, const FileHandle *handle,
                        const char *bytes, size_t size) {
  return handle ? put(L, handle, bytes, size) : put_stdio(L, 1, bytes, size);
}

// print(...): as in stock Lua, but raises where stdout is closed or full
int f_print(lua_State *L) {
  int last = lua_gettop(L);
  screen_before_output(L, 1);
  const FileHandle *handle = push_standard_handle(L, 1);
  int status = 0;
  for (int i = 1; i <= last && status == 0; i++) {
    size_t size;
    const char *text = luaL_tolstring(L, i, &size);
    if (i > 1) status = put_anywhere(L, handle, "\t", 1);
    if (status == 0) status = put_anywhere(L, handle, text, size);
    lua_pop(L, 1);
  }
  if (status == 0) status = put_anywhere(L, handle, "\n", 1);
  if (status != 0) return raise_broken(L, status, 1);
  if (!handle) return 0;
  return await_output(L, handle->slow, backlog_of(handle), end_print);
}
