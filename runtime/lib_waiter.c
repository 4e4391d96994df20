// sbx.core.waiter: where one task waits until another one wakes it, once.

#include <lauxlib.h>

#include "luax.h"
#include "wait.h"

#define WAITER_TYPE "sbx.waiter"

typedef struct Waiter {
  Wait *wait;  // the one task that waits, or NULL
  bool woken;
  bool abandoned;  // its task was cancelled: nobody will take what wake gives
} Waiter;

typedef struct WaiterWait {
  Wait wait;
  Waiter *waiter;
} WaiterWait;

enum { WAITER_VALUES = 1, WAITER_WHAT = 2 };

// new(what) -> Waiter
static int f_new(lua_State *L) {
  luaL_checkstring(L, 1);
  Waiter *waiter = lua_newuserdatauv(L, sizeof(*waiter), 2);
  *waiter = (Waiter){0};
  luaL_setmetatable(L, WAITER_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, WAITER_WHAT);
  return 1;
}

static int push_values(lua_State *L) {
  if (lua_getiuservalue(L, 1, WAITER_VALUES) == LUA_TNIL) return 0;
  int values = lua_gettop(L);
  lua_getfield(L, values, "n");
  int count = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  luaL_checkstack(L, count, "too many values");
  for (int i = 1; i <= count; i++)
    lua_rawgeti(L, values, i);
  return count;
}

static void close_waiter(Wait *wait) {
  Waiter *waiter = ((WaiterWait *)wait)->waiter;
  waiter->wait = NULL;
  if (wait->status != 0) waiter->abandoned = true;
  wait_done(wait);
}

static int end_waiter(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "wait");
  return push_values(L);
}

// waiter:wait() -> what wake was given. Waits; raises `cancelled`.
static int f_waiter_wait(lua_State *L) {
  Waiter *waiter = luaL_checkudata(L, 1, WAITER_TYPE);
  if (waiter->wait)
    return raise_misuse(L, "wait: another task waits on this waiter");
  // What has arrived is delivered, also to a task that is cancelled.
  if (waiter->woken) return push_values(L);
  if (waiter->abandoned) {
    wait_checkpoint(L, "wait");
    return raise_misuse(L, "wait: the first wait on this waiter was cancelled; "
                           "nobody wakes it any more");
  }
  // The user value keeps the text alive, and this stack the user value.
  lua_getiuservalue(L, 1, WAITER_WHAT);
  const char *what = lua_tostring(L, -1);
  WaiterWait *op = wait_new(L, sizeof(*op), close_waiter, what);
  op->waiter = waiter;
  waiter->wait = &op->wait;
  return wait_yield(L, &op->wait, end_waiter);
}

// waiter:wake(...) -> true; false when it was woken before or its task has been
// cancelled meanwhile. Never waits.
static int f_waiter_wake(lua_State *L) {
  Waiter *waiter = luaL_checkudata(L, 1, WAITER_TYPE);
  bool first = !waiter->woken && !waiter->abandoned;
  if (first) {
    waiter->woken = true;
    int count = lua_gettop(L) - 1;
    if (count > 0) {
      lua_createtable(L, count, 1);
      lua_insert(L, 2);
      for (int i = count; i >= 1; i--)
        lua_rawseti(L, 2, i);
      lua_pushinteger(L, count);
      lua_setfield(L, 2, "n");
      lua_setiuservalue(L, 1, WAITER_VALUES);
    }
    if (waiter->wait) (void)wait_settle(waiter->wait, 0);
  }
  lua_pushboolean(L, first);
  return 1;
}

static const luaL_Reg waiter_methods[] = {
    {"wait", f_waiter_wait},
    {"wake", f_waiter_wake},
    {NULL,   NULL         },
};

static const luaL_Reg functions[] = {
    {"new", f_new},
    {NULL,  NULL },
};

int luaopen_sbx_core_waiter(lua_State *L) {
  (void)luaL_newmetatable(L, WAITER_TYPE);
  lua_newtable(L);
  luaL_setfuncs(L, waiter_methods, 0);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
