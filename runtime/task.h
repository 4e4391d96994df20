// Tasks and scopes. A task is a coroutine that the run queue resumes; a scope
// is a stretch of one task's work that can be cancelled together with every
// task spawned in it. Scopes form one tree: the parent of a task's own scope is
// the scope it was spawned in, the parent of an opened scope is the one around
// it.
//
// The run queue here is the only caller of lua_resume for tasks: no task runs
// inside another. (coroutine.c resumes generators, inside their task.)

#ifndef SBX_TASK_H
#define SBX_TASK_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor.h"
#include "timer.h"
#include "wait.h"

typedef struct Task Task;
typedef struct Scope Scope;

struct Scope {
  Timer deadline;  // first, so that a Timer * is a Scope *
  uint64_t id;     // never used twice
  Scope *parent;
  Scope *first_child, *previous, *next;  // the tree
  Scope *next_expired;
  Task *owner;      // whose work it covers
  lua_State *L;     // the coroutine that opened it; NULL for a task's own
  Wait *joiner;     // the owner, waiting for the children
  size_t children;  // live tasks spawned in it, daemons included
  size_t daemons;   // of these, those that are not waited for
  size_t failures;
  int errors;   // reference to the array of the children's errors
  int reason;   // reference to what cancel was given
  bool linked;  // part of the tree
  bool cut;     // one of its tasks was cancelled before its end
  bool cancelled;
  bool timed_out;  // cancelled by its deadline
  bool shielded;   // a cancel from outside does not reach in
  bool bounded;    // the program's end has set its deadline
  bool collects;   // a failing child does not cancel the others
  bool sheltered;  // opened by a finalizer of a task that was cancelled
};

typedef enum TaskState {
  TASK_QUEUED,
  TASK_RUNNING,
  TASK_WAITING,
  TASK_ENDED
} TaskState;

typedef enum TaskResult {
  RESULT_NONE,
  RESULT_OK,
  RESULT_ERROR,
  RESULT_CANCELLED
} TaskResult;

struct Task {
  Scope own;  // first, so that a task's own Scope * is a Task *
  Reactor *reactor;
  lua_State *co;  // NULL once ended
  Task *next;     // in the ready queue
  Task *next_overdue;
  Task *live_next, *live_previous;
  Wait *wait;                   // what it is suspended on, else NULL
  Wait *joiners, *last_joiner;  // tasks that wait for its end, in their order
  Scope *scope;                 // innermost open scope; &own at first
  Timer cleanup;                // ends the patience with its finalizers
  double born;                  // monotonic seconds
  int arguments;                // for the first resume
  TaskState state;
  TaskResult result;
  bool protect;  // a failure is delivered by join and harms nobody else
  bool daemon;
  bool cleanup_spent;
  int refusals;   // how often it was told to end: by its waits and by the hook
  char site[56];  // where it was spawned: "file.lua:12"
};

#define TASK_TYPE "sbx.task"
#define SCOPE_TYPE "sbx.scope"

// User values of a Task's userdata.
enum {
  TASK_NAME = 1,
  TASK_OUTCOME = 2,
  TASK_TRACE = 3,
  TASK_LOCALS = 4,  // table of inherited values, never changed; nil for none
  TASK_CAUSE =
      5,  // the task of its own scope whose error it ended with, or nil
  TASK_USER_VALUES = 5
};

// ---- scope.c

// Makes `scope` the innermost one of `task`'s tree position `parent`.
void scope_link(Reactor *reactor, Scope *scope, Scope *parent, Task *owner);
void scope_unlink(lua_State *L, Scope *scope);

// Ends an opened scope that has no children left: the one around it is the
// innermost again.
void scope_leave(lua_State *L, Scope *scope);

// Cancels everything below `scope`, except what is shielded. Takes the reason
// from the top of the stack (nil for none). Twice is harmless.
void scope_cancel(lua_State *L, Scope *scope);

// The outermost cancelled scope that reaches the task, else NULL.
Scope *scope_reaching(const Task *task);

// Records the error on top of the stack, which it pops, as a failure of the
// scope, and cancels it unless it collects. `child` is the task that failed, or
// NULL. In the array of errors it stands under the negated index.
void scope_fail(lua_State *L, Scope *scope, Task *child);

// Counts a child out; wakes the owner when it was the last awaited one.
void scope_child_ended(Scope *scope, const Task *child);

// Arms the deadline. The scope is cancelled by the run queue when it passes.
void scope_set_deadline(Scope *scope, double seconds);

// Whether what SIGINT and its like cancel is cancelled, and `scope` in it. Then
// what is shielded has the time that finalizers have, and no longer.
bool scope_program_ends(const Scope *scope);
void scope_bound_shield(Scope *scope);

// Pushes the `cancelled` error of a task that `source` cancelled.
void push_cancelled(lua_State *L, const Scope *source);

// Cancels scopes whose deadline passed and tasks that overran their cleanup.
void scope_handle_expired(lua_State *L);

// ---- task.c

// Takes a function and `arguments` values from the top of the stack, pushes the
// Task that will run it. `parent` is the scope it belongs to, or NULL.
Task *task_spawn(lua_State *L, Scope *parent, int arguments, bool protect,
                 bool daemon);

// Puts the task into the ready queue, for the run queue to resume.
void task_ready(Task *task);

// From now on ready tasks run in an order that `seed` determines; or, where
// `shuffled` is false, first come first served again. Raises without memory.
void task_shuffle(lua_State *L, bool shuffled, uint64_t seed);

// Resumes ready tasks and runs the loop until `task` has ended. Returns false
// on a deadlock that the root scope's cancellation could not end.
bool task_loop(lua_State *L, Task *task);

// Suspends the running task until `scope`, which it owns, has no child left but
// daemons, which are then cancelled; `then` goes on, perhaps before the last
// has ended: it calls again while scope->children is not 0. A cancel does not
// end it.
int task_await_children(lua_State *L, Scope *scope, lua_KFunction then);

// Adds a waiting joiner, and removes one (used by its close).
void task_add_joiner(Task *task, Wait *wait);
void task_drop_joiner(Task *task, Wait *wait);

// The running task, or NULL.
Task *task_current(lua_State *L);

// Pushes the traceback of a suspended task, generators included.
void task_push_trace(lua_State *L, const Task *task);

// ---- cancel.c

// The scope whose cancellation the task must obey now: the outermost one that
// reaches it. NULL when there is none, and while the task is in a finalizer
// (a `__close` metamethod) that was called inside that scope, or belongs to one
// of another task: then that task's budget for cleaning up begins to run.
Scope *task_must_end(Task *task);

// Whether the task is cancelled and runs a finalizer inside its innermost
// scope. What that opens has the finalizer's protection and time budget.
bool task_finalizes(const Task *task);

// Notes that a task that must end tried to wait. One that goes on all the same,
// perhaps in a loop, is reached by a hook after a while, wherever it is by
// then.
void task_count_refusal(lua_State *L, Task *task);

// A debug hook that looks for signals and raises `cancelled` in a task that
// must end, for code that runs on without waiting.
void task_hook(lua_State *L, lua_Debug *ar);

// Arms the hook to come after a good while.
void task_arm_hook(lua_State *L);

// The timer of a task's cleanup budget: made ready, and stopped for good.
void task_prepare_cleanup(Task *task);
void task_forget_cleanup(Task *task);

// No cancel reaches the task any more: the next one begins anew, with a budget
// of its own.
void task_end_cleanup(Task *task);

// ---- locals.c

// Pushes the table of values that `task`, which runs, hands down from here; nil
// for none.
void push_locals(lua_State *L, const Task *task);

// Puts the table (or nil) on top of the stack in the place of the one that the
// running coroutine has set, which it pushes instead.
void replace_locals(lua_State *L, Task *task);

// ---- coroutine.c

// What a waiting function yields; generators pass it through to the run queue.
void push_wait_sentinel(lua_State *L);
bool is_wait_sentinel(lua_State *L, int index);

// Replaces coroutine.resume, wrap, yield, ... by those that let waits through.
void coroutine_install(lua_State *L);

// The coroutine that `co` has resumed and that has not yielded to it since, be
// it running or waiting; NULL when `co` is the innermost one.
lua_State *coroutine_inner(lua_State *co);

// lua_resume that keeps Reactor.running up to date.
int resume_tracked(lua_State *co, lua_State *from, int arguments, int *results);

#endif
