// The process around one Lua state: makes it, runs the main task, ends both in
// order. Only this part sees every layer.

#ifndef SBX_HOST_H
#define SBX_HOST_H

#include <lua.h>
#include <signal.h>
#include <stdbool.h>
#include <uv.h>

#include "reactor.h"
#include "slow_file.h"

struct SignalListener;

enum { SIGNALS = 65 };  // 1 to 64

// Which signals the script listens to.
typedef struct SignalTable {
  volatile sig_atomic_t listeners[SIGNALS];  // how many listen to it
  volatile sig_atomic_t arrived[SIGNALS];    // the loop has yet to see it
  volatile sig_atomic_t untaken;     // when a SIGINT came that nobody has taken
                                     // yet: a second of the clock, or 0
  struct sigaction before[SIGNALS];  // what stands again after the last one
  struct SignalListener *first;      // see lib_signal.c
  int waiting;                       // tasks that wait for a signal
} SignalTable;

typedef struct Host {
  Reactor reactor;  // first, so that a Reactor * is a Host *
  SlowFiles slow_files;
  uv_async_t wakeup;
  uv_prepare_t before_wait;  // flushes stdout
  int output_error;          // errno of a flush that failed, or 0
  bool exits;                // os.exit was called, with this:
  int exit_status;
  bool hurried;  // the last output is not worth blocking for
  bool warnings_off;
  bool warning_goes_on;  // its end has yet to come
  SignalTable signals;
  int argc;
  char **argv;
  int observer;                        // reference to the Lua observer
  volatile sig_atomic_t pending;       // a signal that the loop has yet to see
  volatile sig_atomic_t first_signal;  // the first one of this run, or 0
  volatile sig_atomic_t interrupts;    // how many SIGINT came
  volatile sig_atomic_t wants_tree;    // a SIGQUIT has yet to be answered
  volatile sig_atomic_t keeps_on;      // SIGINT is an "interrupt" event:
  volatile sig_atomic_t wants_break;   // one that has yet to be told
  char abandoned[1024];                // what a second Ctrl-C leaves behind
} Host;

// Runs the program in `argv`; returns the exit status.
int host_run(int argc, char **argv);

static inline Host *host_of(lua_State *L) {
  return (Host *)reactor_of(L);
}

// ---- signals.c

// Handles SIGINT, SIGTERM, SIGHUP and SIGQUIT for this host. One host a
// process.
int signals_open(Host *host);
void signals_close(Host *host);

// What the run queue calls between turns: a signal cancels the root scope.
void signals_handle(lua_State *L);

// While at least one listens, a signal goes to the listeners instead of doing
// what it does by default, except that a signal never stops a clean-up from
// being ended. Returns 0 or a negated errno.
int signals_listen(Host *host, int number);
void signals_unlisten(Host *host, int number);

// The script has taken a signal. As long as it does not, another SIGINT ends
// the process at once, a while after the first.
void signals_taken(Host *host, int number);

// In lib_signal.c: gives the signal to all that listen to it. Never calls Lua.
void signal_listeners_wake(struct SignalListener *first, int number);

// Calls the observer, if any, with `event` and, on top of the stack, one value.
// Pops the value, pushes one result (nil on failure).
void host_observe(lua_State *L, const char *event);

#endif
