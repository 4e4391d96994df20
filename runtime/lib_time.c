// sbx.core.time: the clocks, and sleeping.

#define _GNU_SOURCE
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <time.h>

#include "luax.h"
#include "reactor.h"
#include "task.h"
#include "wait.h"

typedef struct Sleep {
  Wait wait;  // first, so that a Wait * is a Sleep *
  Timer timer;
} Sleep;

static void close_sleep(Wait *wait) {
  Sleep *sleep = (Sleep *)wait;
  timer_stop(&wait->task->reactor->schedule, &sleep->timer);
  wait_done(wait);
}

static void on_timeout(Timer *timer) {
  Sleep *sleep = (Sleep *)((char *)timer - offsetof(Sleep, timer));
  (void)wait_settle(&sleep->wait, 0);
}

static int end_sleep(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "sleep");
  return 0;
}

// sleep(seconds): waits; raises `cancelled`
static int f_sleep(lua_State *L) {
  double seconds = check_seconds(L, 1);
  Sleep *sleep = wait_new(L, sizeof(*sleep), close_sleep, "sleep");
  sleep->timer.on_fire = on_timeout;
  int status = timer_start(&reactor_of(L)->schedule, &sleep->timer, seconds);
  if (status != 0) {
    wait_drop(L, &sleep->wait);
    return raise_error(L, status, "sleep");
  }
  return wait_yield(L, &sleep->wait, end_sleep);
}

// now() -> seconds on a clock that never goes back; only differences mean much
static int f_now(lua_State *L) {
  lua_pushnumber(L, timer_seconds(&reactor_of(L)->schedule));
  return 1;
}

// wall() -> seconds since 1970
static int f_wall(lua_State *L) {
  lua_pushnumber(L, timer_wall(&reactor_of(L)->schedule));
  return 1;
}

// iso([seconds]) -> "2026-01-31T12:00:00.250Z"; whole seconds have no fraction
static int f_iso(lua_State *L) {
  double seconds = luaL_optnumber(L, 1, timer_wall(&reactor_of(L)->schedule));
  luaL_argcheck(L, fabs(seconds) < 1e11, 1, "out of range");
  double whole = floor(seconds);
  int milliseconds = (int)((seconds - whole) * 1000);
  time_t clock = (time_t)whole;
  struct tm parts;
  char text[40];
  if (!gmtime_r(&clock, &parts)) return luaL_argerror(L, 1, "out of range");
  size_t length = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  if (milliseconds > 0)
    length += (size_t)snprintf(text + length, sizeof(text) - length, ".%03d",
                               milliseconds);
  lua_pushlstring(L, text, length);
  lua_pushliteral(L, "Z");
  lua_concat(L, 2);
  return 1;
}

static const luaL_Reg functions[] = {
    {"sleep", f_sleep},
    {"now",   f_now  },
    {"wall",  f_wall },
    {"iso",   f_iso  },
    {NULL,    NULL   },
};

int luaopen_sbx_core_time(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
