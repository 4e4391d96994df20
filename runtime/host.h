// The process around one Lua state: makes it, runs the main task, ends both in
// order. Only this part sees every layer.

#ifndef SBX_HOST_H
#define SBX_HOST_H

#include <lua.h>
#include <signal.h>
#include <stdbool.h>
#include <uv.h>

#include "reactor.h"

typedef struct Host {
  Reactor reactor;  // first, so that a Reactor * is a Host *
  uv_async_t wakeup;
  uv_prepare_t before_wait;  // flushes stdout
  int output_error;          // errno of a flush that failed, or 0
  int argc;
  char **argv;
  int observer;                        // reference to the Lua observer
  volatile sig_atomic_t pending;       // a signal that the loop has yet to see
  volatile sig_atomic_t first_signal;  // the first one of this run, or 0
  volatile sig_atomic_t interrupts;    // how many SIGINT came
  char abandoned[1024];                // what a second Ctrl-C leaves behind
} Host;

// Runs the program in `argv`; returns the exit status.
int host_run(int argc, char **argv);

static inline Host *host_of(lua_State *L) {
  return (Host *)reactor_of(L);
}

// ---- signals.c

// Handles SIGINT, SIGTERM and SIGHUP for this host. One host a process.
int signals_open(Host *host);
void signals_close(Host *host);

// What the run queue calls between turns: a signal cancels the root scope.
void signals_handle(lua_State *L);

// Calls the observer, if any, with `event` and, on top of the stack, one value.
// Pops the value, pushes one result (nil on failure).
void host_observe(lua_State *L, const char *event);

#endif
