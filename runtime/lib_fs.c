// sbx.core.fs: operations on paths, run by libuv's threads so that a slow disk
// stops nobody but the task that asked. All but `cwd` and `homedir` wait.

#include <lauxlib.h>
#include <stdlib.h>

#include "fs_wait.h"
#include "luax.h"
#include "reactor.h"

// The request has its own copy of every path, so none is kept on the stack.
static int end_path(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return fs_raise_path(L, op);
  uv_fs_req_cleanup(&op->request);
  return 0;
}

static int end_two_paths(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return fs_raise_two_paths(L, op);
  uv_fs_req_cleanup(&op->request);
  return 0;
}

typedef int PathStart(uv_loop_t *, uv_fs_t *, const char *, uv_fs_cb);

static int do_path(lua_State *L, const char *what, PathStart *start,
                   lua_KFunction end) {
  const char *path = fs_check_path(L, 1);
  FsWait *op = fs_wait_new(L, 0, what);
  int status = start(&reactor_of(L)->loop, &op->request, path, fs_on_done);
  return fs_wait_suspend(L, op, status, end);
}

// mkdir(path, mode)
static int f_mkdir(lua_State *L) {
  const char *path = fs_check_path(L, 1);
  int mode = fs_check_mode(L, 2);
  FsWait *op = fs_wait_new(L, 0, "mkdir");
  int status =
      uv_fs_mkdir(&reactor_of(L)->loop, &op->request, path, mode, fs_on_done);
  return fs_wait_suspend(L, op, status, end_path);
}

// chmod(path, mode)
static int f_chmod(lua_State *L) {
  const char *path = fs_check_path(L, 1);
  int mode = fs_check_mode(L, 2);
  FsWait *op = fs_wait_new(L, 0, "chmod");
  int status =
      uv_fs_chmod(&reactor_of(L)->loop, &op->request, path, mode, fs_on_done);
  return fs_wait_suspend(L, op, status, end_path);
}

// utime(path, accessed, modified): in seconds since 1970
static int f_utime(lua_State *L) {
  const char *path = fs_check_path(L, 1);
  lua_Number accessed = luaL_checknumber(L, 2);
  lua_Number modified = luaL_checknumber(L, 3);
  FsWait *op = fs_wait_new(L, 0, "utime");
  int status = uv_fs_utime(&reactor_of(L)->loop, &op->request, path, accessed,
                           modified, fs_on_done);
  return fs_wait_suspend(L, op, status, end_path);
}

// unlink(path)
static int f_unlink(lua_State *L) {
  return do_path(L, "unlink", uv_fs_unlink, end_path);
}

// rmdir(path)
static int f_rmdir(lua_State *L) {
  return do_path(L, "rmdir", uv_fs_rmdir, end_path);
}

// rename(from, to)
static int f_rename(lua_State *L) {
  const char *from = fs_check_path(L, 1);
  const char *to = fs_check_path(L, 2);
  FsWait *op = fs_wait_new(L, 0, "rename");
  int status =
      uv_fs_rename(&reactor_of(L)->loop, &op->request, from, to, fs_on_done);
  return fs_wait_suspend(L, op, status, end_two_paths);
}

// link(from, to): another name for the same file; follows no link
static int f_link(lua_State *L) {
  const char *from = fs_check_path(L, 1);
  const char *to = fs_check_path(L, 2);
  FsWait *op = fs_wait_new(L, 0, "link");
  int status =
      uv_fs_link(&reactor_of(L)->loop, &op->request, from, to, fs_on_done);
  return fs_wait_suspend(L, op, status, end_two_paths);
}

// symlink(target, path)
static int f_symlink(lua_State *L) {
  const char *target = fs_check_path(L, 1);
  const char *path = fs_check_path(L, 2);
  FsWait *op = fs_wait_new(L, 0, "symlink");
  int status = uv_fs_symlink(&reactor_of(L)->loop, &op->request, target, path,
                             0, fs_on_done);
  return fs_wait_suspend(L, op, status, end_two_paths);
}

static int end_stat(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return fs_raise_path(L, op);
  uv_stat_t stat = op->request.statbuf;
  uv_fs_req_cleanup(&op->request);
  fs_push_facts(L, &stat);
  return 1;
}

// stat(path) → facts, of what a link points to
static int f_stat(lua_State *L) {
  return do_path(L, "stat", uv_fs_stat, end_stat);
}

// lstat(path) → facts, of a link itself
static int f_lstat(lua_State *L) {
  return do_path(L, "stat", uv_fs_lstat, end_stat);
}

static int end_statfs(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return fs_raise_path(L, op);
  uv_statfs_t facts = *(const uv_statfs_t *)op->request.ptr;
  uv_fs_req_cleanup(&op->request);
  lua_Integer block = (lua_Integer)facts.f_bsize;
  lua_pushinteger(L, (lua_Integer)facts.f_blocks * block);
  lua_pushinteger(L, (lua_Integer)facts.f_bfree * block);
  lua_pushinteger(L, (lua_Integer)facts.f_bavail * block);
  return 3;
}

// statfs(path) → bytes in all, free, and free for who is not root
static int f_statfs(lua_State *L) {
  return do_path(L, "statfs", uv_fs_statfs, end_statfs);
}

// The string that the request holds (realpath, readlink, mkdtemp).
static int end_text(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return fs_raise_path(L, op);
  lua_pushstring(L, op->request.fs_type == UV_FS_MKDTEMP ? op->request.path
                                                         : op->request.ptr);
  uv_fs_req_cleanup(&op->request);
  return 1;
}

// realpath(path) → path
static int f_realpath(lua_State *L) {
  return do_path(L, "realpath", uv_fs_realpath, end_text);
}

// readlink(path) → target
static int f_readlink(lua_State *L) {
  return do_path(L, "readlink", uv_fs_readlink, end_text);
}

// mkdtemp(template) → path; the template ends in XXXXXX, the mode is 0700
static int f_mkdtemp(lua_State *L) {
  return do_path(L, "mkdtemp", uv_fs_mkdtemp, end_text);
}

// Facts of the process

typedef int TextSource(char *buffer, size_t *size);

static int push_text(lua_State *L, const char *what, TextSource *source) {
  char first[1];
  size_t size = sizeof(first);
  int status = source(first, &size);  // says how much room it needs
  while (status == UV_ENOBUFS) {
    char *room = lua_newuserdatauv(L, size, 0);
    status = source(room, &size);
    if (status != 0) continue;
    lua_pushlstring(L, room, size);
    return 1;
  }
  return raise_error(L, status, "%s", what);
}

// cwd() → the current directory
static int f_cwd(lua_State *L) {
  return push_text(L, "cwd", uv_cwd);
}

// homedir() → what $HOME says, else the user's entry
static int f_homedir(lua_State *L) {
  return push_text(L, "homedir", uv_os_homedir);
}

static const luaL_Reg functions[] = {
    {"chmod",    f_chmod   },
    {"cwd",      f_cwd     },
    {"homedir",  f_homedir },
    {"link",     f_link    },
    {"lstat",    f_lstat   },
    {"mkdir",    f_mkdir   },
    {"mkdtemp",  f_mkdtemp },
    {"readlink", f_readlink},
    {"realpath", f_realpath},
    {"rename",   f_rename  },
    {"rmdir",    f_rmdir   },
    {"stat",     f_stat    },
    {"statfs",   f_statfs  },
    {"symlink",  f_symlink },
    {"unlink",   f_unlink  },
    {"utime",    f_utime   },
    {NULL,       NULL      },
};

int luaopen_sbx_core_fs(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
