// sbx.core.file: open files. All operations but `close`, `tell` and `seek`
// wait.
//
// The position in a file is kept here and moves when a task takes the result: a
// read that was cancelled on the way is read again. Only where there is no
// position, as in a terminal, or none that counts, as in appending, is it left
// to the kernel.

#include <fcntl.h>
#include <lauxlib.h>
#include <unistd.h>

#include "fs_wait.h"
#include "luax.h"
#include "reactor.h"

#define FILE_TYPE "sbx.file"
#define MAX_READ ((lua_Integer)16 * 1024 * 1024)

enum { FILE_PATH = 1 };  // the user value, for messages

// Pushes a File in its closed state; its path is the value at `index`.
static File *push_file(lua_State *L, int index) {
  File *file = lua_newuserdatauv(L, sizeof(*file), 1);
  *file = (File){.fd = -1, .position = -1};
  luaL_setmetatable(L, FILE_TYPE);
  lua_pushvalue(L, index);
  lua_setiuservalue(L, -2, FILE_PATH);
  return file;
}

static File *check_file(lua_State *L) {
  File *file = luaL_checkudata(L, 1, FILE_TYPE);
  if (file->fd < 0) raise_error(L, UV_EBADF, "closed file");
  if (file->busy) luaL_error(L, "another task is using the file");
  return file;
}

// Opening

static int end_open(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return fs_raise_path(L, op);
  uv_fs_req_cleanup(&op->request);
  File *file = op->file;
  bool moves = file->position == 0 && lseek(file->fd, 0, SEEK_CUR) >= 0;
  file->position = moves ? 0 : -1;
  lua_pushvalue(L, -2);  // the file, under the wait
  return 1;
}

// open(path, mode, perm) → File. mode: "r" "w" "a" "r+" "wx". The descriptor is
// close-on-exec and non-blocking, so that a FIFO cannot hold a thread for ever.
static int f_open(lua_State *L) {
  static const char *const modes[] = {"r", "w", "a", "r+", "wx", NULL};
  static const int flags[] = {
      O_RDONLY, O_WRONLY | O_CREAT | O_TRUNC, O_WRONLY | O_CREAT | O_APPEND,
      O_RDWR,   O_WRONLY | O_CREAT | O_EXCL,
  };
  const char *path = fs_check_path(L, 1);
  int mode = luaL_checkoption(L, 2, NULL, modes);
  int perm = fs_check_mode(L, 3);
  File *file = push_file(L, 1);
  if (!(flags[mode] & O_APPEND)) file->position = 0;
  FsWait *op = fs_wait_new(L, 0, "open");
  op->file = file;
  int status = uv_fs_open(&reactor_of(L)->loop, &op->request, path,
                          flags[mode] | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, perm,
                          fs_on_done);
  return fs_wait_suspend(L, op, status, end_open);
}

static int end_temporary(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return fs_raise_path(L, op);
  lua_pushvalue(L, -2);  // the file, under the wait
  lua_pushstring(L, op->request.path);
  uv_fs_req_cleanup(&op->request);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, -3, FILE_PATH);
  return 2;
}

// temporary(template) → File to read and write, path. The template ends in
// XXXXXX, the mode is 0600.
static int f_temporary(lua_State *L) {
  const char *template = fs_check_path(L, 1);
  File *file = push_file(L, 1);
  file->position = 0;
  FsWait *op = fs_wait_new(L, 0, "mkstemp");
  op->file = file;
  int status =
      uv_fs_mkstemp(&reactor_of(L)->loop, &op->request, template, fs_on_done);
  return fs_wait_suspend(L, op, status, end_temporary);
}

// Operations on an open file

// Starts to count an operation on the file as under way.
static FsWait *new_file_op(lua_State *L, File *file, size_t room,
                           const char *what) {
  FsWait *op = fs_wait_new(L, room, what);
  op->file = file;
  file->busy = true;
  return op;
}

// Ends an operation on the file at index 1; raises when it failed.
static void finish_file_op(lua_State *L, FsWait *op) {
  File *file = op->file;
  file->busy = false;
  uv_fs_req_cleanup(&op->request);
  if (op->wait.status != 0) {
    lua_getiuservalue(L, 1, FILE_PATH);
    raise_error(L, op->wait.status, "%s %s", op->wait.what,
                lua_tostring(L, -1));
  }
  if (op->advances) file->position += op->result;
}

// The offset at `index`, or the file's position.
static int64_t opt_offset(lua_State *L, int index, const File *file) {
  if (lua_isnoneornil(L, index)) return file->position;
  lua_Integer offset = luaL_checkinteger(L, index);
  luaL_argcheck(L, offset >= 0, index, "must not be negative");
  return offset;
}

static int end_read(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  finish_file_op(L, op);
  if (op->result == 0) {
    lua_pushnil(L);
  } else {
    lua_pushlstring(L, op->data, (size_t)op->result);
  }
  return 1;
}

// read(n, offset?) → 1 to n bytes, or nil at the end; with an offset the
// position stays
static int f_read(lua_State *L) {
  File *file = check_file(L);
  lua_Integer size = luaL_checkinteger(L, 2);
  luaL_argcheck(L, size >= 1 && size <= MAX_READ, 2, "must be 1 to 16777216");
  int64_t offset = opt_offset(L, 3, file);
  bool advances = lua_isnoneornil(L, 3) && offset >= 0;
  FsWait *op = new_file_op(L, file, (size_t)size, "read");
  op->advances = advances;
  uv_buf_t buffer = uv_buf_init(op->data, (unsigned)size);
  int status = uv_fs_read(&reactor_of(L)->loop, &op->request, file->fd, &buffer,
                          1, offset, fs_on_done);
  return fs_wait_suspend(L, op, status, end_read);
}

static int end_write(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  finish_file_op(L, op);
  lua_pushinteger(L, op->result);
  return 1;
}

// write(bytes, first?, offset?) → how many bytes from position `first` of them
// were written, perhaps not all; the string stays on this stack meanwhile
static int f_write(lua_State *L) {
  File *file = check_file(L);
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  lua_Integer first = luaL_optinteger(L, 3, 1);
  luaL_argcheck(L, first >= 1 && (size_t)first <= size + 1, 3, "out of range");
  int64_t offset = opt_offset(L, 4, file);
  bool advances = lua_isnoneornil(L, 4) && offset >= 0;
  size_t left = size - (size_t)(first - 1);
  if (left > (size_t)MAX_READ) left = (size_t)MAX_READ;
  FsWait *op = new_file_op(L, file, 0, "write");
  op->advances = advances;
  // libuv does not write to the bytes; its type just cannot say so.
  uv_buf_t buffer = uv_buf_init((char *)bytes + (first - 1), (unsigned)left);
  int status = uv_fs_write(&reactor_of(L)->loop, &op->request, file->fd,
                           &buffer, 1, offset, fs_on_done);
  return fs_wait_suspend(L, op, status, end_write);
}

static int end_sync(lua_State *L, int status, lua_KContext context) {
  finish_file_op(L, (FsWait *)context);
  return 0;
}

// sync(): returns once the disk has it
static int f_sync(lua_State *L) {
  File *file = check_file(L);
  FsWait *op = new_file_op(L, file, 0, "sync");
  int status =
      uv_fs_fsync(&reactor_of(L)->loop, &op->request, file->fd, fs_on_done);
  return fs_wait_suspend(L, op, status, end_sync);
}

static int end_stat(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  uv_stat_t stat = op->request.statbuf;
  finish_file_op(L, op);
  fs_push_facts(L, &stat);
  return 1;
}

// stat() → facts
static int f_stat(lua_State *L) {
  File *file = check_file(L);
  FsWait *op = new_file_op(L, file, 0, "stat");
  int status =
      uv_fs_fstat(&reactor_of(L)->loop, &op->request, file->fd, fs_on_done);
  return fs_wait_suspend(L, op, status, end_stat);
}

// tell() → the position, or nil where there is none
static int f_tell(lua_State *L) {
  const File *file = check_file(L);
  if (file->position < 0) return 0;
  lua_pushinteger(L, file->position);
  return 1;
}

// seek(position): where the next read or write is
static int f_seek(lua_State *L) {
  File *file = check_file(L);
  lua_Integer position = luaL_checkinteger(L, 2);
  luaL_argcheck(L, position >= 0, 2, "must not be negative");
  if (file->position < 0) {
    lua_getiuservalue(L, 1, FILE_PATH);
    return raise_error(L, UV_ESPIPE, "seek %s", lua_tostring(L, -1));
  }
  file->position = position;
  return 0;
}

static int gc_file(lua_State *L) {
  File *file = lua_touserdata(L, 1);
  int fd = file->fd;
  file->fd = -1;
  if (fd >= 0) (void)close(fd);  // who must know of a failure calls sync first
  return 0;
}

// close(): closing twice is fine. Does not wait; raises while an operation
// runs, for its thread would go on with a number that may be another file's.
static int f_close(lua_State *L) {
  const File *file = luaL_checkudata(L, 1, FILE_TYPE);
  if (file->busy) return luaL_error(L, "another task is using the file");
  return gc_file(L);
}

static const luaL_Reg methods[] = {
    {"read",  f_read },
    {"write", f_write},
    {"sync",  f_sync },
    {"stat",  f_stat },
    {"tell",  f_tell },
    {"seek",  f_seek },
    {"close", f_close},
    {NULL,    NULL   },
};

static const luaL_Reg functions[] = {
    {"open",      f_open     },
    {"temporary", f_temporary},
    {NULL,        NULL       },
};

int luaopen_sbx_core_file(lua_State *L) {
  luaL_newmetatable(L, FILE_TYPE);
  lua_pushcfunction(L, gc_file);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, f_close);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
