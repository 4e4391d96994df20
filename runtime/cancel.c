// How cancellation reaches a task: at once where it waits, by a hook where it
// computes, and not, for a time, where it is cleaning up in a `__close`.

#define _GNU_SOURCE
#include <assert.h>
#include <lauxlib.h>
#include <stddef.h>
#include <string.h>

#include "task.h"

// ---- finalizers

// Whether `function` (an absolute index) is the `__close` metamethod of one of
// the values in the frame `caller`, named or not.
static bool closes_value_of(lua_State *L, int function, lua_Debug *caller) {
  for (int slot = 1; lua_getlocal(L, caller, slot); slot++) {
    bool found = luaL_getmetafield(L, -1, "__close") != LUA_TNIL &&
                 lua_rawequal(L, -1, function);
    lua_settop(L, function);
    if (found) return true;
  }
  return false;
}

// Whether the function at this level was called as a `__close` metamethod: the
// frame that called it holds a value which it closes. The VM's own answer
// ("metamethod close") is missing while an error unwinds, and its arguments are
// lost where it declares none.
static bool is_close_call(lua_State *L, int level) {
  lua_Debug callee, caller;
  if (!lua_getstack(L, level, &callee) || !lua_getstack(L, level + 1, &caller))
    return false;
  lua_getinfo(L, "f", &callee);  // function
  bool found = closes_value_of(L, lua_gettop(L), &caller);
  lua_pop(L, 1);
  return found;
}

// The outermost level of `co` whose frame holds the scope's value: there it was
// opened. (While an error unwinds, the frame that catches it holds what the
// dead ones left.) -1 when none does.
static int level_of_scope(lua_State *co, const Scope *scope) {
  int found = -1;
  lua_Debug ar;
  for (int level = 0; lua_getstack(co, level, &ar); level++)
    for (int slot = 1; lua_getlocal(co, &ar, slot); slot++) {
      if (lua_touserdata(co, -1) == scope) found = level;
      lua_pop(co, 1);
    }
  return found;
}

// Whether a finalizer runs inside `scope`: called deeper than what opened it.
static bool finalizes_inside(const Task *task, const Scope *scope) {
  // All of the task is inside a scope that it did not open, and so it counts
  // when the coroutine that opened it is no longer part of the task.
  bool inside = true;
  if (scope->owner == task && scope->L)
    for (lua_State *co = task->co; co && inside; co = coroutine_inner(co))
      inside = co != scope->L;

  for (lua_State *co = task->co; co; co = coroutine_inner(co)) {
    if (!inside && co != scope->L) continue;
    if (!lua_checkstack(co, 6)) return false;
    int end = inside ? -1 : level_of_scope(co, scope);
    inside = true;
    lua_Debug ar;
    for (int level = 0; level != end && lua_getstack(co, level, &ar); level++)
      if (is_close_call(co, level)) return true;
  }
  return false;
}

static void on_overdue(Timer *timer) {
  Task *task = (Task *)((char *)timer - offsetof(Task, cleanup));
  task->next_overdue = task->reactor->overdue;
  task->reactor->overdue = task;
}

void task_prepare_cleanup(Task *task) {
  task->cleanup.on_fire = on_overdue;
}

// Starts the time budget of finalizers. False when it is spent.
static bool grant_cleanup(Task *task) {
  if (task->cleanup_spent) return false;
  Reactor *reactor = task->reactor;
  if (!timer_armed(&task->cleanup))
    return timer_start(&reactor->schedule, &task->cleanup,
                       reactor->cleanup_seconds) == 0;
  // The timer cannot fire while the finalizer computes and never waits.
  return timer_now(&reactor->schedule) < task->cleanup.at;
}

bool task_finalizes(const Task *task) {
  return scope_reaching(task) && finalizes_inside(task, task->scope);
}

Scope *task_must_end(Task *task) {
  Scope *outermost = scope_reaching(task);
  if (!outermost) return NULL;
  Scope *found = NULL;
  Task *finalizing = NULL;
  for (Scope *scope = task->scope; scope; scope = scope->parent) {
    if (scope->cancelled) {
      if (finalizes_inside(task, scope)) finalizing = task;
      if (finalizing) break;
      found = scope;
    }
    if (scope->shielded) break;
    if (scope->sheltered) {
      finalizing = scope->owner;
      break;
    }
  }
  if (found) return found;
  assert(finalizing);
  if (grant_cleanup(finalizing)) return NULL;
  return outermost;
}

// ---- the hook

// How many VM instructions a cancelled task may run before it is told again;
// and how many when it was in the library, whose own steps must not be torn.
enum { PATIENCE = 100000, PATIENCE_INSIDE = 97 };

// A task that was told so often, and caught it each time, is reached by the
// hook wherever it is; and then told again at its next instruction: outside the
// pcall that caught it, and so on outwards.
enum { TOLD_PATIENTLY = 10 };

// Sets the hook to come after about so many instructions. Exactly so many would
// keep in step with a loop, and always strike inside the same pcall.
static void arm_hook(lua_State *L, int instructions) {
  int odd = (int)(uv_hrtime() / 16 % 89);
  lua_sethook(L, task_hook, LUA_MASKCOUNT, instructions + odd);
}

void task_arm_hook(lua_State *L) {
  arm_hook(L, PATIENCE);
}

void task_hook(lua_State *L, lua_Debug *ar) {
  Reactor *reactor = reactor_of(L);
  if (reactor->on_turn) reactor->on_turn(L);
  Task *task = reactor->current;
  if (!task || !scope_reaching(task)) {
    lua_sethook(L, NULL, 0, 0);
    return;
  }
  lua_getinfo(L, "S", ar);
  if (strncmp(ar->source, "@sbx/", 5) == 0 || ar->what[0] == 'C') {
    arm_hook(L, PATIENCE_INSIDE);
    return;
  }
  const Scope *source = task_must_end(task);
  if (!source || task->refusals < TOLD_PATIENTLY)
    arm_hook(L, PATIENCE);
  else
    lua_sethook(L, task_hook, LUA_MASKCOUNT, 1);
  if (!source) return;
  task->refusals++;
  push_cancelled(L, source);
  (void)lua_error(L);
}

void task_count_refusal(lua_State *L, Task *task) {
  // Once only: arming anew would start its count anew.
  if (++task->refusals != TOLD_PATIENTLY) return;
  lua_sethook(task->co, task_hook, LUA_MASKCOUNT, 1000);
  lua_sethook(L, task_hook, LUA_MASKCOUNT, 1000);
}

void task_end_cleanup(Task *task) {
  task->cleanup_spent = false;
  task->refusals = 0;
  task_forget_cleanup(task);
}

void task_forget_cleanup(Task *task) {
  timer_stop(&task->reactor->schedule, &task->cleanup);
  for (Task **at = &task->reactor->overdue; *at; at = &(*at)->next_overdue) {
    if (*at != task) continue;
    *at = task->next_overdue;
    return;
  }
}
