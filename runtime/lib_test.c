// sbx.core.test: what a test runner needs of the loop: a clock that it can
// make virtual, an order of tasks that a seed determines, a deadline that
// neither concerns, and a stdout that the tests cannot write to.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "luax.h"
#include "reactor.h"
#include "task.h"
#include "wait.h"

// ---- the clock

// set_virtual(on): see timer.h
static int f_set_virtual(lua_State *L) {
  timer_heap_set_virtual(&reactor_of(L)->schedule, lua_toboolean(L, 1));
  return 0;
}

typedef struct Advance {
  Wait wait;  // first, so that a Wait * is an Advance *
  Timer timer;
} Advance;

static void close_advance(Wait *wait) {
  Advance *advance = (Advance *)wait;
  TimerHeap *schedule = &wait->task->reactor->schedule;
  timer_stop(schedule, &advance->timer);
  schedule->advances--;
  wait_done(wait);
}

static void on_there(Timer *timer) {
  Advance *advance = (Advance *)((char *)timer - offsetof(Advance, timer));
  (void)wait_settle(&advance->wait, 0);
}

static int end_advance(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "advance");
  return 0;
}

// advance(seconds): waits until a virtual clock has gone on by that much, which
// it does whenever no task is ready, whatever else is in progress
static int f_advance(lua_State *L) {
  double seconds = check_seconds(L, 1);
  TimerHeap *schedule = &reactor_of(L)->schedule;
  if (!schedule->is_virtual)
    return luaL_error(L, "advance: the clock is not virtual");
  Advance *advance = wait_new(L, sizeof(*advance), close_advance, "advance");
  advance->timer.on_fire = on_there;
  int status = timer_start(schedule, &advance->timer, seconds);
  if (status != 0) {
    wait_drop(L, &advance->wait);
    return raise_error(L, status, "advance");
  }
  schedule->advances++;
  return wait_yield(L, &advance->wait, end_advance);
}

// now() -> seconds on the real monotonic clock
static int f_now(lua_State *L) {
  lua_pushnumber(L, reactor_now());
  return 1;
}

// ---- the guard

typedef struct Guard {
  Wait wait;
  uv_timer_t timer;
} Guard;

static void on_guard_closed(uv_handle_t *handle) {
  wait_done(handle->data);
}

static void close_guard(Wait *wait) {
  uv_close((uv_handle_t *)&((Guard *)wait)->timer, on_guard_closed);
}

static void on_guard(uv_timer_t *timer) {
  (void)wait_settle(timer->data, 0);
  uv_stop(timer->loop);  // a timer may run ahead of a poll that would sleep
}

static int end_guard(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "guard");
  return 0;
}

// guard(seconds): waits that long on the real clock. It keeps nothing alive: a
// deadlock beside it is still seen as one.
static int f_guard(lua_State *L) {
  double seconds = check_seconds(L, 1);
  uv_loop_t *loop = &reactor_of(L)->loop;
  Guard *guard = wait_new(L, sizeof(*guard), close_guard, "the deadline");
  (void)uv_timer_init(loop, &guard->timer);  // never fails
  guard->timer.data = guard;
  uv_unref((uv_handle_t *)&guard->timer);
  uv_update_time(loop);
  uv_timer_start(&guard->timer, on_guard, (uint64_t)(seconds * 1000) + 1, 0);
  return wait_yield(L, &guard->wait, end_guard);
}

// ---- the order

// shuffle(seed or nil): ready tasks run in an order that the seed determines;
// nil is first come, first served again
static int f_shuffle(lua_State *L) {
  bool shuffled = !lua_isnoneornil(L, 1);
  lua_Integer seed = luaL_optinteger(L, 1, 0);
  task_shuffle(reactor_of(L), shuffled, (uint64_t)seed);
  return 0;
}

// ---- stdout

static int close_file(lua_State *L) {
  luaL_Stream *file = luaL_checkudata(L, 1, LUA_FILEHANDLE);
  return luaL_fileresult(L, fclose(file->f) == 0, NULL);
}

// divert_stdout() -> a file that is what stdout was so far; descriptor 1 leads
// to stderr from now on, for children too
static int f_divert_stdout(lua_State *L) {
  luaL_Stream *file = lua_newuserdatauv(L, sizeof(*file), 0);
  file->closef = NULL;
  luaL_setmetatable(L, LUA_FILEHANDLE);
  (void)fflush(stdout);
  int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (fd < 0) return raise_error(L, -errno, "divert stdout");
  file->f = fdopen(fd, "w");
  if (!file->f) {
    int problem = errno;
    (void)close(fd);
    return raise_error(L, -problem, "divert stdout");
  }
  file->closef = close_file;
  if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
    return raise_error(L, -errno, "divert stdout");
  return 1;
}

static const luaL_Reg functions[] = {
    {"set_virtual",   f_set_virtual  },
    {"advance",       f_advance      },
    {"now",           f_now          },
    {"guard",         f_guard        },
    {"shuffle",       f_shuffle      },
    {"divert_stdout", f_divert_stdout},
    {NULL,            NULL           },
};

int luaopen_sbx_core_test(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
