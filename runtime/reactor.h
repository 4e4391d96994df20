// The libuv loop and all state that hangs off it. There is one Reactor for each
// Lua state and no mutable global: `reactor_of` finds it.

#ifndef SBX_REACTOR_H
#define SBX_REACTOR_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "timer.h"

struct Task;
struct Scope;
struct Wait;
struct TransferPool;
struct Screen;
struct SlowFiles;
struct Watchdog;
struct Trace;

typedef struct Reactor {
  uv_loop_t loop;
  TimerHeap timers;           // of transfers: always on the real clock
  TimerHeap schedule;         // of tasks: sleeps, deadlines, cleanup budgets
  lua_State *main;            // the state's main thread; runs no user code
  struct TransferPool *http;  // made by the first transfer, else NULL

  struct SlowFiles *slow_files;  // terminals and pipes behind `io`
  struct Watchdog *watchdog;     // of steps that take long, or NULL

  struct Screen *screen;  // made for its first owner, else NULL
  struct Trace *trace;    // see trace.h; NULL while none is written

  // tasks: see task.c
  struct Task *ready_first, *ready_last;  // see ready.c
  struct Task **bag;                      // the same in a random order
  size_t bag_count, bag_capacity;
  uint64_t shuffle;               // state of that order; 0 for none
  struct Task *current;           // the running task, else NULL
  struct Task *live_first;        // every task that has not ended, newest first
  struct Scope *root;             // what SIGINT and SIGTERM cancel, else NULL
  struct Scope *expired;          // deadlines that passed, for the run queue
  struct Task *overdue;           // tasks whose cleanup budget is spent
  uint64_t next_id;               // of tasks and scopes
  void (*on_turn)(lua_State *L);  // signals, seen between two turns; or NULL
  void (*on_deadlock)(lua_State *L);  // pushes the reason; or NULL
  int nested;              // scopes opened since the task was resumed
  size_t live_tasks;       // started or queued, not ended
  size_t live_waits;       // between new and end
  double cleanup_seconds;  // how long finalizers of a cancelled task may wait
  lua_State *volatile running;  // innermost running coroutine, for the hook
  bool closing;                 // no new waits: the end has begun
  bool has_coroutine_locals;    // see locals.c
} Reactor;

// Opens the loop and ties it to L. Returns 0 or a libuv error.
int reactor_open(Reactor *reactor, lua_State *L);

// Runs the loop until every handle is closed, then frees it. The Lua state must
// be closed already: finalizers still talk to the loop.
void reactor_close(Reactor *reactor);

// The reactor of the state that L belongs to. Never NULL in a host's state.
static inline Reactor *reactor_of(lua_State *L) {
  return *(Reactor **)lua_getextraspace(L);
}

// Seconds on the real monotonic clock. Tasks have timer_seconds instead.
double reactor_now(void);

#endif
