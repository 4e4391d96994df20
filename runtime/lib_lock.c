// sbx.core.lock: locks between processes, on files. One try at a time: who has
// to wait tries again later, so that no thread is held and a cancel is no
// trouble.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "fs_job.h"
#include "fs_wait.h"
#include "luax.h"

#define LOCK_TYPE "sbx.lock"

typedef struct Lock {
  int fd;  // -1 while not held
} Lock;

typedef struct LockJob {
  FsJob job;  // first, so that an FsJob * is a LockJob *
  Lock *lock;
  const char *path;
  int fd;  // what `run` has got
} LockJob;

// In a thread. The lock goes with the open file, which no child inherits.
static int run_try(FsJob *job) {
  LockJob *lock_job = (LockJob *)job;
  int fd = open(lock_job->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
                S_IRUSR | S_IWUSR);
  if (fd < 0) return -errno;
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    int status = -errno;
    (void)close(fd);
    return status;
  }
  lock_job->fd = fd;
  return 0;
}

static void on_over(FsJob *job) {
  LockJob *lock_job = (LockJob *)job;
  if (lock_job->fd < 0) return;
  if (job->wait.settled)
    (void)close(lock_job->fd);  // cancelled: nobody takes it
  else
    lock_job->lock->fd = lock_job->fd;
}

// Stack: path, lock, job.
static int end_try(lua_State *L, int status, lua_KContext context) {
  const LockJob *lock_job = (const LockJob *)context;
  int result = lock_job->job.wait.status;
  if (result == UV_EAGAIN) {
    lua_pushnil(L);
    return 1;
  }
  if (result != 0) return raise_error(L, result, "lock %s", lua_tostring(L, 1));
  lua_pushvalue(L, 2);
  return 1;
}

// try(path) -> Lock, or nil while another one holds it. Makes the file where
// there is none, for its owner alone. Waits, for the disk only.
static int f_try(lua_State *L) {
  const char *path = fs_check_path(L, 1);
  lua_settop(L, 1);
  Lock *lock = lua_newuserdatauv(L, sizeof(*lock), 0);
  lock->fd = -1;
  luaL_setmetatable(L, LOCK_TYPE);
  LockJob *lock_job = fs_job_new(L, sizeof(*lock_job), run_try, "lock");
  lock_job->job.over = on_over;
  lock_job->lock = lock;
  lock_job->path = path;
  lock_job->fd = -1;
  return fs_job_yield(L, &lock_job->job, end_try);
}

// lock:close(): lets the next one have it. Twice is harmless.
static int gc_lock(lua_State *L) {
  Lock *lock = luaL_checkudata(L, 1, LOCK_TYPE);
  if (lock->fd >= 0) (void)close(lock->fd);
  lock->fd = -1;
  return 0;
}

static const luaL_Reg lock_methods[] = {
    {"close", gc_lock},
    {NULL,    NULL   },
};

static const luaL_Reg functions[] = {
    {"try", f_try},
    {NULL,  NULL },
};

int luaopen_sbx_core_lock(lua_State *L) {
  (void)luaL_newmetatable(L, LOCK_TYPE);
  lua_pushcfunction(L, gc_lock);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, gc_lock);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, lock_methods);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
