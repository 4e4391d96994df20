// sbx.core.trace: the trace of this run.

#include <lauxlib.h>

#include "luax.h"
#include "trace.h"

static const char OWNER[] = "sbx.core.trace owner";

// Ends a trace that nobody has ended, with the state.
static int gc_owner(lua_State *L) {
  (void)trace_close(L, reactor_of(L));
  return 0;
}

// open(path, clean): clean(text) → text, for the names of tasks
static int f_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (luaL_newmetatable(L, OWNER)) {
    lua_pushcfunction(L, gc_owner);
    lua_setfield(L, -2, "__gc");
  }
  lua_newuserdatauv(L, 0, 0);
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  lua_setfield(L, LUA_REGISTRYINDEX, "sbx.core.trace");
  lua_settop(L, 2);
  int clean = luaL_ref(L, LUA_REGISTRYINDEX);
  int status = trace_open(L, reactor_of(L), path, clean);
  if (status == 0) return 0;
  luaL_unref(L, LUA_REGISTRYINDEX, clean);
  return raise_error(L, status, "open %s", path);
}

// event(json): nothing when there is no trace
static int f_event(lua_State *L) {
  size_t length;
  const char *json = luaL_checklstring(L, 1, &length);
  if (reactor_of(L)->trace) trace_event(reactor_of(L), json, length);
  return 0;
}

// now() → microseconds since the trace began, or nil when there is none
static int f_now(lua_State *L) {
  if (!reactor_of(L)->trace) return 0;
  lua_pushnumber(L, trace_now(reactor_of(L)));
  return 1;
}

// close(): raises what went wrong when it was written
static int f_close(lua_State *L) {
  int status = trace_close(L, reactor_of(L));
  if (status != 0) return raise_error(L, status, "write the trace");
  return 0;
}

static const luaL_Reg functions[] = {
    {"open",  f_open },
    {"event", f_event},
    {"now",   f_now  },
    {"close", f_close},
    {NULL,    NULL   },
};

int luaopen_sbx_core_trace(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
