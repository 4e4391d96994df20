// os.exit: ends the script the way a signal does, so that every task unwinds
// and finalizers run, and not even a pcall around it keeps the script going.

#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "luax.h"
#include "stock_io.h"
#include "task.h"

// Whether a __gc metamethod is running: what that raises is only warned about.
static bool inside_gc(lua_State *L) {
  lua_Debug ar;
  for (int level = 0; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "n", &ar);
    if (ar.namewhat[0] == 'm' && strcmp(ar.name, "__gc") == 0) return true;
  }
  return false;
}

// From now on each instruction of the task's script raises, wherever an error
// was caught, in whichever of its coroutines.
static void hound(lua_State *L, Task *task) {
  task->refusals = INT_MAX / 2;
  for (lua_State *co = task->co; co; co = coroutine_inner(co))
    lua_sethook(co, task_hook, LUA_MASKCOUNT, 1);
  lua_sethook(L, task_hook, LUA_MASKCOUNT, 1);
}

static int raise_plain(lua_State *L) {
  lua_createtable(L, 0, 2);
  lua_pushliteral(L, "cancelled");
  lua_setfield(L, -2, "kind");
  lua_pushliteral(L, "os.exit");
  lua_setfield(L, -2, "message");
  luaL_setmetatable(L, ERROR_TYPE);
  return lua_error(L);
}

// exit(code?, close?): the state is always closed
int f_os_exit(lua_State *L) {
  lua_Integer status;
  if (lua_isboolean(L, 1))
    status = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  else
    status = luaL_optinteger(L, 1, EXIT_SUCCESS);
  Host *host = host_of(L);
  host->exits = true;
  host->exit_status = (int)status;

  Reactor *reactor = &host->reactor;
  Scope *root = reactor->root;
  if (root) {
    lua_pushliteral(L, "os.exit");
    scope_cancel(L, root);
    if (reactor->current) hound(L, reactor->current);
  }
  if (inside_gc(L)) return 0;
  if (!root) return raise_plain(L);
  push_cancelled(L, root);
  return lua_error(L);
}
