// The tree of scopes: cancelling a part of it, and who is told.

#include <assert.h>
#include <lauxlib.h>

#include "luax.h"
#include "task.h"

static void on_deadline(Timer *timer) {
  Scope *scope = (Scope *)timer;
  // Cancelling looks at Lua stacks, so the run queue does it.
  Reactor *reactor = scope->owner->reactor;
  scope->next_expired = reactor->expired;
  reactor->expired = scope;
}

void scope_link(Reactor *reactor, Scope *scope, Scope *parent, Task *owner) {
  scope->id = ++reactor->next_id;
  scope->owner = owner;
  scope->parent = parent;
  scope->deadline.on_fire = on_deadline;
  scope->errors = LUA_NOREF;
  scope->reason = LUA_NOREF;
  scope->linked = true;
  if (!parent) return;
  scope->next = parent->first_child;
  if (scope->next) scope->next->previous = scope;
  parent->first_child = scope;
}

static void drop_reference(lua_State *L, int *reference) {
  luaL_unref(L, LUA_REGISTRYINDEX, *reference);
  *reference = LUA_NOREF;
}

static void forget_expired(Reactor *reactor, Scope *scope) {
  for (Scope **at = &reactor->expired; *at; at = &(*at)->next_expired) {
    if (*at != scope) continue;
    *at = scope->next_expired;
    return;
  }
}

void scope_unlink(lua_State *L, Scope *scope) {
  if (!scope->linked) return;
  assert(!scope->first_child && scope->children == 0);
  Reactor *reactor = scope->owner->reactor;
  timer_stop(&reactor->schedule, &scope->deadline);
  forget_expired(reactor, scope);
  if (reactor->root == scope) reactor->root = NULL;
  if (scope->previous)
    scope->previous->next = scope->next;
  else if (scope->parent)
    scope->parent->first_child = scope->next;
  if (scope->next) scope->next->previous = scope->previous;
  scope->next = scope->previous = NULL;
  scope->linked = false;
  drop_reference(L, &scope->errors);
  drop_reference(L, &scope->reason);
}

void scope_leave(lua_State *L, Scope *scope) {
  Task *task = scope->owner;
  task->scope = scope->parent;
  if (scope->cancelled && !scope_reaching(task)) task_end_cleanup(task);
  scope_unlink(L, scope);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, scope);
}

void scope_set_deadline(Scope *scope, double seconds) {
  (void)timer_start(&scope->owner->reactor->schedule, &scope->deadline,
                    seconds);
}

// The scope after `scope` in the subtree of `top`, in pre-order; its own
// children are left out when `skip` is set. No recursion: trees may be deep.
static Scope *next_below(const Scope *top, Scope *scope, bool skip) {
  if (!skip && scope->first_child) return scope->first_child;
  while (scope != top) {
    if (scope->next) return scope->next;
    scope = scope->parent;
  }
  return NULL;
}

static void deliver_cancel(Task *task) {
  Wait *wait = task->wait;
  if (!wait || wait->settled || wait->shielded) return;
  if (!task_must_end(task)) return;
  (void)wait_settle(wait, UV_ECANCELED);
}

void scope_bound_shield(Scope *scope) {
  Reactor *reactor = scope->owner->reactor;
  double now = timer_seconds(&reactor->schedule);
  double end = now + reactor->cleanup_seconds;
  if (timer_armed(&scope->deadline) && (double)scope->deadline.at / 1e9 <= end)
    return;
  scope->bounded = true;
  scope_set_deadline(scope, reactor->cleanup_seconds);
}

bool scope_program_ends(const Scope *scope) {
  const Scope *root = scope->owner->reactor->root;
  if (!root || !root->cancelled) return false;
  while (scope && scope != root)
    scope = scope->parent;
  return scope != NULL;
}

// All at once, also those inside others: one after the other would add up.
static void bound_shields_below(Scope *top) {
  for (Scope *at = next_below(top, top, false); at;
       at = next_below(top, at, false))
    if (at->shielded) scope_bound_shield(at);
}

// Tells every task below `top` that must end, except what is shielded.
static void deliver_below(Scope *top) {
  if (scope_program_ends(top)) bound_shields_below(top);
  Scope *at = top;
  while (at) {
    bool shielded = at != top && at->shielded;
    // A task is told once: at the scope that it is in now.
    if (!shielded && at->owner->scope == at) deliver_cancel(at->owner);
    at = next_below(top, at, shielded);
  }
}

void scope_cancel(lua_State *L, Scope *scope) {
  if (scope->cancelled || !scope->linked) {
    lua_pop(L, 1);
    return;
  }
  scope->cancelled = true;
  timer_stop(&scope->owner->reactor->schedule, &scope->deadline);
  if (lua_isnil(L, -1))
    lua_pop(L, 1);
  else
    scope->reason = luaL_ref(L, LUA_REGISTRYINDEX);
  deliver_below(scope);
}

Scope *scope_reaching(const Task *task) {
  Scope *found = NULL;
  for (Scope *scope = task->scope; scope; scope = scope->parent) {
    if (scope->cancelled) found = scope;
    if (scope->shielded) break;
  }
  return found;
}

void scope_fail(lua_State *L, Scope *scope, Task *child) {
  if (scope->errors == LUA_NOREF) {
    lua_newtable(L);
    scope->errors = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, scope->errors);
  lua_insert(L, -2);  // errors, error
  lua_rawseti(L, -2, (lua_Integer)++scope->failures);
  if (child) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, child);
    lua_rawseti(L, -2, -(lua_Integer)scope->failures);
  }
  lua_pop(L, 1);
  if (scope->collects) return;
  lua_pushliteral(L, "a task in this scope failed");
  scope_cancel(L, scope);
}

void scope_child_ended(Scope *scope, const Task *child) {
  scope->children--;
  if (child->daemon) scope->daemons--;
  Wait *joiner = scope->joiner;
  if (!joiner) return;
  if (scope->children == 0 || scope->children == scope->daemons)
    (void)wait_settle(joiner, 0);
}

void push_cancelled(lua_State *L, const Scope *source) {
  lua_createtable(L, 0, 4);
  lua_pushliteral(L, "cancelled");
  lua_setfield(L, -2, "kind");
  lua_pushinteger(L, (lua_Integer)source->id);
  lua_setfield(L, -2, "scope_id");
  if (source->timed_out) {
    lua_pushliteral(L, "cancelled: its deadline passed");
  } else if (source->reason != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, source->reason);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "reason");
    const char *text =
        lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    if (text)
      lua_pushfstring(L, "cancelled: %s", text);
    else
      lua_pushliteral(L, "cancelled");
    lua_remove(L, -2);
  } else {
    lua_pushliteral(L, "cancelled");
  }
  lua_setfield(L, -2, "message");
  luaL_setmetatable(L, ERROR_TYPE);
}

void scope_handle_expired(lua_State *L) {
  Reactor *reactor = reactor_of(L);
  while (reactor->expired) {
    Scope *scope = reactor->expired;
    reactor->expired = scope->next_expired;
    if (scope->cancelled) continue;
    scope->timed_out = true;
    lua_pushnil(L);
    scope_cancel(L, scope);
  }
  while (reactor->overdue) {
    Task *task = reactor->overdue;
    reactor->overdue = task->next_overdue;
    task->cleanup_spent = true;
    if (task->wait && !task->wait->shielded)
      (void)wait_settle(task->wait, UV_ECANCELED);
    deliver_below(&task->own);
  }
}
