// sbx.core.test: what a test runner needs of the loop: a clock that it can
// make virtual, an order of tasks that a seed determines, a deadline that
// neither concerns, and a stdout that the tests cannot write to.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "luax.h"
#include "reactor.h"
#include "task.h"
#include "wait.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

// ---- the clock

// set_virtual(on, wall?): see timer.h; `wall` is what the wall clock begins at
static int f_set_virtual(lua_State *L) {
  TimerHeap *schedule = &reactor_of(L)->schedule;
  timer_heap_set_virtual(schedule, lua_toboolean(L, 1));
  schedule->wall_from = luaL_optnumber(L, 2, schedule->wall_from);
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
  Reactor *reactor;
  uv_timer_t timer;
  timer_t strike;  // of the kernel, for steps that never end
} Guard;

// How long after the guard's end a step that goes on is struck, and then again
// until it is reached.
static const struct timespec GRACE = {.tv_nsec = 100000000};
static const struct timespec PAUSE = {.tv_nsec = 20000000};

static void set_strike(timer_t strike, double seconds) {
  struct itimerspec when = {.it_interval = PAUSE, .it_value = GRACE};
  when.it_value.tv_sec += (time_t)seconds;
  (void)timer_settime(strike, 0, &when, NULL);
}

// The key of the traceback of a step that was struck, in the registry.
static const char struck_key;

// Cancels what a signal would, from inside the step that does not end.
static void strike_hook(lua_State *L, lua_Debug *ar) {
  Scope *root = reactor_of(L)->root;
  if (root && !root->cancelled) {
    luaL_traceback(L, L, NULL, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &struck_key);
    lua_pushliteral(L, "its time was over");
    scope_cancel(L, root);
  }
  task_arm_hook(L);
  task_hook(L, ar);
}

// A signal handler, in the thread that runs Lua. Between two steps there is
// nobody to strike: the next time, or the loop comes first.
static void on_strike(int number, siginfo_t *info, void *context) {
  if (info->si_code != SI_TIMER) return;
  const Guard *guard = info->si_value.sival_ptr;
  Reactor *reactor = guard->reactor;
  lua_State *running = reactor->running;
  const Scope *root = reactor->root;
  if (!running || !root) return;
  if (root->cancelled) {
    // What finalizers have left of their time must pass, also by a clock that
    // stands still.
    if (reactor->schedule.is_virtual)
      reactor->schedule.virtual_now += (uint64_t)PAUSE.tv_nsec;
    return;
  }
  lua_sethook(running, strike_hook,
              LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

// Returns 0 or an errno.
static int make_strike(Guard *guard) {
  struct sigaction action = {.sa_sigaction = on_strike,
                             .sa_flags = SA_RESTART | SA_SIGINFO};
  (void)sigemptyset(&action.sa_mask);
  // The last of the real-time signals is the watchdog's.
  int number = SIGRTMAX - 1;
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                           .sigev_signo = number,
                           .sigev_value = {.sival_ptr = guard}};
  event.sigev_notify_thread_id = gettid();
  if (sigaction(number, &action, NULL) != 0) return errno;
  return timer_create(CLOCK_MONOTONIC, &event, &guard->strike) == 0 ? 0 : errno;
}

static void on_guard_closed(uv_handle_t *handle) {
  wait_done(handle->data);
}

static void close_guard(Wait *wait) {
  Guard *guard = (Guard *)wait;
  (void)timer_delete(guard->strike);
  uv_close((uv_handle_t *)&guard->timer, on_guard_closed);
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
// deadlock beside it is still seen as one. A step that goes on when the time is
// over is interrupted, and what a signal would cancel is cancelled.
static int f_guard(lua_State *L) {
  double seconds = check_seconds(L, 1);
  Reactor *reactor = reactor_of(L);
  Guard *guard = wait_new(L, sizeof(*guard), close_guard, "the deadline");
  guard->reactor = reactor;
  int problem = make_strike(guard);
  if (problem != 0) {
    wait_drop(L, &guard->wait);
    return raise_error(L, -problem, "guard");
  }
  set_strike(guard->strike, seconds);
  (void)uv_timer_init(&reactor->loop, &guard->timer);  // never fails
  guard->timer.data = guard;
  uv_unref((uv_handle_t *)&guard->timer);
  uv_update_time(&reactor->loop);
  uv_timer_start(&guard->timer, on_guard, (uint64_t)(seconds * 1000) + 1, 0);
  return wait_yield(L, &guard->wait, end_guard);
}

// struck() -> the traceback of the step that a guard interrupted since the last
// call, or nil
static int f_struck(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &struck_key);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &struck_key);
  return 1;
}

// ---- the order

// shuffle(seed or nil): ready tasks run in an order that the seed determines;
// nil is first come, first served again
static int f_shuffle(lua_State *L) {
  bool shuffled = !lua_isnoneornil(L, 1);
  lua_Integer seed = luaL_optinteger(L, 1, 0);
  task_shuffle(L, shuffled, (uint64_t)seed);
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
    {"struck",        f_struck       },
    {"shuffle",       f_shuffle      },
    {"divert_stdout", f_divert_stdout},
    {NULL,            NULL           },
};

int luaopen_sbx_core_test(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
