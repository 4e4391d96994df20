// sbx.core.tree: work on folders that takes many system calls, each as one job
// of a thread: listing, copying a file, removing a tree.

#include <fcntl.h>
#include <lauxlib.h>
#include <unistd.h>

#include "fs_copy.h"
#include "fs_job.h"
#include "fs_list.h"
#include "fs_listing.h"
#include "fs_remove.h"
#include "fs_wait.h"
#include "luax.h"

typedef struct ListJob {
  FsJob job;
  const char *path;
  bool follow;  // look at where links lead
  bool nested;  // the folder itself must be no link
  FsList *list;
} ListJob;

static int run_list(FsJob *job) {
  const ListJob *op = (const ListJob *)job;
  int fd = fs_open_long(op->path, O_RDONLY | O_DIRECTORY | O_NONBLOCK |
                                      (op->nested ? O_NOFOLLOW : 0));
  if (fd < 0) return fd;
  int status = fs_list_read(op->list, fd, op->follow, &op->job.stop);
  (void)close(fd);
  return status;
}

static int end_list(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) {
    return raise_error(L, wait->status, "list %s", lua_tostring(L, 1));
  }
  lua_pushvalue(L, -2);  // the listing, under the wait
  return 1;
}

// list(path, follow, nested) → Listing, sorted by bytes. `nested` refuses a
// link in the folder's place.
static int f_list(lua_State *L) {
  const char *path = fs_check_path(L, 1);
  bool follow = lua_toboolean(L, 2);
  bool nested = lua_toboolean(L, 3);
  FsList *list = fs_listing_push(L);
  ListJob *op = fs_job_new(L, sizeof(*op), run_list, "list");
  op->path = path;
  op->follow = follow;
  op->nested = nested;
  op->list = list;
  return fs_job_yield(L, &op->job, end_list);
}

// Copying

typedef struct CopyJob {
  FsJob job;
  FsCopy copy;
} CopyJob;

static int run_copy(FsJob *job) {
  const CopyJob *op = (const CopyJob *)job;
  return fs_copy_file(&op->copy, &op->job.stop);
}

static int run_copy_facts(FsJob *job) {
  const CopyJob *op = (const CopyJob *)job;
  return fs_copy_folder_facts(op->copy.from, op->copy.to, op->copy.preserve);
}

static int end_copy(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status == 0) return 0;
  return raise_error(L, wait->status, "copy %s to %s", lua_tostring(L, 1),
                     lua_tostring(L, 2));
}

// copy_file(from, to, temporary, overwrite, preserve): see fs_copy.h
static int f_copy_file(lua_State *L) {
  FsCopy copy = {
      .from = fs_check_path(L, 1),
      .to = fs_check_path(L, 2),
      .temporary = fs_check_path(L, 3),
      .overwrite = lua_toboolean(L, 4),
      .preserve = lua_toboolean(L, 5),
  };
  CopyJob *op = fs_job_new(L, sizeof(*op), run_copy, "copy");
  op->copy = copy;
  return fs_job_yield(L, &op->job, end_copy);
}

// copy_facts(from, to, preserve): of a folder, see fs_copy.h
static int f_copy_facts(lua_State *L) {
  FsCopy copy = {
      .from = fs_check_path(L, 1),
      .to = fs_check_path(L, 2),
      .preserve = lua_toboolean(L, 3),
  };
  CopyJob *op = fs_job_new(L, sizeof(*op), run_copy_facts, "copy");
  op->copy = copy;
  return fs_job_yield(L, &op->job, end_copy);
}

// Removing

typedef struct RemoveJob {
  FsJob job;
  const char *path;
  FsFailure failure;
} RemoveJob;

static int run_remove(FsJob *job) {
  RemoveJob *op = (RemoveJob *)job;
  return fs_remove_tree(op->path, &op->job.stop, &op->failure);
}

static int end_remove(lua_State *L, int status, lua_KContext context) {
  const RemoveJob *op = (const RemoveJob *)context;
  if (op->job.wait.status == 0) return 0;
  return raise_error(L, op->job.wait.status, "%s %s", op->failure.verb,
                     op->failure.path);
}

// remove(path): a file, a link or a folder with all it holds
static int f_remove(lua_State *L) {
  const char *path = fs_check_path(L, 1);
  RemoveJob *op = fs_job_new(L, sizeof(*op), run_remove, "remove");
  op->path = path;
  op->failure.verb = "remove";
  return fs_job_yield(L, &op->job, end_remove);
}

static const luaL_Reg functions[] = {
    {"copy_facts", f_copy_facts},
    {"copy_file",  f_copy_file },
    {"list",       f_list      },
    {"remove",     f_remove    },
    {NULL,         NULL        },
};

int luaopen_sbx_core_tree(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
