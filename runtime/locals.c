// The values that a task hands down to what it spawns. Each task has a table of
// them; a generator that set its own has one too, which holds while it runs.

#include <lauxlib.h>

#include "task.h"

// The key of a table in the registry: coroutine → its values, weak.
static const char of_coroutines;

static void push_own(lua_State *L, const Task *task) {
  if (task->co == L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, task);
    lua_getiuservalue(L, -1, TASK_LOCALS);
  } else {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &of_coroutines);
    lua_pushthread(L);
    lua_rawget(L, -2);
  }
  lua_remove(L, -2);
}

void push_locals(lua_State *L, const Task *task) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, task);
  lua_getiuservalue(L, -1, TASK_LOCALS);
  lua_remove(L, -2);
  if (!task->reactor->has_coroutine_locals) return;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &of_coroutines);
  lua_State *co = coroutine_inner(task->co);
  for (; co && lua_checkstack(co, 1); co = coroutine_inner(co)) {
    lua_pushthread(co);
    lua_xmove(co, L, 1);
    if (lua_rawget(L, -2) == LUA_TNIL)
      lua_pop(L, 1);
    else
      lua_replace(L, -3);
  }
  lua_pop(L, 1);
}

static void make_table(lua_State *L, Reactor *reactor) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &of_coroutines);
  reactor->has_coroutine_locals = true;
}

void replace_locals(lua_State *L, Task *task) {
  bool inside = task->co != L;
  if (inside && !task->reactor->has_coroutine_locals)
    make_table(L, task->reactor);
  push_own(L, task);
  lua_insert(L, -2);  // before, values
  if (inside) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &of_coroutines);
    lua_pushthread(L);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
  } else {
    lua_rawgetp(L, LUA_REGISTRYINDEX, task);
    lua_pushvalue(L, -2);
    lua_setiuservalue(L, -2, TASK_LOCALS);
  }
  lua_pop(L, 2);
}
