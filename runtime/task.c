// The run queue: how a task begins, is resumed, and ends.

#include "task.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "luax.h"
#include "ready.h"
#include "screen.h"
#include "trace.h"
#include "watchdog.h"

// A loop turn runs at most this much before the loop is polled again.
enum { TURN_TASKS = 256 };

static const uint64_t TURN_NANOSECONDS = 5000000;

Task *task_current(lua_State *L) {
  return reactor_of(L)->current;
}

// ---- the end of a task

// Pushes the Task's userdata.
static void push_task(lua_State *L, Task *task) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, task);
}

void task_add_joiner(Task *task, Wait *wait) {
  wait->previous_joiner = task->last_joiner;
  if (task->last_joiner)
    task->last_joiner->next_joiner = wait;
  else
    task->joiners = wait;
  task->last_joiner = wait;
}

void task_drop_joiner(Task *task, Wait *wait) {
  if (wait->previous_joiner)
    wait->previous_joiner->next_joiner = wait->next_joiner;
  else
    task->joiners = wait->next_joiner;
  if (wait->next_joiner)
    wait->next_joiner->previous_joiner = wait->previous_joiner;
  else
    task->last_joiner = wait->previous_joiner;
}

// Whether the error on top of the stack is this task's own cancellation.
static bool is_own_cancel(lua_State *L, const Task *task) {
  if (!lua_istable(L, -1)) return false;
  lua_pushliteral(L, "scope_id");
  lua_rawget(L, -2);
  uint64_t id = (uint64_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  if (id == 0) return false;
  for (const Scope *scope = &task->own; scope; scope = scope->parent)
    if (scope->id == id && scope->cancelled) return true;
  return false;
}

// Notes which child the error on top of the stack came from.
static void note_cause(lua_State *L, Task *task) {
  if (task->own.failures == 0) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->own.errors);
  lua_rawgeti(L, -1, 1);
  if (lua_rawequal(L, -1, -3)) {
    push_task(L, task);
    lua_rawgeti(L, -3, -1);
    lua_setiuservalue(L, -2, TASK_CAUSE);
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
}

static void set_result(lua_State *L, Task *task, int status) {
  // The outcome is on the stack from index 1 on, or the error on top.
  int count = status == LUA_OK ? lua_gettop(L) : 1;
  if (status == LUA_OK && task->own.failures == 0) {
    task->result = RESULT_OK;
    lua_createtable(L, count, 1);
    lua_insert(L, 1);
    for (int i = count; i >= 1; i--)
      lua_rawseti(L, 1, i);
    lua_pushinteger(L, count);
    lua_setfield(L, 1, "n");
  } else {
    if (task->own.failures > 0 &&
        (status == LUA_OK || is_own_cancel(L, task))) {
      // Its children's failure is why it ended.
      lua_rawgeti(L, LUA_REGISTRYINDEX, task->own.errors);
      lua_rawgeti(L, -1, 1);
      lua_remove(L, -2);
    }
    task->result = is_own_cancel(L, task) ? RESULT_CANCELLED : RESULT_ERROR;
    note_cause(L, task);
  }
  push_task(L, task);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, TASK_OUTCOME);
  lua_settop(L, 0);
}

static void end_task(lua_State *L, Task *task) {
  Scope *parent = task->own.parent;
  if (parent) {
    if (task->result == RESULT_CANCELLED && !task->daemon) parent->cut = true;
    if (task->result == RESULT_ERROR && !task->protect) {
      push_task(L, task);
      lua_getiuservalue(L, -1, TASK_OUTCOME);
      scope_fail(L, parent, task);
      lua_pop(L, 1);
    }
    scope_unlink(L, &task->own);
    scope_child_ended(parent, task);
  } else {
    scope_unlink(L, &task->own);
  }
  task_forget_cleanup(task);
  while (task->joiners) {
    Wait *wait = task->joiners;
    (void)wait_settle(wait, 0);  // its close unlinks it
  }
}

typedef struct ChildrenWait {
  Wait wait;
  Scope *scope;
} ChildrenWait;

static void close_children(Wait *wait) {
  ((ChildrenWait *)wait)->scope->joiner = NULL;
  wait_done(wait);
}

static void cancel_daemons(lua_State *L, Scope *scope) {
  // A cancelled daemon may end only later, so the list holds still.
  for (Scope *child = scope->first_child; child; child = child->next) {
    if (!child->owner->daemon || child != &child->owner->own) continue;
    lua_pushliteral(L, "its scope ended");
    scope_cancel(L, child);
  }
}

int task_await_children(lua_State *L, Scope *scope, lua_KFunction then) {
  if (scope->children == scope->daemons) cancel_daemons(L, scope);
  if (scope->children == 0) return then(L, LUA_OK, 0);
  Task *task = task_current(L);
  if (task_must_end(task)) task_count_refusal(L, task);
  ChildrenWait *op =
      wait_new_shielded(L, sizeof(*op), close_children, "the end of its tasks");
  op->scope = scope;
  scope->joiner = &op->wait;
  return wait_yield(L, &op->wait, then);
}

static int finish_children(lua_State *L, int status, lua_KContext context);

// On top: how the task fails for a scope that it did not close.
static int finish_forgotten(lua_State *L, int status, lua_KContext context) {
  Task *task = task_current(L);
  Scope *scope = (Scope *)context;
  scope_fail(L, &task->own, NULL);
  if (task->scope == scope) {  // ending it has failed
    if (scope->children > 0)
      return task_await_children(L, scope, finish_children);
    scope_leave(L, scope);
  }
  return finish_children(L, LUA_OK, 0);
}

// Ends a scope that the body opened and never closed, as sbx.task does it.
static int end_forgotten(lua_State *L, Scope *scope) {
  luaL_getmetatable(L, SCOPE_TYPE);
  lua_getfield(L, -1, "end_forgotten");
  lua_remove(L, -2);
  lua_rawgetp(L, LUA_REGISTRYINDEX, scope);
  lua_KContext context = (lua_KContext)scope;
  int status = lua_pcallk(L, 1, 1, 0, context, finish_forgotten);
  return finish_forgotten(L, status, context);
}

// Stack: what the body left. Runs until no child is left, then ends the task.
static int finish_children(lua_State *L, int status, lua_KContext context) {
  Task *task = task_current(L);
  if (context) lua_remove(L, -1);  // the ChildrenWait
  if (task->scope != &task->own) return end_forgotten(L, task->scope);
  if (task->own.children > 0)
    return task_await_children(L, &task->own, finish_children);
  // The status of the body was left below everything by end_body.
  int body_status = (int)lua_tointeger(L, 1);
  lua_remove(L, 1);
  set_result(L, task, body_status);
  end_task(L, task);
  return 0;
}

static int end_body(lua_State *L, int status, lua_KContext context) {
  Task *task = task_current(L);
  if (status == LUA_YIELD) status = LUA_OK;
  // Nothing here may raise: the task's own tasks would be left to nobody.
  if (!lua_checkstack(L, 8)) {
    lua_settop(L, 1);
    lua_pushliteral(L, "too many results");
    status = LUA_ERRRUN;
  }
  // The message handler at 1 makes room for the status.
  lua_pushinteger(L, status);
  lua_replace(L, 1);
  if (status != LUA_OK && task->own.children > 0) {
    lua_pushliteral(L, "the task that spawned it failed");
    scope_cancel(L, &task->own);
  }
  return finish_children(L, LUA_OK, 0);
}

// Keeps the traceback of an error that nothing in the task caught. The value
// itself stays as it is: finalizers and joiners see what was raised.
static int on_error(lua_State *L) {
  if (lua_istable(L, 1)) {
    lua_pushliteral(L, "kind");
    lua_rawget(L, 1);
    const char *kind = lua_tostring(L, -1);
    bool cancelled = kind && strcmp(kind, "cancelled") == 0;
    lua_settop(L, 1);
    if (cancelled) return 1;
  }
  push_task(L, task_current(L));
  luaL_traceback(L, L, NULL, 1);
  lua_setiuservalue(L, -2, TASK_TRACE);
  lua_settop(L, 1);
  return 1;
}

// The first function of every task: errors unwind inside the protected call, so
// that `__close` may wait. None is ever left to lua_resume.
static int run_body(lua_State *L) {
  luaL_checkstack(L, 8, "too many arguments");
  lua_pushcfunction(L, on_error);
  lua_insert(L, 1);
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, end_body);
  return end_body(L, status, 0);
}

// ---- the beginning

static void note_site(lua_State *L, Task *task) {
  lua_Debug ar;
  for (int level = 0; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline <= 0 || strncmp(ar.source, "@sbx/", 5) == 0) continue;
    (void)snprintf(task->site, sizeof(task->site), "%.40s:%d", ar.short_src,
                   ar.currentline);
    return;
  }
}

Task *task_spawn(lua_State *L, Scope *parent, int arguments, bool protect,
                 bool daemon) {
  Reactor *reactor = reactor_of(L);
  int function = lua_gettop(L) - arguments;
  Task *task = lua_newuserdatauv(L, sizeof(*task), TASK_USER_VALUES);
  memset(task, 0, sizeof(*task));
  luaL_setmetatable(L, TASK_TYPE);
  lua_State *co = lua_newthread(L);
  lua_setiuservalue(L, -2, TASK_OUTCOME);  // anchors the thread meanwhile
  if (!lua_checkstack(co, arguments + 4)) luaL_error(L, "too many arguments");
  if (reactor->shuffle != 0) ready_reserve(L, reactor->live_tasks + 1);

  if (reactor->current) {
    push_locals(L, reactor->current);
    lua_setiuservalue(L, -2, TASK_LOCALS);
  }

  task->reactor = reactor;
  task->co = co;
  task->scope = &task->own;
  task_prepare_cleanup(task);
  task->born = timer_seconds(&reactor->schedule);
  task->arguments = arguments + 1;
  task->protect = protect;
  task->daemon = daemon;
  note_site(L, task);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, task);

  // From here on nothing raises. Stack: function, arguments, task.
  lua_insert(L, function);
  lua_pushcfunction(co, run_body);
  lua_xmove(L, co, arguments + 1);
  scope_link(reactor, &task->own, parent, task);
  if (parent) {
    parent->children++;
    if (daemon) parent->daemons++;
  }
  task->live_next = reactor->live_first;
  if (task->live_next) task->live_next->live_previous = task;
  reactor->live_first = task;
  reactor->live_tasks++;
  if (reactor->trace) trace_task_begins(reactor, task);
  task_ready(task);
  return task;
}

static void unlink_live(Reactor *reactor, Task *task) {
  if (task->live_previous)
    task->live_previous->live_next = task->live_next;
  else
    reactor->live_first = task->live_next;
  if (task->live_next) task->live_next->live_previous = task->live_previous;
  reactor->live_tasks--;
}

static void resume_task(lua_State *L, Reactor *reactor, Task *task) {
  int results = 0;
  reactor->current = task;
  reactor->nested = 0;
  task->state = TASK_RUNNING;
  // What it cleans up now has a time budget, which a loop that never waits must
  // not outrun.
  bool cancelled = task->wait && task->wait->status == UV_ECANCELED;
  if (cancelled || timer_armed(&task->cleanup)) task_arm_hook(task->co);
  task->wait = NULL;
  int arguments = task->arguments;
  task->arguments = 0;
  int status = resume_tracked(task->co, L, arguments, &results);
  reactor->current = NULL;
  if (status == LUA_YIELD) {
    assert(task->wait);
    task->state = TASK_WAITING;
    lua_pop(task->co, results);
    return;
  }
  // run_body catches everything but an error in its own bookkeeping, which can
  // only be memory: the task still counts as ended.
  task->state = TASK_ENDED;
  if (status != LUA_OK && task->result == RESULT_NONE) {
    lua_xmove(task->co, L, 1);
    push_task(L, task);
    lua_insert(L, -2);
    lua_setiuservalue(L, -2, TASK_OUTCOME);
    lua_pop(L, 1);
    task->result = RESULT_ERROR;
    end_task(L, task);
  }
  task->co = NULL;
  if (reactor->trace) trace_task_ends(L, reactor, task);
  unlink_live(reactor, task);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, task);
}

// ---- the loop

static void run_turn(lua_State *L, Reactor *reactor) {
  uint64_t now = uv_hrtime();
  uint64_t end = now + TURN_NANOSECONDS;
  Watchdog *dog = reactor->watchdog;
  for (int i = 0; i < TURN_TASKS && any_ready(reactor) && now <= end; i++) {
    Task *task = take_ready(reactor);
    uint64_t id = task->own.id;
    if (dog) watchdog_begin(dog, now);
    resume_task(L, reactor, task);
    now = uv_hrtime();
    if (dog && watchdog_end(dog)) watchdog_report(dog, L, task, id, now);
  }
}

// With nothing ready: moves a virtual clock on. False where it does not,
// because it is real, or something real is in progress and must be waited for.
static bool move_clock(Reactor *reactor, bool idle) {
  TimerHeap *schedule = &reactor->schedule;
  if (!schedule->is_virtual) return false;
  if (!idle && schedule->advances == 0) return false;
  if (timer_heap_turn(schedule, idle) || any_ready(reactor)) return true;
  return timer_heap_jump(schedule);
}

bool task_loop(lua_State *L, Task *task) {
  Reactor *reactor = reactor_of(L);
  while (task->state != TASK_ENDED) {
    if (reactor->on_turn) reactor->on_turn(L);
    scope_handle_expired(L);
    run_turn(L, reactor);
    if (task->state == TASK_ENDED) break;
    screen_after_turn(L);
    if (any_ready(reactor) || reactor->expired || reactor->overdue) {
      (void)uv_run(&reactor->loop, UV_RUN_NOWAIT);
      continue;
    }
    bool idle = !uv_loop_alive(&reactor->loop);
    if (move_clock(reactor, idle)) continue;
    if (idle) {
      Scope *root = reactor->root;
      if (!root || root->cancelled) return false;
      if (reactor->on_deadlock)
        reactor->on_deadlock(L);
      else
        lua_pushliteral(L, "deadlock");
      scope_cancel(L, root);
      continue;
    }
    timer_heap_wait(&reactor->schedule);
  }
  return true;
}

void task_push_trace(lua_State *L, const Task *task) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  for (lua_State *co = task->co; co; co = coroutine_inner(co)) {
    luaL_traceback(L, co, NULL, 0);
    luaL_addvalue(&buffer);
    luaL_addchar(&buffer, '\n');
  }
  luaL_pushresult(&buffer);
}
