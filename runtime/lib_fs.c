// sbx.core.fs: file operations, run by libuv's threads so that a slow disk
// stops nobody but the task that asked. Every function here waits. A cancelled
// operation is waited for when a thread is already at it: what it did, it did.

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "luax.h"
#include "reactor.h"
#include "wait.h"

#define FILE_TYPE "sbx.file"
#define MAX_READ ((lua_Integer)16 * 1024 * 1024)

// The userdata holds a descriptor, -1 once closed.
typedef struct File {
  int fd;
  bool busy;  // an operation is under way
} File;

typedef struct FsWait {
  Wait wait;
  uv_fs_t request;
  File *file;      // whose operation this is, or that open fills, else NULL
  ssize_t result;  // of the request, once it is through
  bool through;    // the request's callback came
  char data[];     // room for a read
} FsWait;

// The request is through with its result. What nobody takes any more, a
// descriptor or a temporary directory, is undone here.
static void on_fs(uv_fs_t *request) {
  FsWait *op = request->data;
  op->through = true;
  op->result = request->result;
  bool late = op->wait.settled;
  if (request->fs_type == UV_FS_OPEN && request->result >= 0) {
    if (late) {
      (void)close((int)request->result);
    } else {
      op->file->fd = (int)request->result;
    }
  }
  if (late && request->fs_type == UV_FS_MKDTEMP && request->result == 0) {
    (void)rmdir(request->path);
  }
  if (late) {
    wait_done(&op->wait);
  } else {
    wait_settle(&op->wait, request->result < 0 ? (int)request->result : 0);
  }
}

static void close_fs(Wait *wait) {
  FsWait *op = (FsWait *)wait;
  if (op->through) {
    wait_done(wait);
  } else {
    (void)uv_cancel((uv_req_t *)&op->request);  // perhaps too late
  }
}

static FsWait *new_op(lua_State *L, size_t room, const char *what) {
  FsWait *op = wait_new(L, sizeof(*op) + room, close_fs, what);
  op->request.data = op;
  return op;
}

// Suspends on a request whose start returned `status`. A failed start means
// that the arguments could not be copied.
static int suspend(lua_State *L, FsWait *op, int status, lua_KFunction end) {
  if (status >= 0) return wait_yield(L, &op->wait, end);
  if (op->file != NULL) op->file->busy = false;
  wait_drop(L, &op->wait);
  return raise_error(L, status, "%s", op->wait.what);
}

// Raises the failure of an operation on a path: argument 1 and perhaps 2.
static int raise_path(lua_State *L, FsWait *op, bool two) {
  uv_fs_req_cleanup(&op->request);
  const char *path = lua_tostring(L, 1);
  if (!two) {
    return raise_error(L, op->wait.status, "%s %s", op->wait.what, path);
  }
  return raise_error(L, op->wait.status, "%s %s to %s", op->wait.what, path,
                     lua_tostring(L, 2));
}

static const char *check_path(lua_State *L, int index) {
  size_t size;
  const char *path = luaL_checklstring(L, index, &size);
  luaL_argcheck(L, size > 0, index, "empty path");
  luaL_argcheck(L, strlen(path) == size, index, "contains a zero byte");
  return path;
}

static int check_mode(lua_State *L, int index) {
  lua_Integer mode = luaL_checkinteger(L, index);
  luaL_argcheck(L, mode >= 0 && mode <= 07777, index, "not a file mode");
  return (int)mode;
}

// Operations on paths

// The request has its own copy of every path, so none is kept on the stack.
static int end_path(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return raise_path(L, op, false);
  uv_fs_req_cleanup(&op->request);
  return 0;
}

static int end_two_paths(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return raise_path(L, op, true);
  uv_fs_req_cleanup(&op->request);
  return 0;
}

typedef int PathStart(uv_loop_t *, uv_fs_t *, const char *, uv_fs_cb);

static int do_path(lua_State *L, const char *what, PathStart *start,
                   lua_KFunction end) {
  const char *path = check_path(L, 1);
  FsWait *op = new_op(L, 0, what);
  int status = start(&reactor_of(L)->loop, &op->request, path, on_fs);
  return suspend(L, op, status, end);
}

// mkdir(path, mode)
static int f_mkdir(lua_State *L) {
  const char *path = check_path(L, 1);
  int mode = check_mode(L, 2);
  FsWait *op = new_op(L, 0, "mkdir");
  int status =
      uv_fs_mkdir(&reactor_of(L)->loop, &op->request, path, mode, on_fs);
  return suspend(L, op, status, end_path);
}

// chmod(path, mode)
static int f_chmod(lua_State *L) {
  const char *path = check_path(L, 1);
  int mode = check_mode(L, 2);
  FsWait *op = new_op(L, 0, "chmod");
  int status =
      uv_fs_chmod(&reactor_of(L)->loop, &op->request, path, mode, on_fs);
  return suspend(L, op, status, end_path);
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
  const char *from = check_path(L, 1);
  const char *to = check_path(L, 2);
  FsWait *op = new_op(L, 0, "rename");
  int status =
      uv_fs_rename(&reactor_of(L)->loop, &op->request, from, to, on_fs);
  return suspend(L, op, status, end_two_paths);
}

// symlink(target, path)
static int f_symlink(lua_State *L) {
  const char *target = check_path(L, 1);
  const char *path = check_path(L, 2);
  FsWait *op = new_op(L, 0, "symlink");
  int status =
      uv_fs_symlink(&reactor_of(L)->loop, &op->request, target, path, 0, on_fs);
  return suspend(L, op, status, end_two_paths);
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

// Pushes {type, size, mode, mtime, uid, gid}; mtime in seconds since 1970.
static void push_stat(lua_State *L, const uv_stat_t *stat) {
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

static int end_stat(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return raise_path(L, op, false);
  uv_stat_t stat = op->request.statbuf;
  uv_fs_req_cleanup(&op->request);
  push_stat(L, &stat);
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

// The string that the request holds (realpath, readlink, mkdtemp).
static int end_text(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return raise_path(L, op, false);
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

static int end_list(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return raise_path(L, op, false);
  lua_newtable(L);
  uv_dirent_t entry;
  for (lua_Integer i = 1; uv_fs_scandir_next(&op->request, &entry) == 0; i++) {
    lua_pushstring(L, entry.name);
    lua_rawseti(L, -2, i);
  }
  uv_fs_req_cleanup(&op->request);
  return 1;
}

// list(path) → names, without "." and ".."
static int f_list(lua_State *L) {
  const char *path = check_path(L, 1);
  FsWait *op = new_op(L, 0, "list");
  int status =
      uv_fs_scandir(&reactor_of(L)->loop, &op->request, path, 0, on_fs);
  return suspend(L, op, status, end_list);
}

// Open files

static File *check_file(lua_State *L) {
  File *file = luaL_checkudata(L, 1, FILE_TYPE);
  if (file->fd < 0) raise_error(L, UV_EBADF, "closed file");
  if (file->busy) luaL_error(L, "another task is using the file");
  return file;
}

// Starts to count an operation on the file as under way.
static FsWait *new_file_op(lua_State *L, File *file, size_t room,
                           const char *what) {
  FsWait *op = new_op(L, room, what);
  op->file = file;
  file->busy = true;
  return op;
}

static int end_open(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  if (op->wait.status != 0) return raise_path(L, op, false);
  uv_fs_req_cleanup(&op->request);
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
  const char *path = check_path(L, 1);
  int mode = luaL_checkoption(L, 2, NULL, modes);
  int perm = check_mode(L, 3);
  File *file = lua_newuserdatauv(L, sizeof(*file), 1);
  file->fd = -1;
  file->busy = false;
  luaL_setmetatable(L, FILE_TYPE);
  lua_pushvalue(L, 1);  // for messages
  lua_setiuservalue(L, -2, 1);
  FsWait *op = new_op(L, 0, "open");
  op->file = file;
  int status =
      uv_fs_open(&reactor_of(L)->loop, &op->request, path,
                 flags[mode] | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, perm, on_fs);
  return suspend(L, op, status, end_open);
}

// Ends an operation on the file at index 1; raises when it failed.
static void finish_file_op(lua_State *L, FsWait *op) {
  op->file->busy = false;
  if (op->wait.status != 0) {
    uv_fs_req_cleanup(&op->request);
    lua_getiuservalue(L, 1, 1);
    raise_error(L, op->wait.status, "%s %s", op->wait.what,
                lua_tostring(L, -1));
  }
}

static int end_read(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  finish_file_op(L, op);
  uv_fs_req_cleanup(&op->request);
  if (op->result == 0) {
    lua_pushnil(L);
  } else {
    lua_pushlstring(L, op->data, (size_t)op->result);
  }
  return 1;
}

// read(n, offset?) → 1 to n bytes, or nil at the end
static int f_read(lua_State *L) {
  File *file = check_file(L);
  lua_Integer size = luaL_checkinteger(L, 2);
  luaL_argcheck(L, size >= 1 && size <= MAX_READ, 2, "must be 1 to 16777216");
  lua_Integer offset = luaL_optinteger(L, 3, -1);
  FsWait *op = new_file_op(L, file, (size_t)size, "read");
  uv_buf_t buffer = uv_buf_init(op->data, (unsigned)size);
  int status = uv_fs_read(&reactor_of(L)->loop, &op->request, file->fd, &buffer,
                          1, offset, on_fs);
  return suspend(L, op, status, end_read);
}

static int end_write(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  finish_file_op(L, op);
  uv_fs_req_cleanup(&op->request);
  lua_pushinteger(L, op->result);
  return 1;
}

// write(bytes, first?) → how many bytes from position `first` were written,
// perhaps not all; the string stays on this stack meanwhile
static int f_write(lua_State *L) {
  File *file = check_file(L);
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  lua_Integer first = luaL_optinteger(L, 3, 1);
  luaL_argcheck(L, first >= 1 && (size_t)first <= size + 1, 3, "out of range");
  size_t left = size - (size_t)(first - 1);
  if (left > (size_t)MAX_READ) left = (size_t)MAX_READ;
  FsWait *op = new_file_op(L, file, 0, "write");
  // libuv does not write to the bytes; its type just cannot say so.
  uv_buf_t buffer = uv_buf_init((char *)bytes + (first - 1), (unsigned)left);
  int status = uv_fs_write(&reactor_of(L)->loop, &op->request, file->fd,
                           &buffer, 1, -1, on_fs);
  return suspend(L, op, status, end_write);
}

static int end_file(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  finish_file_op(L, op);
  uv_fs_req_cleanup(&op->request);
  return 0;
}

// sync(): returns once the disk has it
static int f_sync(lua_State *L) {
  File *file = check_file(L);
  FsWait *op = new_file_op(L, file, 0, "sync");
  int status = uv_fs_fsync(&reactor_of(L)->loop, &op->request, file->fd, on_fs);
  return suspend(L, op, status, end_file);
}

static int end_fstat(lua_State *L, int status, lua_KContext context) {
  FsWait *op = (FsWait *)context;
  finish_file_op(L, op);
  uv_stat_t stat = op->request.statbuf;
  uv_fs_req_cleanup(&op->request);
  push_stat(L, &stat);
  return 1;
}

// stat() → facts
static int f_fstat(lua_State *L) {
  File *file = check_file(L);
  FsWait *op = new_file_op(L, file, 0, "stat");
  int status = uv_fs_fstat(&reactor_of(L)->loop, &op->request, file->fd, on_fs);
  return suspend(L, op, status, end_fstat);
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
    {"stat",  f_fstat},
    {"close", f_close},
    {NULL,    NULL   },
};

static const luaL_Reg functions[] = {
    {"chmod",    f_chmod   },
    {"list",     f_list    },
    {"lstat",    f_lstat   },
    {"mkdir",    f_mkdir   },
    {"mkdtemp",  f_mkdtemp },
    {"open",     f_open    },
    {"readlink", f_readlink},
    {"realpath", f_realpath},
    {"rename",   f_rename  },
    {"rmdir",    f_rmdir   },
    {"stat",     f_stat    },
    {"symlink",  f_symlink },
    {"unlink",   f_unlink  },
    {NULL,       NULL      },
};

int luaopen_sbx_core_fs(lua_State *L) {
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
