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

// iso([seconds [, digits]]) -> "2026-01-31T12:00:00.250Z", in years 0 to 9999.
// Without `digits`, whole seconds have no fraction and others three digits.
static int f_iso(lua_State *L) {
  double seconds = luaL_optnumber(L, 1, timer_wall(&reactor_of(L)->schedule));
  lua_Integer digits = luaL_optinteger(L, 2, 3);
  luaL_argcheck(L, seconds >= -62167219200.0 && seconds < 253402300799.0, 1,
                "out of range");
  luaL_argcheck(L, digits >= 0 && digits <= 9, 2, "expected 0 to 9 digits");
  double whole = floor(seconds), scale = pow(10, (double)digits);
  double fraction = round((seconds - whole) * scale);
  if (fraction >= scale) {
    whole += 1;
    fraction = 0;
  }
  bool shown = lua_isnoneornil(L, 2) ? fraction > 0 : digits > 0;
  time_t clock = (time_t)whole;
  struct tm parts;
  if (!gmtime_r(&clock, &parts)) return luaL_argerror(L, 1, "out of range");
  char text[80];  // what the compiler thinks that the numbers may need
  int length = snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d",
                        parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                        parts.tm_hour, parts.tm_min, parts.tm_sec);
  lua_pushlstring(L, text, (size_t)length);
  if (shown) {
    length = snprintf(text, sizeof(text), ".%0*.0f", (int)digits, fraction);
    lua_pushlstring(L, text, (size_t)length);
  }
  lua_pushliteral(L, "Z");
  lua_concat(L, shown ? 3 : 2);
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
