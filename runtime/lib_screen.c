// sbx.core.screen: tells one Lua function when to draw what stands on a
// terminal beside the output. It keeps no program alive, and what it calls is
// no task and cannot wait.

#include <lauxlib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <uv.h>

#include "luax.h"
#include "reactor.h"
#include "screen.h"

#define SCREEN_TYPE "sbx.screen"

typedef struct Screen {
  uv_timer_t timer;  // first: freed in its close callback
  int owner;         // reference to the function
  bool due;          // it is to be called after this turn
  bool inside;       // it is being called: what it writes is its own
} Screen;

static void on_time(uv_timer_t *timer) {
  ((Screen *)timer)->due = true;
  // Timers run ahead of the poll, which would sleep over it.
  uv_stop(timer->loop);
}

static void on_closed(uv_handle_t *handle) {
  free(handle);
}

// Calls owner(what, number). An owner that fails is not called again.
static void call_owner(lua_State *L, const char *what, int number) {
  Screen *screen = reactor_of(L)->screen;
  if (screen->inside || screen->owner == LUA_NOREF || !lua_checkstack(L, 4))
    return;
  screen->inside = true;
  lua_rawgeti(L, LUA_REGISTRYINDEX, screen->owner);
  lua_pushstring(L, what);
  lua_pushinteger(L, number);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
    luaL_unref(L, LUA_REGISTRYINDEX, screen->owner);
    screen->owner = LUA_NOREF;
    uv_timer_stop(&screen->timer);
    const char *text = lua_tostring(L, -1);
    lua_warning(L, "the screen is left alone: ", 1);
    lua_warning(L, text ? text : "its owner failed", 0);
    lua_pop(L, 1);
  }
  screen->inside = false;
}

void screen_before_output(lua_State *L, int number) {
  if (reactor_of(L)->screen) call_owner(L, "output", number);
}

void screen_after_turn(lua_State *L) {
  Screen *screen = reactor_of(L)->screen;
  if (!screen || !screen->due) return;
  screen->due = false;
  call_owner(L, "turn", 0);
}

// ---- what Lua calls

static int gc_screen(lua_State *L) {
  Screen **slot = luaL_checkudata(L, 1, SCREEN_TYPE);
  if (!*slot) return 0;
  uv_close((uv_handle_t *)&(*slot)->timer, on_closed);
  reactor_of(L)->screen = NULL;
  *slot = NULL;
  return 0;
}

// The state's screen; the registry owns it.
static Screen *get_screen(lua_State *L) {
  Reactor *reactor = reactor_of(L);
  if (reactor->screen) return reactor->screen;
  Screen **slot = lua_newuserdatauv(L, sizeof(Screen *), 0);
  *slot = NULL;
  luaL_setmetatable(L, SCREEN_TYPE);
  lua_setfield(L, LUA_REGISTRYINDEX, SCREEN_TYPE ".slot");
  Screen *screen = calloc(1, sizeof(*screen));
  if (!screen) luaL_error(L, "not enough memory");
  screen->owner = LUA_NOREF;
  (void)uv_timer_init(&reactor->loop, &screen->timer);
  uv_unref((uv_handle_t *)&screen->timer);
  *slot = screen;
  reactor->screen = screen;
  return screen;
}

// own(fn or nil): fn("output", 1 or 2) is called before output, and fn("turn")
// where it was asked for
static int f_own(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  Screen *screen = get_screen(L);
  int before = screen->owner;
  screen->owner = lua_isnil(L, 1) ? LUA_NOREF : luaL_ref(L, LUA_REGISTRYINDEX);
  luaL_unref(L, LUA_REGISTRYINDEX, before);
  if (screen->owner == LUA_NOREF) {
    uv_timer_stop(&screen->timer);
    screen->due = false;
  }
  return 0;
}

// every(seconds or nil): a "turn" that often from now on, on the real clock
static int f_every(lua_State *L) {
  Screen *screen = get_screen(L);
  if (lua_isnoneornil(L, 1)) {
    uv_timer_stop(&screen->timer);
    return 0;
  }
  uint64_t ms = (uint64_t)(check_seconds(L, 1) * 1000);
  uv_update_time(screen->timer.loop);
  uv_timer_start(&screen->timer, on_time, ms, ms > 0 ? ms : 1);
  return 0;
}

// soon(): a "turn" once the tasks that are ready now have run
static int f_soon(lua_State *L) {
  get_screen(L)->due = true;
  return 0;
}

static const luaL_Reg functions[] = {
    {"own",   f_own  },
    {"every", f_every},
    {"soon",  f_soon },
    {NULL,    NULL   },
};

int luaopen_sbx_core_screen(lua_State *L) {
  (void)luaL_newmetatable(L, SCREEN_TYPE);
  lua_pushcfunction(L, gc_screen);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, functions);
  return 1;
}
