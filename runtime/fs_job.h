// A wait for work of our own on one of libuv's threads, for what takes more
// than one system call: reading a folder, copying a file, removing a tree.

#ifndef SBX_FS_JOB_H
#define SBX_FS_JOB_H

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "wait.h"

typedef struct FsJob FsJob;

struct FsJob {
  Wait wait;
  uv_work_t work;
  int (*run)(FsJob *job);    // in a thread: returns 0 or a libuv error
  void (*over)(FsJob *job);  // on the loop, once no thread is at it; or NULL
  atomic_bool stop;          // cancelled: `run` gives up as soon as it looks
  int result;                // what `run` returned
  bool through;              // libuv has let go of the block
};

// Step "new": an operation of `size` bytes whose first member is an FsJob.
void *fs_job_new(lua_State *L, size_t size, int (*run)(FsJob *job),
                 const char *what);

// The same for what must be done in a cancelled task too, such as closing: a
// cancel does not end it.
void *fs_job_new_shielded(lua_State *L, size_t size, int (*run)(FsJob *job),
                          const char *what);

// Starts the job and suspends; use as `return fs_job_yield(L, job, end)`. What
// `run` needs of Lua's, such as paths, must be on the stack. A cancelled job is
// waited for: what it did by then, it did.
int fs_job_yield(lua_State *L, FsJob *job, lua_KFunction end);

#endif
