// sbx.core.http: requests and their answers. What a request means is in
// transfer.h; comfort and defaults are in lua/sbx/http.lua.

#define _GNU_SOURCE

#include <lauxlib.h>
#include <math.h>
#include <string.h>

#include "http_answer.h"
#include "http_cookies.h"
#include "http_exchange.h"
#include "http_request.h"
#include "luax.h"
#include "reactor.h"
#include "transfer.h"
#include "wait.h"

static const char TYPE[] = "sbx.http.request";

typedef struct Call {
  Wait wait;  // first, so that a Wait * is a Call *
  Transfer *transfer;
} Call;

// A userdata of its own, so that the collector frees what a raise leaves.
typedef struct Request {
  Transfer transfer;  // first, so that a Transfer * is a Request *
  Call *call;
} Request;

static void on_done(Transfer *transfer) {
  (void)wait_settle(&((Request *)transfer)->call->wait, 0);
}

static void close_call(Wait *wait) {
  transfer_cancel(((Call *)wait)->transfer);
  wait_done(wait);
}

static int gc_request(lua_State *L) {
  Request *request = luaL_checkudata(L, 1, TYPE);
  transfer_free(&request->transfer);
  return 0;
}

static int end_request(lua_State *L, int status, lua_KContext context) {
  Call *call = (Call *)context;
  Transfer *transfer = call->transfer;
  if (call->wait.status != 0) {
    transfer_free(transfer);
    return raise_error(L, call->wait.status, "http");
  }
  bool failed = transfer->failure.kind != NULL;
  if (failed)
    push_failure(L, transfer);
  else
    push_answer(L, transfer);
  transfer_free(transfer);  // a large body must not wait for the collector
  return failed ? lua_error(L) : 1;
}

// request(request): waits for the whole answer, {status=, reason=, headers=,
// set_cookies=?, body= | saved=, size=, url=, label=, timing=, retry_after=?}.
// Raises an error object when there is none, and a plain error on misuse. For
// the request see http_request.h.
static int f_request(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  Reactor *reactor = reactor_of(L);
  Request *request = lua_newuserdatauv(L, sizeof(*request), 0);
  memset(request, 0, sizeof(*request));
  Transfer *transfer = &request->transfer;
  transfer_init(transfer);
  luaL_setmetatable(L, TYPE);

  read_request(L, transfer);

  Call *call = wait_new(L, sizeof(*call), close_call, "http");
  int status = transfer_pool_open(reactor);
  call->transfer = transfer;
  request->call = call;
  transfer->on_done = on_done;
  if (status == 0) status = transfer_start(reactor, transfer);
  if (status != 0) {
    wait_drop(L, &call->wait);
    return raise_error(L, status, "http %s", transfer->label);
  }
  return wait_yield(L, &call->wait, end_request);
}

// ---- the pool

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void add_host(void *context, const HostStats *stats) {
  lua_State *L = context;
  lua_createtable(L, 0, 9);
  set_integer(L, "limit", (lua_Integer)stats->limit);
  set_integer(L, "active", (lua_Integer)stats->active);
  set_integer(L, "queued", (lua_Integer)stats->queued);
  set_integer(L, "connections", (lua_Integer)stats->connections);
  set_integer(L, "started", (lua_Integer)stats->started);
  set_integer(L, "failed", (lua_Integer)stats->failed);
  if (!isnan(stats->p50)) {
    set_number(L, "p50", stats->p50);
    set_number(L, "p90", stats->p90);
    set_number(L, "p99", stats->p99);
  }
  lua_setfield(L, -2, stats->key);
}

// stats() -> {key = {limit=, active=, queued=, connections=, started=, failed=,
// p50=?, p90=?, p99=? (seconds)}}, and the number of name look-ups so far
static int f_stats(lua_State *L) {
  lua_newtable(L);
  transfer_pool_stats(reactor_of(L), add_host, L);
  lua_pushinteger(L, (lua_Integer)transfer_pool_lookups(reactor_of(L)));
  return 2;
}

// close_idle(): closes the connections that no request uses
static int f_close_idle(lua_State *L) {
  transfer_pool_close_idle(reactor_of(L));
  return 0;
}

static const luaL_Reg functions[] = {
    {"request",    f_request   },
    {"start",      f_start     },
    {"cookies",    f_cookies   },
    {"stats",      f_stats     },
    {"close_idle", f_close_idle},
    {NULL,         NULL        },
};

int luaopen_sbx_core_http(lua_State *L) {
  luaL_newmetatable(L, TYPE);
  lua_pushcfunction(L, gc_request);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  open_exchange(L);
  open_cookies(L);
  luaL_newlib(L, functions);
  return 1;
}
