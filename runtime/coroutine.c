// Generators that wait. A task is itself a coroutine, so a wait inside
// `coroutine.wrap` would hand its yield to the generator's caller. Ours let the
// wait through: it yields a sentinel, which resume and wrap pass outwards until
// the run queue has it, and inwards again when the wait is over.
//
// While a coroutine is suspended in a wait its sentinel stays on its stack;
// that is how a second resume from elsewhere is recognised and refused.

#define _GNU_SOURCE
#include <lauxlib.h>
#include <lua.h>

#include "task.h"

static const char sentinel;

void push_wait_sentinel(lua_State *L) {
  lua_pushlightuserdata(L, (void *)&sentinel);
}

bool is_wait_sentinel(lua_State *L, int index) {
  return lua_touserdata(L, index) == (const void *)&sentinel;
}

int resume_tracked(lua_State *co, lua_State *from, int arguments,
                   int *results) {
  Reactor *reactor = reactor_of(co);
  lua_State *outer = reactor->running;
  reactor->running = co;
  int status = lua_resume(co, from, arguments, results);
  reactor->running = outer;
  return status;
}

static bool is_waiting(lua_State *co) {
  return lua_status(co) == LUA_YIELD && lua_gettop(co) > 0 &&
         is_wait_sentinel(co, -1);
}

static lua_State *check_thread(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "thread");
  return co;
}

// Moves what a resume left on `co` over. Returns the number of values, or -1
// with an error value on top.
static int take_results(lua_State *L, lua_State *co, int status, int results) {
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return -1;
  }
  if (!lua_checkstack(L, results + 1)) {
    lua_pop(co, results);
    lua_pushliteral(L, "too many results to resume");
    return -1;
  }
  lua_xmove(co, L, results);
  return results;
}

// Whether the wait has to be passed outwards. If so `co` keeps its sentinel.
static bool must_pass(lua_State *L, lua_State *co, int status, int results) {
  if (status != LUA_YIELD || results != 1 || !is_wait_sentinel(co, -1))
    return false;
  push_wait_sentinel(L);
  return true;
}

// Checks and moves the arguments, as the stock functions do. Returns false with
// an error message on top.
static bool give_arguments(lua_State *L, lua_State *co, int arguments) {
  const char *refusal = NULL;
  if (is_waiting(co))
    refusal = "cannot resume a coroutine that is waiting";
  else if (!lua_checkstack(co, arguments))
    refusal = "too many arguments to resume";
  if (refusal) {
    lua_pushstring(L, refusal);
    return false;
  }
  lua_xmove(L, co, arguments);
  return true;
}

// ---- resume

static int finish_resume(lua_State *L, int results) {
  lua_pushboolean(L, results >= 0);
  int count = results >= 0 ? results : 1;
  lua_insert(L, -(count + 1));
  return count + 1;
}

static int continue_resume(lua_State *L, int yielded, lua_KContext context) {
  lua_State *co = lua_tothread(L, 1);
  int results = 0;
  lua_pop(co, 1);  // the sentinel
  int status = resume_tracked(co, L, 0, &results);
  if (must_pass(L, co, status, results))
    return lua_yieldk(L, 1, 0, continue_resume);
  return finish_resume(L, take_results(L, co, status, results));
}

// resume(co, ...): as in stock Lua, and waits inside `co` suspend the task
static int f_resume(lua_State *L) {
  lua_State *co = check_thread(L);
  int arguments = lua_gettop(L) - 1;
  int results = 0;
  if (!give_arguments(L, co, arguments)) return finish_resume(L, -1);
  int status = resume_tracked(co, L, arguments, &results);
  if (must_pass(L, co, status, results))
    return lua_yieldk(L, 1, 0, continue_resume);
  return finish_resume(L, take_results(L, co, status, results));
}

// ---- wrap

// Raises what the generator raised, with the position added to a string as the
// stock function does.
static int raise_from(lua_State *L, lua_State *co) {
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_pop(L, 1);
    status = lua_resetthread(co);
    lua_xmove(co, L, 1);
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int finish_wrapped(lua_State *L, lua_State *co, int results) {
  return results >= 0 ? results : raise_from(L, co);
}

static int continue_wrapped(lua_State *L, int yielded, lua_KContext context) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  int results = 0;
  lua_pop(co, 1);  // the sentinel
  int status = resume_tracked(co, L, 0, &results);
  if (must_pass(L, co, status, results))
    return lua_yieldk(L, 1, 0, continue_wrapped);
  return finish_wrapped(L, co, take_results(L, co, status, results));
}

static int f_wrapped(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  int arguments = lua_gettop(L);
  int results = 0;
  if (!give_arguments(L, co, arguments)) return finish_wrapped(L, co, -1);
  int status = resume_tracked(co, L, arguments, &results);
  if (must_pass(L, co, status, results))
    return lua_yieldk(L, 1, 0, continue_wrapped);
  return finish_wrapped(L, co, take_results(L, co, status, results));
}

static int end_body(lua_State *L, int status, lua_KContext context) {
  if (status != LUA_OK && status != LUA_YIELD) return lua_error(L);
  return lua_gettop(L);
}

// The first function of a wrapped generator, whose body is its upvalue. An
// error unwinds inside the protected call, where the `<close>` variables of the
// body may still wait.
static int run_body(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  int status = lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, 0, end_body);
  return end_body(L, status, 0);
}

// wrap(fn): as in stock Lua, and waits inside suspend the task
static int f_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(co, run_body, 1);
  lua_pushcclosure(L, f_wrapped, 1);
  return 1;
}

// ---- what tells a task from a coroutine of the script

static bool is_task_base(lua_State *L) {
  const Task *task = task_current(L);
  return task && task->co == L;
}

// yield(...): refused at a task's own level, where nobody could resume it; and
// inside a scope that this coroutine opened, which would stay open around the
// work of whoever resumed it, perhaps for ever
static int f_yield(lua_State *L) {
  if (is_task_base(L))
    return luaL_error(L, "attempt to yield from outside a coroutine");
  const Task *task = task_current(L);
  if (task && task->scope->L == L)
    return luaL_error(L, "attempt to yield inside a scope or timeout that this "
                         "coroutine has opened");
  return lua_yield(L, lua_gettop(L));
}

// isyieldable([co])
static int f_isyieldable(lua_State *L) {
  lua_State *co = lua_isnone(L, 1) ? L : check_thread(L);
  lua_pushboolean(L, lua_isyieldable(co) && !is_task_base(co));
  return 1;
}

// running() -> thread, whether it is a task rather than a script's coroutine
static int f_running(lua_State *L) {
  bool base = lua_pushthread(L) || is_task_base(L);
  lua_pushboolean(L, base);
  return 2;
}

// status(co): a coroutine inside a wait is as busy as one that resumed another
static int f_status(lua_State *L) {
  if (is_waiting(check_thread(L))) {
    lua_pushliteral(L, "normal");
    return 1;
  }
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

// close(co): refused while `co` is inside a wait
static int f_close(lua_State *L) {
  if (is_waiting(check_thread(L)))
    return luaL_error(L, "cannot close a coroutine that is waiting");
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, LUA_MULTRET);
  return lua_gettop(L);
}

lua_State *coroutine_inner(lua_State *co) {
  lua_Debug ar;
  if (!lua_checkstack(co, 4) || !lua_getstack(co, 0, &ar)) return NULL;
  lua_getinfo(co, "f", &ar);
  lua_CFunction function = lua_tocfunction(co, -1);
  lua_State *inner = NULL;
  if (function == f_wrapped) {
    if (lua_getupvalue(co, -1, 1)) {
      inner = lua_tothread(co, -1);
      lua_pop(co, 1);
    }
  } else if (function == f_resume && lua_getlocal(co, &ar, 1)) {
    inner = lua_tothread(co, -1);
    lua_pop(co, 1);
  }
  lua_pop(co, 1);
  return inner;
}

void coroutine_install(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"resume",      f_resume     },
      {"wrap",        f_wrap       },
      {"yield",       f_yield      },
      {"isyieldable", f_isyieldable},
      {"running",     f_running    },
      {NULL,          NULL         },
  };
  lua_getglobal(L, "coroutine");
  luaL_setfuncs(L, functions, 0);
  lua_getfield(L, -1, "status");
  lua_pushcclosure(L, f_status, 1);
  lua_setfield(L, -2, "status");
  lua_getfield(L, -1, "close");
  lua_pushcclosure(L, f_close, 1);
  lua_setfield(L, -2, "close");
  lua_pop(L, 1);
}
