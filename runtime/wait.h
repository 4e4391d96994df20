// A Wait is the one thing a task is suspended on: a timer, a child, a transfer.
// An operation embeds it as its first member and goes through five steps:
//
//   new      Lua allocates the block and the registry pins it
//   start    libuv or curl is told; from here the loop points into the block
//   settle   it succeeds, fails or is cancelled; the first to say so wins
//   done     the loop has let go of the block; the task is queued
//   end      the task runs on and turns C values into Lua values
//
// Callbacks store C values and never call Lua. Lua values are made in `end`,
// inside the task, where an error has somewhere to go.

#ifndef SBX_WAIT_H
#define SBX_WAIT_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct Task;

typedef struct Wait Wait;

struct Wait {
  struct Task *task;          // the suspended task
  lua_State *L;               // its coroutine that called; perhaps a generator
  void (*close)(Wait *wait);  // makes the loop let go, then calls wait_done
  lua_KFunction end;          // turns the outcome into Lua values
  const char *what;           // for people: "sleep"; static text
  Wait *next_joiner;          // among those that wait for one task's end
  Wait *previous_joiner;
  int status;  // once settled: 0 or a libuv error
  bool settled;
  bool done;
  bool shielded;  // a cancel does not settle it
  // for a trace, else 0: nanoseconds, and the task that ended it
  uint64_t began, settled_at, settled_by;
};

// Step "new". Pushes a userdata of `size` bytes, zeroed, whose first member is
// a Wait, and pins it until `end`. This is also the checkpoint that every
// waiting function must pass, so call it before anything that must be undone.
// Raises `cancelled` when the task is cancelled, and a plain error outside a
// task or where the VM cannot suspend (table.sort, string.gsub, __gc ...).
// `close` runs once, at settle; it must lead to wait_done, at once or later.
void *wait_new(lua_State *L, size_t size, void (*close)(Wait *wait),
               const char *what);

// The check alone, for operations that may turn out to need no wait.
void wait_checkpoint(lua_State *L, const char *what);

// The running task. Raises a plain error where it may not suspend.
struct Task *wait_suspendable(lua_State *L, const char *what);

// The same without the cancellation check, for the few operations that must go
// on in a cancelled task (waiting for children). A cancel does not end it.
void *wait_new_shielded(lua_State *L, size_t size, void (*close)(Wait *wait),
                        const char *what);

// Suspends the running task; use as `return wait_yield(L, &op->wait, end_op)`.
// `end` runs in the task once the wait is done, with the stack as it was here
// and `(lua_KContext)wait` as context. Works also when the wait is done
// already.
int wait_yield(lua_State *L, Wait *wait, lua_KFunction end);

// Undoes wait_new where starting failed: nothing in the loop points here.
void wait_drop(lua_State *L, Wait *wait);

// Step "settle": status is 0 or a libuv error (UV_ECANCELED means cancelled and
// nothing else). Returns true for the first call, which also calls `close`.
bool wait_settle(Wait *wait, int status);

// Step "done": the loop holds no pointer to the block any more. Queues the
// task.
void wait_done(Wait *wait);

#endif
