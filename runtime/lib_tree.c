// sbx.core.tree: work on folders that takes many system calls, each as one job
// of a thread: listing, copying a file, removing a tree.

#include <fcntl.h>
#include <lauxlib.h>
#include <stdio.h>
#include <unistd.h>

#include "fs_copy.h"
#include "fs_job.h"
#include "fs_list.h"
#include "fs_remove.h"
#include "fs_wait.h"
#include "luax.h"

#define LISTING_TYPE "sbx.listing"

// The userdata: what a folder held, taken one by one.
typedef struct Listing {
  FsList list;
  size_t next;
} Listing;

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
  Listing *listing = lua_newuserdatauv(L, sizeof(*listing), 0);
  *listing = (Listing){0};
  luaL_setmetatable(L, LISTING_TYPE);
  ListJob *op = fs_job_new(L, sizeof(*op), run_list, "list");
  op->path = path;
  op->follow = follow;
  op->nested = nested;
  op->list = &listing->list;
  return fs_job_yield(L, &op->job, end_list);
}

static const char *type_of_letter(char letter) {
  switch (letter) {
  case 'f':
  case 'F':
    return "file";
  case 'd':
  case 'D':
    return "directory";
  case 'l':
    return "symlink";
  case 'p':
  case 'P':
    return "fifo";
  case 's':
  case 'S':
    return "socket";
  case 'c':
  case 'C':
    return "device";
  default:
    return "unknown";
  }
}

// next() → name, type, whether a link leads to it; or nothing at the end
static int f_next(lua_State *L) {
  Listing *listing = luaL_checkudata(L, 1, LISTING_TYPE);
  if (listing->next >= listing->list.count) {
    fs_list_free(&listing->list);
    listing->next = 0;
    return 0;
  }
  const char *entry = listing->list.entries[listing->next++];
  lua_pushstring(L, entry + 1);
  lua_pushstring(L, type_of_letter(entry[0]));
  lua_pushboolean(L, entry[0] >= 'A' && entry[0] <= 'Z');
  return 3;
}

// names(list, max) → appends up to `max` names; true when more are left
static int f_names(lua_State *L) {
  Listing *listing = luaL_checkudata(L, 1, LISTING_TYPE);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_Integer max = luaL_checkinteger(L, 3);
  lua_Integer size = (lua_Integer)lua_rawlen(L, 2);
  for (; max > 0 && listing->next < listing->list.count; max--) {
    lua_pushstring(L, listing->list.entries[listing->next++] + 1);
    lua_rawseti(L, 2, ++size);
  }
  lua_pushboolean(L, listing->next < listing->list.count);
  return 1;
}

// identity() → a text that no other folder has at the time
static int f_identity(lua_State *L) {
  const Listing *listing = luaL_checkudata(L, 1, LISTING_TYPE);
  char text[64];
  int size = snprintf(text, sizeof(text), "%llx:%llx",
                      (unsigned long long)listing->list.dev,
                      (unsigned long long)listing->list.ino);
  lua_pushlstring(L, text, (size_t)size);
  return 1;
}

static int gc_listing(lua_State *L) {
  Listing *listing = lua_touserdata(L, 1);
  fs_list_free(&listing->list);
  listing->next = 0;
  return 0;
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

static const luaL_Reg methods[] = {
    {"identity", f_identity},
    {"names",    f_names   },
    {"next",     f_next    },
    {NULL,       NULL      },
};

static const luaL_Reg functions[] = {
    {"copy_facts", f_copy_facts},
    {"copy_file",  f_copy_file },
    {"list",       f_list      },
    {"remove",     f_remove    },
    {NULL,         NULL        },
};

int luaopen_sbx_core_tree(lua_State *L) {
  luaL_newmetatable(L, LISTING_TYPE);
  lua_pushcfunction(L, gc_listing);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
