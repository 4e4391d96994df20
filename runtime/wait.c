// The five steps of an operation.

#include "wait.h"

#include <assert.h>
#include <lauxlib.h>
#include <string.h>

#include "luax.h"
#include "task.h"
#include "trace.h"

static const char NAMELESS[] = "a C function";

// Pushes the name that the loaded modules give to the C function of `ar`, as
// "table.sort", else what the call site called it.
static void push_function_name(lua_State *L, lua_Debug *ar) {
  lua_getinfo(L, "fn", ar);  // function
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);  // function, loaded, key
  while (lua_next(L, -2)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_istable(L, -1)) {
      const char *module = lua_tostring(L, -2);
      lua_pushnil(L);  // function, loaded, key, module, field
      while (lua_next(L, -2)) {
        if (lua_type(L, -2) == LUA_TSTRING && lua_rawequal(L, -1, -6)) {
          const char *field = lua_tostring(L, -2);
          if (strcmp(module, "_G") == 0)
            lua_pushstring(L, field);
          else
            lua_pushfstring(L, "%s.%s", module, field);
          lua_replace(L, -7);
          lua_pop(L, 5);
          return;
        }
        lua_pop(L, 1);
      }
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
  if (ar->name)
    lua_pushfstring(L, "function '%s'", ar->name);
  else
    lua_pushstring(L, NAMELESS);
}

// Whether a wait may go through a call of the C function of this name. Then the
// one in the way is further out.
static bool suspends_well(const char *name) {
  static const char *const names[] = {
      "pcall",      "xpcall",           "error", "dofile", "loadfile",
      "os.execute", "function 'close'",
  };
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
    if (strcmp(name, names[i]) == 0) return true;
  return false;
}

// Raises the error of a wait in a place where the VM cannot suspend.
static int raise_unyieldable(lua_State *L, const char *what) {
  lua_Debug ar;
  // Level 0 is the waiting function itself.
  for (int level = 1; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sn", &ar);
    if (ar.namewhat[0] == 'm' && strcmp(ar.name, "__gc") == 0)
      return raise_misuse(L,
                          "%s cannot wait inside a __gc metamethod: use a "
                          "<close> variable instead",
                          what);
    if (strcmp(ar.what, "C") != 0) continue;
    push_function_name(L, &ar);
    const char *name = lua_tostring(L, -1);
    if (suspends_well(name)) {
      lua_pop(L, 1);
      continue;
    }
    lua_Debug outer;
    if (strcmp(name, NAMELESS) == 0 && !lua_getstack(L, level + 1, &outer))
      name = "a message handler";  // our own base of all that is called
    return raise_misuse(L,
                        "%s cannot wait inside %s: wait before or after it, "
                        "outside its callback",
                        what, name);
  }
  // The coroutine of a task has nothing below it only while it is closed.
  if (reactor_of(L)->current)
    return raise_misuse(L, "%s cannot wait inside coroutine.close", what);
  return raise_misuse(L, "%s cannot wait here: not inside a task", what);
}

// Raises in a task that must end.
static void check_cancelled(lua_State *L, Task *task) {
  if (!scope_reaching(task)) {
    task_end_cleanup(task);
    return;
  }
  const Scope *source = task_must_end(task);
  if (!source) return;
  task_count_refusal(L, task);
  push_cancelled(L, source);
  (void)lua_error(L);
}

Task *wait_suspendable(lua_State *L, const char *what) {
  Reactor *reactor = reactor_of(L);
  if (!reactor->current || !lua_isyieldable(L)) raise_unyieldable(L, what);
  if (reactor->closing) luaL_error(L, "%s: the runtime is closing", what);
  return reactor->current;
}

void wait_checkpoint(lua_State *L, const char *what) {
  check_cancelled(L, wait_suspendable(L, what));
}

static void *new_wait(lua_State *L, size_t size, void (*close)(Wait *),
                      const char *what, bool shielded) {
  Task *task = wait_suspendable(L, what);
  if (!shielded) check_cancelled(L, task);
  assert(size >= sizeof(Wait));
  Wait *wait = lua_newuserdatauv(L, size, 0);
  memset(wait, 0, size);
  wait->task = task;
  wait->L = L;
  wait->close = close;
  wait->what = what;
  wait->shielded = shielded;
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, wait);
  task->reactor->live_waits++;
  return wait;
}

void *wait_new(lua_State *L, size_t size, void (*close)(Wait *),
               const char *what) {
  return new_wait(L, size, close, what, false);
}

void *wait_new_shielded(lua_State *L, size_t size, void (*close)(Wait *),
                        const char *what) {
  return new_wait(L, size, close, what, true);
}

void wait_drop(lua_State *L, Wait *wait) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, wait);
  reactor_of(L)->live_waits--;
}

static int resume_wait(lua_State *L, int status, lua_KContext context) {
  Wait *wait = (Wait *)context;
  assert(wait->done);
  if (wait->task->reactor->trace) trace_wait_ends(wait->task->reactor, wait);
  // Unpinned, it lives on: wait_new left it on this stack.
  wait_drop(L, wait);
  return wait->end(L, status, context);
}

int wait_yield(lua_State *L, Wait *wait, lua_KFunction end) {
  Task *task = wait->task;
  wait->end = end;
  task->wait = wait;
  if (task->reactor->trace) trace_wait_begins(task->reactor, wait);
  if (wait->done) task_ready(task);
  push_wait_sentinel(L);
  return lua_yieldk(L, 1, (lua_KContext)wait, resume_wait);
}

bool wait_settle(Wait *wait, int status) {
  if (wait->settled) return false;
  wait->settled = true;
  wait->status = status;
  Reactor *reactor = wait->task->reactor;
  if (reactor->trace) trace_wait_settles(reactor, wait);
  wait->close(wait);
  return true;
}

void wait_done(Wait *wait) {
  assert(!wait->done);
  wait->done = true;
  // Not yet suspended on it: wait_yield will queue the task.
  if (wait->task->wait == wait) task_ready(wait->task);
}
