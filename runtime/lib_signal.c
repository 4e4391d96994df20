// sbx.core.signal: listening to signals, and sending them.
//
// A listener keeps what has come until a task takes it; as in the kernel, a
// signal that comes again before it was taken counts once.

#include <lauxlib.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <uv.h>

#include "host.h"
#include "luax.h"
#include "wait.h"

#define LISTENER_TYPE "sbx.signal"

typedef struct SignalListener SignalListener;
typedef struct SignalWait SignalWait;

// In the host's list from listen to close.
struct SignalListener {
  SignalListener *previous, *next;
  Host *host;              // NULL once closed
  SignalWait *waiter;      // suspended in wait(), else NULL
  uint64_t wanted;         // bit n - 1 for the signal n
  uint64_t pending;        // came and not taken yet
  uint8_t queue[SIGNALS];  // those, the oldest first
  int count;               // of the queue
  bool claimed;            // from the start of a wait to its end in the task
};

struct SignalWait {
  Wait wait;
  SignalListener *listener;
};

static uint64_t bit_of(int number) {
  return UINT64_C(1) << (number - 1);
}

// Waiting

static void close_wait(Wait *wait) {
  SignalListener *listener = ((SignalWait *)wait)->listener;
  // The loop stays for as long as somebody waits for a signal.
  if (listener->host->signals.waiting-- == 1)
    uv_unref((uv_handle_t *)&listener->host->wakeup);
  listener->waiter = NULL;
  wait_done(wait);
}

void signal_listeners_wake(SignalListener *first, int number) {
  for (SignalListener *one = first; one != NULL; one = one->next) {
    if ((one->wanted & ~one->pending & bit_of(number)) == 0) continue;
    one->pending |= bit_of(number);
    one->queue[one->count++] = (uint8_t)number;
    if (one->waiter != NULL) (void)wait_settle(&one->waiter->wait, 0);
  }
}

static SignalListener *check_listener(lua_State *L) {
  return luaL_checkudata(L, 1, LISTENER_TYPE);
}

// Takes the oldest signal off the queue.
static int take(SignalListener *listener) {
  int number = listener->queue[0];
  memmove(listener->queue, listener->queue + 1, (size_t)--listener->count);
  listener->pending &= ~bit_of(number);
  signals_taken(listener->host, number);
  return number;
}

static int end_wait(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  SignalListener *listener = check_listener(L);
  listener->claimed = false;
  if (wait->status != 0) return raise_error(L, wait->status, "wait");
  if (listener->host == NULL) {
    lua_pushnil(L);
  } else {
    lua_pushinteger(L, take(listener));
  }
  return 1;
}

// wait() → number, or nil once closed. Waits; one task at a time.
static int f_wait(lua_State *L) {
  SignalListener *listener = check_listener(L);
  if (listener->host == NULL) return 0;
  if (listener->claimed) return luaL_error(L, "another task is waiting");
  SignalWait *op = wait_new(L, sizeof(*op), close_wait, "signal");
  op->listener = listener;
  listener->claimed = true;
  listener->waiter = op;
  if (listener->host->signals.waiting++ == 0)
    uv_ref((uv_handle_t *)&listener->host->wakeup);
  if (listener->count > 0) (void)wait_settle(&op->wait, 0);
  return wait_yield(L, &op->wait, end_wait);
}

// Listening

static void close_listener(SignalListener *listener) {
  Host *host = listener->host;
  if (host == NULL) return;
  if (listener->waiter != NULL) (void)wait_settle(&listener->waiter->wait, 0);
  for (int number = 1; number < SIGNALS; number++) {
    if (listener->wanted & bit_of(number)) signals_unlisten(host, number);
  }
  if (listener->previous != NULL)
    listener->previous->next = listener->next;
  else
    host->signals.first = listener->next;
  if (listener->next != NULL) listener->next->previous = listener->previous;
  listener->host = NULL;
}

// Also close(): what has come and was not taken is dropped. Again is harmless.
static int gc_listener(lua_State *L) {
  close_listener(check_listener(L));
  return 0;
}

static int check_number(lua_State *L, int index) {
  lua_Integer number = luaL_checkinteger(L, index);
  luaL_argcheck(L, number > 0 && number < SIGNALS, index, "not a signal");
  return (int)number;
}

// listen(number, ...) → Listener
static int f_listen(lua_State *L) {
  int count = lua_gettop(L);
  for (int i = 1; i <= count; i++)
    (void)check_number(L, i);
  SignalListener *listener = lua_newuserdatauv(L, sizeof(*listener), 0);
  memset(listener, 0, sizeof(*listener));
  luaL_setmetatable(L, LISTENER_TYPE);
  listener->host = host_of(L);
  SignalListener **first = &listener->host->signals.first;
  listener->next = *first;
  if (*first != NULL) (*first)->previous = listener;
  *first = listener;
  for (int i = 1; i <= count; i++) {
    int number = check_number(L, i);
    if (listener->wanted & bit_of(number)) continue;
    int status = signals_listen(listener->host, number);
    if (status != 0) {
      close_listener(listener);
      return raise_error(L, status, "listen to signal %d", number);
    }
    listener->wanted |= bit_of(number);
  }
  return 1;
}

// send(pid, number): to one process
static int f_send(lua_State *L) {
  lua_Integer pid = luaL_checkinteger(L, 1);
  luaL_argcheck(L, pid > 0 && pid <= INT_MAX, 1, "not a process");
  int number = check_number(L, 2);
  int status = uv_kill((int)pid, number);
  if (status != 0)
    return raise_error(L, status, "send signal %d to process %d", number,
                       (int)pid);
  return 0;
}

static const luaL_Reg methods[] = {
    {"wait",  f_wait     },
    {"close", gc_listener},
    {NULL,    NULL       },
};

static const luaL_Reg functions[] = {
    {"listen", f_listen},
    {"send",   f_send  },
    {NULL,     NULL    },
};

int luaopen_sbx_core_signal(lua_State *L) {
  luaL_newmetatable(L, LISTENER_TYPE);
  lua_pushcfunction(L, gc_listener);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
