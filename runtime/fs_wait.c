// The wait for a file request. A cancelled operation is waited for when a
// thread is already at it: what it did, it did.

#include "fs_wait.h"

#include <lauxlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "luax.h"
#include "reactor.h"

// Undoes what a request made for a task that does not want it any more.
static void undo(const uv_fs_t *request) {
  if (request->result < 0) return;
  switch (request->fs_type) {
  case UV_FS_OPEN:
    (void)close((int)request->result);
    break;
  case UV_FS_MKSTEMP:
    (void)close((int)request->result);
    (void)unlink(request->path);
    break;
  case UV_FS_MKDTEMP:
    (void)rmdir(request->path);
    break;
  default:
    break;
  }
}

void fs_on_done(uv_fs_t *request) {
  FsWait *op = request->data;
  op->through = true;
  op->result = request->result;
  if (op->wait.settled) {
    undo(request);
    wait_done(&op->wait);
    return;
  }
  bool opened =
      request->fs_type == UV_FS_OPEN || request->fs_type == UV_FS_MKSTEMP;
  if (opened && request->result >= 0) op->file->fd = (int)request->result;
  wait_settle(&op->wait, request->result < 0 ? (int)request->result : 0);
}

static void close_fs(Wait *wait) {
  FsWait *op = (FsWait *)wait;
  if (op->through) {
    wait_done(wait);
  } else {
    (void)uv_cancel((uv_req_t *)&op->request);  // perhaps too late
  }
}

FsWait *fs_wait_new(lua_State *L, size_t room, const char *what) {
  FsWait *op = wait_new(L, sizeof(*op) + room, close_fs, what);
  op->request.data = op;
  return op;
}

int fs_wait_suspend(lua_State *L, FsWait *op, int status, lua_KFunction end) {
  if (status >= 0) return wait_yield(L, &op->wait, end);
  // The arguments could not be copied.
  if (op->file != NULL) op->file->busy = false;
  wait_drop(L, &op->wait);
  return raise_error(L, status, "%s", op->wait.what);
}

int fs_raise_path(lua_State *L, FsWait *op) {
  uv_fs_req_cleanup(&op->request);
  return raise_error(L, op->wait.status, "%s %s", op->wait.what,
                     lua_tostring(L, 1));
}

int fs_raise_two_paths(lua_State *L, FsWait *op) {
  uv_fs_req_cleanup(&op->request);
  return raise_error(L, op->wait.status, "%s %s to %s", op->wait.what,
                     lua_tostring(L, 1), lua_tostring(L, 2));
}

const char *fs_check_path(lua_State *L, int index) {
  size_t size;
  const char *path = luaL_checklstring(L, index, &size);
  luaL_argcheck(L, size > 0, index, "empty path");
  luaL_argcheck(L, strlen(path) == size, index, "contains a zero byte");
  return path;
}

int fs_check_mode(lua_State *L, int index) {
  lua_Integer mode = luaL_checkinteger(L, index);
  luaL_argcheck(L, mode >= 0 && mode <= 07777, index, "not a file mode");
  return (int)mode;
}

static const char *type_name(uint64_t mode) {
  switch (mode & S_IFMT) {
  case S_IFREG:
    return "file";
  case S_IFDIR:
    return "directory";
  case S_IFLNK:
    return "symlink";
  case S_IFIFO:
    return "fifo";
  case S_IFSOCK:
    return "socket";
  case S_IFCHR:
  case S_IFBLK:
    return "device";
  default:
    return "unknown";
  }
}

void fs_push_facts(lua_State *L, const uv_stat_t *stat) {
  lua_createtable(L, 0, 6);
  lua_pushstring(L, type_name(stat->st_mode));
  lua_setfield(L, -2, "type");
  lua_pushinteger(L, (lua_Integer)stat->st_size);
  lua_setfield(L, -2, "size");
  lua_pushinteger(L, (lua_Integer)(stat->st_mode & 07777));
  lua_setfield(L, -2, "mode");
  lua_pushnumber(L, (double)stat->st_mtim.tv_sec +
                        (double)stat->st_mtim.tv_nsec / 1e9);
  lua_setfield(L, -2, "mtime");
  lua_pushinteger(L, (lua_Integer)stat->st_uid);
  lua_setfield(L, -2, "uid");
  lua_pushinteger(L, (lua_Integer)stat->st_gid);
  lua_setfield(L, -2, "gid");
}
