// sbx.core.watch: what happens in folders, as the kernel tells it by inotify.
// The kernel keeps events until they are taken; when it has kept too many it
// drops the rest and says so. (libuv's own watcher hides that, and what
// happened.)

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "fs_job.h"
#include "fs_listing.h"
#include "fs_wait.h"
#include "luax.h"
#include "reactor.h"

#define WATCHER_TYPE "sbx.watcher"
#define TAKE_BYTES 16384

// Freed by the loop once its handle is closed and no thread uses the
// descriptor.
typedef struct Watcher {
  uv_poll_t poll;
  int fd;
  int adding;    // jobs that use the descriptor
  bool closed;   // the handle is
  Wait *waiter;  // suspended until there is something to take, else NULL
} Watcher;

static void release(Watcher *watcher) {
  if (!watcher->closed || watcher->adding > 0) return;
  (void)close(watcher->fd);  // nothing was written
  free(watcher);
}

static void on_closed(uv_handle_t *handle) {
  Watcher *watcher = handle->data;
  watcher->closed = true;
  release(watcher);
}

static void close_watcher(Watcher *watcher) {
  if (watcher->waiter != NULL) wait_settle(watcher->waiter, UV_EBADF);
  uv_close((uv_handle_t *)&watcher->poll, on_closed);
}

static Watcher **check_slot(lua_State *L) {
  return luaL_checkudata(L, 1, WATCHER_TYPE);
}

static Watcher *check_watcher(lua_State *L) {
  Watcher *watcher = *check_slot(L);
  if (watcher == NULL) raise_error(L, UV_EBADF, "watch: closed");
  return watcher;
}

static int raise_new(lua_State *L, int status) {
  if (status != UV_EMFILE) return raise_error(L, status, "watch");
  return raise_kind(L, "io", "EMFILE",
                    "watch: too many watches or open files (see "
                    "fs.inotify.max_user_instances)");
}

// new() → Watcher that watches nothing yet
static int f_new(lua_State *L) {
  Watcher **slot = lua_newuserdatauv(L, sizeof(*slot), 0);
  *slot = NULL;
  luaL_setmetatable(L, WATCHER_TYPE);
  Watcher *watcher = calloc(1, sizeof(*watcher));
  if (watcher == NULL) return raise_error(L, UV_ENOMEM, "watch");
  watcher->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  int status = watcher->fd < 0 ? -errno
                               : uv_poll_init(&reactor_of(L)->loop,
                                              &watcher->poll, watcher->fd);
  if (status != 0) {
    if (watcher->fd >= 0) (void)close(watcher->fd);
    free(watcher);
    return raise_new(L, status);
  }
  watcher->poll.data = watcher;
  *slot = watcher;
  return 1;
}

// Adding folders

enum {
  NAMES = IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO,
  CONTENT = NAMES | IN_CREATE | IN_MODIFY | IN_ATTRIB,
  FOLDER = CONTENT | IN_DELETE_SELF | IN_MOVE_SELF,
};

typedef struct AddJob {
  FsJob job;
  Watcher *watcher;
  const char *path;
  uint32_t mask;
  FsList *list;  // to be filled, or NULL
  int wd;
} AddJob;

static int add_watch(const AddJob *op, const char *path, uint32_t more) {
  int wd = inotify_add_watch(op->watcher->fd, path,
                             op->mask | more | IN_ONLYDIR | IN_EXCL_UNLINK);
  return wd < 0 ? -errno : wd;
}

static int run_add(FsJob *job) {
  AddJob *op = (AddJob *)job;
  op->wd = add_watch(op, op->path, 0);
  return op->wd < 0 ? op->wd : 0;
}

// Watches and lists one and the same folder, whatever its path leads to by
// then.
static int run_folder(FsJob *job) {
  AddJob *op = (AddJob *)job;
  int fd =
      fs_open_long(op->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return fd;
  char opened[64];
  (void)snprintf(opened, sizeof(opened), "/proc/self/fd/%d", fd);
  op->wd = add_watch(op, opened, 0);
  // Where there is no /proc, the path must do.
  if (op->wd == -ENOENT) op->wd = add_watch(op, op->path, IN_DONT_FOLLOW);
  int status = op->wd < 0 ? op->wd : 0;
  if (status == 0 && op->list != NULL) {
    status = fs_list_read(op->list, fd, false, &job->stop);
  }
  (void)close(fd);
  return status;
}

static void over_add(FsJob *job) {
  Watcher *watcher = ((AddJob *)job)->watcher;
  watcher->adding--;
  release(watcher);
}

static int end_add(lua_State *L, int status, lua_KContext context) {
  const AddJob *op = (const AddJob *)context;
  const char *path = lua_tostring(L, 2);
  if (op->job.wait.status == UV_ENOSPC) {
    return raise_kind(L, "io", "ENOSPC",
                      "watch %s: too many folders are watched (see "
                      "fs.inotify.max_user_watches)",
                      path);
  }
  if (op->job.wait.status != 0) {
    return raise_error(L, op->job.wait.status, "watch %s", path);
  }
  lua_pushinteger(L, op->wd);
  if (op->list == NULL) return 1;
  lua_pushvalue(L, -3);  // the listing, under the wait
  return 2;
}

static int start_add(lua_State *L, Watcher *watcher, uint32_t mask,
                     FsList *list, int (*run)(FsJob *)) {
  AddJob *op = fs_job_new(L, sizeof(*op), run, "watch");
  op->watcher = watcher;
  op->path = lua_tostring(L, 2);
  op->mask = mask;
  op->list = list;
  op->job.over = over_add;
  watcher->adding++;
  return fs_job_yield(L, &op->job, end_add);
}

// beside(path, all) → a number that events of the folder will carry: of what
// leaves it, or with `all` of all that happens in it. Waits.
static int f_beside(lua_State *L) {
  Watcher *watcher = check_watcher(L);
  (void)fs_check_path(L, 2);
  uint32_t mask = lua_toboolean(L, 3) ? CONTENT : NAMES;
  return start_add(L, watcher, mask, NULL, run_add);
}

// folder(path, list) → the same, of what happens in it and to it; and with
// `list` a Listing of what it held afterwards. The number is the same for a
// folder that is watched already. Follows no link. Waits.
static int f_folder(lua_State *L) {
  Watcher *watcher = check_watcher(L);
  (void)fs_check_path(L, 2);
  FsList *list = lua_toboolean(L, 3) ? fs_listing_push(L) : NULL;
  return start_add(L, watcher, FOLDER, list, run_folder);
}

// remove(wd): the folder's events end
static int f_remove(lua_State *L) {
  const Watcher *watcher = check_watcher(L);
  lua_Integer wd = luaL_checkinteger(L, 2);
  // One that is gone already is as it should be.
  (void)inotify_rm_watch(watcher->fd, (int)wd);
  return 0;
}

// Taking events

typedef struct ReadyWait {
  Wait wait;
  Watcher *watcher;
} ReadyWait;

static void on_poll(uv_poll_t *poll, int status, int events) {
  const Watcher *watcher = poll->data;
  if (watcher->waiter != NULL) {
    wait_settle(watcher->waiter, status < 0 ? status : 0);
  }
}

static void close_ready(Wait *wait) {
  Watcher *watcher = ((ReadyWait *)wait)->watcher;
  (void)uv_poll_stop(&watcher->poll);  // always succeeds
  watcher->waiter = NULL;
  wait_done(wait);
}

static int end_ready(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "watch");
  return 0;
}

// ready(): returns once there is something to take. Waits; raises EBADF when it
// is closed meanwhile.
static int f_ready(lua_State *L) {
  Watcher *watcher = check_watcher(L);
  if (watcher->waiter != NULL) {
    return luaL_error(L, "another task waits for this watch");
  }
  ReadyWait *op = wait_new(L, sizeof(*op), close_ready, "watch");
  op->watcher = watcher;
  int status = uv_poll_start(&watcher->poll, UV_READABLE, on_poll);
  if (status != 0) {
    wait_drop(L, &op->wait);
    return raise_error(L, status, "watch");
  }
  watcher->waiter = &op->wait;
  return wait_yield(L, &op->wait, end_ready);
}

static const char *kind_of(uint32_t mask) {
  static const struct {
    uint32_t mask;
    const char *kind;
  } kinds[] = {
      {IN_Q_OVERFLOW,         "overflow"},
      {IN_IGNORED,            "ignored" },
      {IN_UNMOUNT,            "gone"    },
      {IN_DELETE_SELF,        "gone"    },
      {IN_MOVE_SELF,          "moved"   },
      {IN_CREATE,             "create"  },
      {IN_DELETE,             "delete"  },
      {IN_MOVED_FROM,         "from"    },
      {IN_MOVED_TO,           "to"      },
      {IN_MODIFY | IN_ATTRIB, "change"  },
  };

  for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
    if (mask & kinds[i].mask) return kinds[i].kind;
  }
  return "unknown";
}

static void push_event(lua_State *L, const struct inotify_event *event) {
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, event->wd);
  lua_setfield(L, -2, "wd");
  lua_pushstring(L, kind_of(event->mask));
  lua_setfield(L, -2, "kind");
  lua_pushboolean(L, (event->mask & IN_ISDIR) != 0);
  lua_setfield(L, -2, "is_dir");
  lua_pushinteger(L, event->cookie);
  lua_setfield(L, -2, "cookie");
  if (event->len > 0) {
    lua_pushstring(L, event->name);
    lua_setfield(L, -2, "name");
  }
}

// take() → what there is now, perhaps nothing, oldest first: tables { wd, kind,
// is_dir, cookie, name? }. Kinds: create change delete; from and to, the halves
// of a move, which share a cookie; of the folder itself gone moved ignored; and
// overflow. Never waits.
static int f_take(lua_State *L) {
  const Watcher *watcher = check_watcher(L);
  alignas(struct inotify_event) char buffer[TAKE_BYTES];
  ssize_t size = read(watcher->fd, buffer, sizeof(buffer));
  if (size < 0 && errno != EAGAIN) return raise_error(L, -errno, "watch");
  lua_newtable(L);
  lua_Integer count = 0;
  for (const char *at = buffer; size > 0 && at < buffer + size;) {
    const struct inotify_event *event = (const struct inotify_event *)at;
    push_event(L, event);
    lua_rawseti(L, -2, ++count);
    at += sizeof(*event) + event->len;
  }
  return 1;
}

static int gc_watcher(lua_State *L) {
  Watcher **slot = lua_touserdata(L, 1);
  Watcher *watcher = *slot;
  *slot = NULL;
  if (watcher != NULL) close_watcher(watcher);
  return 0;
}

// close(): who waits gets EBADF. Again is harmless.
static int f_close(lua_State *L) {
  (void)check_slot(L);
  return gc_watcher(L);
}

static const luaL_Reg methods[] = {
    {"beside", f_beside},
    {"close",  f_close },
    {"folder", f_folder},
    {"ready",  f_ready },
    {"remove", f_remove},
    {"take",   f_take  },
    {NULL,     NULL    },
};

static const luaL_Reg functions[] = {
    {"new", f_new},
    {NULL,  NULL },
};

int luaopen_sbx_core_watch(lua_State *L) {
  luaL_newmetatable(L, WATCHER_TYPE);
  lua_pushcfunction(L, gc_watcher);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
