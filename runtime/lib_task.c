// sbx.core.task: tasks, scopes and one-shot waiters, as sbx.task builds on
// them.

#include <lauxlib.h>
#include <string.h>

#include "luax.h"
#include "reactor.h"
#include "task.h"
#include "wait.h"

static Task *check_task(lua_State *L, int index) {
  return luaL_checkudata(L, index, TASK_TYPE);
}

static Scope *check_scope(lua_State *L, int index) {
  return luaL_checkudata(L, index, SCOPE_TYPE);
}

// The task that runs now; raises where none does.
static Task *running(lua_State *L, const char *what) {
  Task *task = task_current(L);
  if (!task) luaL_error(L, "%s: not inside a task", what);
  return task;
}

static void close_at_once(Wait *wait) {
  wait_done(wait);
}

static int end_plain(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "%s", wait->what);
  return 0;
}

// ---- tasks

// spawn(scope or nil, protect, daemon, fn, ...) -> Task; nil is the innermost
static int f_spawn(lua_State *L) {
  Scope *scope = NULL;
  if (lua_isnil(L, 1))
    scope = running(L, "spawn")->scope;
  else
    scope = check_scope(L, 1);
  bool protect = lua_toboolean(L, 2);
  bool daemon = lua_toboolean(L, 3);
  luaL_checktype(L, 4, LUA_TFUNCTION);
  if (!scope->linked) return raise_misuse(L, "spawn: the scope has ended");
  (void)task_spawn(L, scope, lua_gettop(L) - 4, protect, daemon);
  return 1;
}

// current() -> Task, or nil outside
static int f_current(lua_State *L) {
  Task *task = task_current(L);
  if (task)
    lua_rawgetp(L, LUA_REGISTRYINDEX, task);
  else
    lua_pushnil(L);
  return 1;
}

typedef struct JoinWait {
  Wait wait;
  Task *target;
} JoinWait;

static void close_join(Wait *wait) {
  task_drop_joiner(((JoinWait *)wait)->target, wait);
  wait_done(wait);
}

// Returns whether it succeeded, then the results or the error.
static int push_outcome(lua_State *L, const Task *task) {
  lua_getiuservalue(L, 1, TASK_OUTCOME);
  if (task->result != RESULT_OK) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  int outcome = lua_gettop(L);
  lua_getfield(L, outcome, "n");
  int count = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  luaL_checkstack(L, count + 2, "too many results");
  lua_pushboolean(L, 1);
  for (int i = 1; i <= count; i++)
    lua_rawgeti(L, outcome, i);
  return count + 1;
}

static int end_join(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "join");
  return push_outcome(L, check_task(L, 1));
}

// task:wait() -> true, results... or false, error. Waits for its end.
static int f_task_wait(lua_State *L) {
  Task *task = check_task(L, 1);
  if (task == task_current(L))
    return raise_misuse(L, "join: a task cannot join itself");
  JoinWait *op = wait_new(L, sizeof(*op), close_join, "join");
  if (task->state == TASK_ENDED || task->result != RESULT_NONE) {
    wait_drop(L, &op->wait);
    return push_outcome(L, task);
  }
  op->target = task;
  task_add_joiner(task, &op->wait);
  return wait_yield(L, &op->wait, end_join);
}

// task:cancel([reason]): its next wait, or the present one, raises `cancelled`
static int f_task_cancel(lua_State *L) {
  Task *task = check_task(L, 1);
  lua_settop(L, 2);
  scope_cancel(L, &task->own);
  return 0;
}

static const char *task_status(const Task *task) {
  if (task->state == TASK_QUEUED) return "queued";
  if (task->result == RESULT_NONE)
    return task->state == TASK_RUNNING ? "running" : "waiting";
  if (task->result == RESULT_OK) return "done";
  return task->result == RESULT_CANCELLED ? "cancelled" : "failed";
}

// task:trace() -> the traceback of its error, or of where it is now
static int f_task_trace(lua_State *L) {
  Task *task = check_task(L, 1);
  if (lua_getiuservalue(L, 1, TASK_TRACE) == LUA_TNIL && task->co &&
      task->state == TASK_WAITING)
    task_push_trace(L, task);
  return 1;
}

static int f_task_tostring(lua_State *L) {
  Task *task = check_task(L, 1);
  lua_pushfstring(L, "task %d (%s)", (int)task->own.id, task_status(task));
  return 1;
}

static void push_waiting_on(lua_State *L, const Wait *wait) {
  if (wait && wait->close == close_join && !wait->settled)
    lua_pushfstring(L, "the end of task %d",
                    (int)((const JoinWait *)wait)->target->own.id);
  else
    lua_pushstring(L, wait ? wait->what : NULL);
}

// task.field: id name status waiting_on age site parent cause, or a method
static int f_task_index(lua_State *L) {
  Task *task = check_task(L, 1);
  const char *key = luaL_checkstring(L, 2);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  if (strcmp(key, "id") == 0) {
    lua_pushinteger(L, (lua_Integer)task->own.id);
  } else if (strcmp(key, "name") == 0) {
    lua_getiuservalue(L, 1, TASK_NAME);
  } else if (strcmp(key, "status") == 0) {
    lua_pushstring(L, task_status(task));
  } else if (strcmp(key, "waiting_on") == 0) {
    push_waiting_on(L, task->wait);
  } else if (strcmp(key, "cause") == 0) {
    lua_getiuservalue(L, 1, TASK_CAUSE);
  } else if (strcmp(key, "age") == 0) {
    lua_pushnumber(L, timer_seconds(&task->reactor->schedule) - task->born);
  } else if (strcmp(key, "site") == 0) {
    lua_pushstring(L, task->site);
  } else if (strcmp(key, "parent") == 0) {
    // Only while it lives: an ended parent's memory may be gone.
    if (task->own.linked && task->own.parent)
      lua_rawgetp(L, LUA_REGISTRYINDEX, task->own.parent->owner);
    else
      lua_pushnil(L);
  } else {
    lua_pushnil(L);
  }
  return 1;
}

// task.name = string; nothing else can be set
static int f_task_newindex(lua_State *L) {
  (void)check_task(L, 1);
  const char *key = luaL_checkstring(L, 2);
  if (strcmp(key, "name") != 0)
    return luaL_error(L, "a task has no field '%s' to set", key);
  if (!lua_isnoneornil(L, 3) && lua_type(L, 3) != LUA_TSTRING)
    return luaL_error(L, "name: expected a string, got a %s",
                      luaL_typename(L, 3));
  lua_settop(L, 3);
  lua_setiuservalue(L, 1, TASK_NAME);
  return 0;
}

// ---- scopes

// open(shielded, collects, seconds or nil) -> Scope, now the innermost
// one
static int end_open(lua_State *L, int status, lua_KContext context) {
  lua_settop(L, 4);
  return 1;
}

static int f_open(lua_State *L) {
  Task *task = wait_suspendable(L, "scope");
  double seconds = opt_seconds(L, 3, -1);
  lua_settop(L, 3);
  Reactor *reactor = task->reactor;
  Scope *scope = lua_newuserdatauv(L, sizeof(*scope), 0);
  memset(scope, 0, sizeof(*scope));
  luaL_setmetatable(L, SCOPE_TYPE);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, scope);
  scope->shielded = lua_toboolean(L, 1);
  scope->collects = lua_toboolean(L, 2);
  scope->L = L;
  scope->sheltered = task_finalizes(task);
  scope_link(reactor, scope, task->scope, task);
  task->scope = scope;
  if (seconds >= 0) scope_set_deadline(scope, seconds);
  if (scope->shielded && scope_program_ends(scope)) scope_bound_shield(scope);

  // Scopes nest by calls, and Lua bounds nested C calls at 200. A suspension
  // empties the C stack, so a deep recursion of scopes takes one now and then.
  enum { NESTED_AT_ONCE = 40 };

  if (++reactor->nested < NESTED_AT_ONCE) return 1;
  Wait *wait = wait_new_shielded(L, sizeof(*wait), close_at_once, "scope");
  (void)wait_settle(wait, 0);
  return wait_yield(L, wait, end_open);
}

static int f_await(lua_State *L);

static int end_await(lua_State *L, int status, lua_KContext context) {
  lua_settop(L, 1);
  lua_pushboolean(L, 1);
  return f_await(L);
}

// scope:await() -> whether there was a task to wait for. Waits until every task
// in it has ended; daemons are cancelled once no other is left. A cancel does
// not end this wait, it ends the tasks.
static int f_await(lua_State *L) {
  Scope *scope = check_scope(L, 1);
  lua_settop(L, 2);  // scope, whether it has waited before
  if (scope->children == 0) {
    lua_pushboolean(L, lua_toboolean(L, 2));
    return 1;
  }
  if (scope->owner != task_current(L))
    return luaL_error(L, "a scope is awaited by the task that opened it");
  return task_await_children(L, scope, end_await);
}

// scope:leave(): ends it. Raises when it is not the innermost scope.
static int f_leave(lua_State *L) {
  Scope *scope = check_scope(L, 1);
  if (!scope->linked) return 0;
  if (scope->owner != task_current(L) || scope->owner->scope != scope ||
      scope->children > 0)
    return luaL_error(L, "a scope must end inside the task and the scope that "
                         "it was opened in");
  scope_leave(L, scope);
  return 0;
}

// innermost() -> the scope that the running task opened last, or nil
static int f_innermost(lua_State *L) {
  Task *task = running(L, "scope");
  if (task->scope == &task->own) return 0;
  lua_rawgetp(L, LUA_REGISTRYINDEX, task->scope);
  return 1;
}

// scope:inner() -> the innermost scope that this task has opened inside it and
// not closed, or nil
static int f_inner(lua_State *L) {
  const Scope *scope = check_scope(L, 1);
  Task *task = running(L, "scope");
  const Scope *at = task->scope;
  while (at && at != scope && at->owner == task)
    at = at->parent;
  if (at != scope || task->scope == scope) return 0;
  lua_rawgetp(L, LUA_REGISTRYINDEX, task->scope);
  return 1;
}

// scope:is_open() -> whether it has not ended
static int f_is_open(lua_State *L) {
  lua_pushboolean(L, check_scope(L, 1)->linked);
  return 1;
}

// scope:is_bounded() -> whether the program's end has set its deadline
static int f_is_bounded(lua_State *L) {
  lua_pushboolean(L, check_scope(L, 1)->bounded);
  return 1;
}

static int f_scope_cancel(lua_State *L) {
  Scope *scope = check_scope(L, 1);
  lua_settop(L, 2);
  scope_cancel(L, scope);
  return 0;
}

// scope:fail(error): counts as the failure of a task in it
static int f_fail(lua_State *L) {
  Scope *scope = check_scope(L, 1);
  lua_settop(L, 2);
  if (scope->linked) scope_fail(L, scope, NULL);
  return 0;
}

// scope:state() -> id, cancelled, timed out, array of errors or nil, reason,
// whether a task in it was cancelled before its end
static int f_state(lua_State *L) {
  Scope *scope = check_scope(L, 1);
  lua_pushinteger(L, (lua_Integer)scope->id);
  lua_pushboolean(L, scope->cancelled);
  lua_pushboolean(L, scope->timed_out);
  if (scope->errors == LUA_NOREF)
    lua_pushnil(L);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, scope->errors);
  if (scope->reason == LUA_NOREF)
    lua_pushnil(L);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, scope->reason);
  lua_pushboolean(L, scope->cut);
  return 6;
}

// scope:deadline(seconds from now)
static int f_deadline(lua_State *L) {
  Scope *scope = check_scope(L, 1);
  double seconds = check_seconds(L, 2);
  if (scope->linked && !scope->cancelled) scope_set_deadline(scope, seconds);
  return 0;
}

// ---- the rest

// locals() -> the table of inherited values that holds here, or nil.
// locals(table or nil) -> what this coroutine has set, in whose place that
// comes; it holds while the coroutine runs, and for what it spawns.
static int f_locals(lua_State *L) {
  Task *task = task_current(L);
  bool sets = lua_gettop(L) > 0;
  if (!task) return sets ? luaL_error(L, "with: not inside a task") : 0;
  if (!sets) {
    push_locals(L, task);
    return 1;
  }
  lua_settop(L, 1);
  if (!lua_isnil(L, 1)) luaL_checktype(L, 1, LUA_TTABLE);
  replace_locals(L, task);
  return 1;
}

// yield(): lets the other ready tasks run. Waits.
static int f_yield(lua_State *L) {
  Wait *wait = wait_new(L, sizeof(*wait), close_at_once, "yield");
  (void)wait_settle(wait, 0);
  return wait_yield(L, wait, end_plain);
}

// checkpoint([what]): raises `cancelled` if the task is; never suspends
static int f_checkpoint(lua_State *L) {
  wait_checkpoint(L, luaL_optstring(L, 1, "checkpoint"));
  return 0;
}

static void count_handle(uv_handle_t *handle, void *count) {
  if (uv_is_active(handle) && uv_has_ref(handle) && handle->type != UV_TIMER)
    ++*(lua_Integer *)count;
}

// stats() -> {tasks=, waits=, handles=}: live ones, for leak checks
static int f_stats(lua_State *L) {
  Reactor *reactor = reactor_of(L);
  lua_Integer handles = 0;
  uv_walk(&reactor->loop, count_handle, &handles);
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, (lua_Integer)reactor->live_tasks);
  lua_setfield(L, -2, "tasks");
  lua_pushinteger(L, (lua_Integer)reactor->live_waits);
  lua_setfield(L, -2, "waits");
  lua_pushinteger(L, handles);
  lua_setfield(L, -2, "handles");
  return 1;
}

// list() -> array of every task that has not ended, newest first
static int f_list(lua_State *L) {
  lua_newtable(L);
  lua_Integer count = 0;
  for (Task *task = reactor_of(L)->live_first; task; task = task->live_next) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, task);
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

// set_root(scope or nil): what SIGINT and SIGTERM cancel
static int f_set_root(lua_State *L) {
  Reactor *reactor = reactor_of(L);
  reactor->root = lua_isnil(L, 1) ? NULL : check_scope(L, 1);
  // A signal may have come while there was no scope to cancel.
  if (reactor->on_turn) reactor->on_turn(L);
  return 0;
}

// cleanup_seconds([seconds]) -> the budget of finalizers in cancelled tasks
static int f_cleanup_seconds(lua_State *L) {
  Reactor *reactor = reactor_of(L);
  if (!lua_isnoneornil(L, 1)) reactor->cleanup_seconds = check_seconds(L, 1);
  lua_pushnumber(L, reactor->cleanup_seconds);
  return 1;
}

static const luaL_Reg functions[] = {
    {"spawn",           f_spawn          },
    {"current",         f_current        },
    {"open",            f_open           },
    {"innermost",       f_innermost      },
    {"yield",           f_yield          },
    {"checkpoint",      f_checkpoint     },
    {"locals",          f_locals         },
    {"stats",           f_stats          },
    {"list",            f_list           },
    {"set_root",        f_set_root       },
    {"cleanup_seconds", f_cleanup_seconds},
    {NULL,              NULL             },
};

static const luaL_Reg task_methods[] = {
    {"wait",   f_task_wait  },
    {"cancel", f_task_cancel},
    {"trace",  f_task_trace },
    {NULL,     NULL         },
};

static const luaL_Reg scope_methods[] = {
    {"await",      f_await       },
    {"leave",      f_leave       },
    {"cancel",     f_scope_cancel},
    {"fail",       f_fail        },
    {"inner",      f_inner       },
    {"is_open",    f_is_open     },
    {"is_bounded", f_is_bounded  },
    {"state",      f_state       },
    {"deadline",   f_deadline    },
    {NULL,         NULL          },
};

// Makes the metatable `type` whose __index is a table of `methods`, and leaves
// that table in the field `name` of the module, for sbx.task to add to.
static void make_type(lua_State *L, const char *type, const luaL_Reg *methods,
                      const char *name) {
  (void)luaL_newmetatable(L, type);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__index");
  lua_setfield(L, -3, name);
  lua_pop(L, 1);
}

int luaopen_sbx_core_task(lua_State *L) {
  luaL_newlib(L, functions);
  make_type(L, SCOPE_TYPE, scope_methods, "scope_methods");
  make_type(L, TASK_TYPE, task_methods, "task_methods");

  luaL_getmetatable(L, TASK_TYPE);
  lua_getfield(L, -2, "task_methods");
  lua_pushcclosure(L, f_task_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, f_task_newindex);
  lua_setfield(L, -2, "__newindex");
  lua_pushcfunction(L, f_task_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_setfield(L, -2, "task_metatable");
  luaL_getmetatable(L, SCOPE_TYPE);
  lua_setfield(L, -2, "scope_metatable");
  return 1;
}
