// Opening and closing the loop.

#define _GNU_SOURCE
#include "reactor.h"

#include <stdlib.h>
#include <string.h>

int reactor_open(Reactor *reactor, lua_State *L) {
  memset(reactor, 0, sizeof(*reactor));
  int status = uv_loop_init(&reactor->loop);
  if (status != 0) return status;
  // Neither fails: a uv_timer takes nothing from the system.
  timer_heap_open(&reactor->timers, &reactor->loop);
  timer_heap_open(&reactor->schedule, &reactor->loop);
  reactor->main = L;
  reactor->cleanup_seconds = 10;
  // New threads copy the main thread's extra space.
  *(Reactor **)lua_getextraspace(L) = reactor;
  return 0;
}

static void close_leftover(uv_handle_t *handle, void *unused) {
  (void)unused;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void reactor_close(Reactor *reactor) {
  timer_heap_close(&reactor->timers);
  timer_heap_close(&reactor->schedule);
  (void)uv_run(&reactor->loop, UV_RUN_NOWAIT);
  // Whoever still owns a handle has lost its Lua side; its memory is let go,
  // which at this point the end of the process does anyway.
  uv_walk(&reactor->loop, close_leftover, NULL);
  (void)uv_run(&reactor->loop, UV_RUN_DEFAULT);
  (void)uv_loop_close(&reactor->loop);
  timer_heap_free(&reactor->timers);
  timer_heap_free(&reactor->schedule);
  free(reactor->bag);
}

double reactor_now(void) {
  return (double)uv_hrtime() / 1e9;
}
