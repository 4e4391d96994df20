// A request in progress as an object, for bodies that a task reads or hands
// over piece by piece. One task at a time may wait for what comes, and one for
// room to send. See transfer_flow.c for how much waits in between.

#define _GNU_SOURCE

#include "http_exchange.h"

#include <lauxlib.h>
#include <string.h>

#include "http_answer.h"
#include "http_request.h"
#include "luax.h"
#include "reactor.h"
#include "transfer.h"
#include "wait.h"

static const char TYPE[] = "sbx.http.exchange";

enum { READ_MOST = 256 * 1024 };

typedef struct Exchange {
  Transfer transfer;  // first, so that a Transfer * is an Exchange *
  Wait *reader;       // waits for the head, for bytes, or for the end
  Wait *writer;       // waits until libcurl asks for bytes, or for room
  Source *source;     // ... of this part of the body
  bool closed;
} Exchange;

typedef struct ExchangeWait {
  Wait wait;  // first, so that a Wait * is an ExchangeWait *
  Exchange *exchange;
  lua_Integer most;  // bytes to read
} ExchangeWait;

static bool is_over(const Exchange *exchange) {
  return exchange->closed || exchange->transfer.state == TRANSFER_ENDED;
}

// ---- what the loop calls

static bool can_read(const Exchange *exchange) {
  const Transfer *transfer = &exchange->transfer;
  if (is_over(exchange)) return true;
  if (!transfer->streamed) return false;  // it waits for the end
  return transfer->reading ? transfer_ready(transfer) > 0
                           : transfer->head_final;
}

static bool can_write(const Exchange *exchange) {
  const Source *source = exchange->source;
  return is_over(exchange) ||
         (source->feed.wanted && !transfer_feed_full(source));
}

static void on_flow(Transfer *transfer) {
  Exchange *exchange = (Exchange *)transfer;
  if (exchange->reader && can_read(exchange))
    (void)wait_settle(exchange->reader, 0);
  if (exchange->writer && can_write(exchange))
    (void)wait_settle(exchange->writer, 0);
}

static void close_reader(Wait *wait) {
  Exchange *exchange = ((ExchangeWait *)wait)->exchange;
  exchange->reader = NULL;
  exchange->transfer.reading = false;
  wait_done(wait);
}

static void close_writer(Wait *wait) {
  ((ExchangeWait *)wait)->exchange->writer = NULL;
  wait_done(wait);
}

// ---- what Lua calls

static Exchange *check_exchange(lua_State *L) {
  return luaL_checkudata(L, 1, TYPE);
}

static int raise_closed(lua_State *L) {
  return raise_kind(L, "io", "EBADF", "http: the answer is closed");
}

// Raises what ended the transfer. Its text is gone once it is closed.
static int raise_failure(lua_State *L, const Exchange *exchange) {
  if (exchange->closed) return raise_closed(L);
  push_failure(L, &exchange->transfer);
  return lua_error(L);
}

static Exchange *end_wait(lua_State *L, lua_KContext context) {
  const ExchangeWait *op = (const ExchangeWait *)context;
  if (op->wait.status != 0) raise_error(L, op->wait.status, "http");
  return op->exchange;
}

static ExchangeWait *new_reader(lua_State *L, Exchange *exchange) {
  if (exchange->closed) raise_closed(L);
  if (exchange->reader)
    luaL_error(L, "another task is waiting for this answer");
  ExchangeWait *op = wait_new(L, sizeof(*op), close_reader, "http");
  op->exchange = exchange;
  exchange->reader = &op->wait;
  return op;
}

static int end_answer(lua_State *L, int status, lua_KContext context) {
  (void)status;
  Exchange *exchange = end_wait(L, context);
  if (exchange->closed || exchange->transfer.failure.kind)
    return raise_failure(L, exchange);
  push_answer(L, &exchange->transfer);
  return 1;
}

// answer(): waits for the whole answer of an exchange that is not streamed
static int f_answer(lua_State *L) {
  Exchange *exchange = check_exchange(L);
  luaL_argcheck(L, !exchange->transfer.streamed, 1, "is streamed");
  ExchangeWait *op = new_reader(L, exchange);
  if (can_read(exchange)) (void)wait_settle(&op->wait, 0);
  return wait_yield(L, &op->wait, end_answer);
}

static int end_head(lua_State *L, int status, lua_KContext context) {
  (void)status;
  Exchange *exchange = end_wait(L, context);
  if (exchange->closed || !exchange->transfer.head_final)
    return raise_failure(L, exchange);
  push_answer(L, &exchange->transfer);
  return 1;
}

// head(): waits for the head of a streamed exchange, which is as an answer but
// for its body
static int f_head(lua_State *L) {
  Exchange *exchange = check_exchange(L);
  luaL_argcheck(L, exchange->transfer.streamed, 1, "is not streamed");
  ExchangeWait *op = new_reader(L, exchange);
  if (can_read(exchange)) (void)wait_settle(&op->wait, 0);
  return wait_yield(L, &op->wait, end_head);
}

static int end_read(lua_State *L, int status, lua_KContext context) {
  (void)status;
  Exchange *exchange = end_wait(L, context);
  Transfer *transfer = &exchange->transfer;
  if (exchange->closed) return raise_closed(L);
  size_t size = transfer_ready(transfer);
  if (size == 0) {
    if (transfer->failure.kind) return raise_failure(L, exchange);
    return 0;
  }
  lua_Integer most = ((const ExchangeWait *)context)->most;
  if (size > (size_t)most) size = (size_t)most;
  lua_pushlstring(L, transfer->body_in.data + transfer->body_in.at, size);
  transfer_take(transfer, size);
  return 1;
}

// read(most?): the next bytes of a streamed body, at most and by default 256
// KiB; nothing at the end. Waits.
static int f_read(lua_State *L) {
  Exchange *exchange = check_exchange(L);
  luaL_argcheck(L, exchange->transfer.head_final || exchange->closed, 1,
                "its head must be read first");
  lua_Integer most = luaL_optinteger(L, 2, READ_MOST);
  luaL_argcheck(L, most >= 1, 2, "must be at least 1");
  ExchangeWait *op = new_reader(L, exchange);
  op->most = most < READ_MOST ? most : READ_MOST;
  exchange->transfer.reading = true;
  if (can_read(exchange))
    (void)wait_settle(&op->wait, 0);
  else
    transfer_await_peer(&exchange->transfer);
  return wait_yield(L, &op->wait, end_read);
}

// The body, or its part number `index`; it must be fed.
static Source *check_source(lua_State *L, Exchange *exchange, int index) {
  Transfer *transfer = &exchange->transfer;
  lua_Integer part = luaL_checkinteger(L, index);
  luaL_argcheck(L, part >= 0 && (size_t)part <= transfer->part_count, index,
                "no such part");
  Source *source =
      part == 0 ? &transfer->body : &transfer->parts[part - 1].source;
  luaL_argcheck(L, source->feed.active, index, "is not fed");
  return source;
}

static int end_feed(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_pushboolean(L, !is_over(end_wait(L, context)));
  return 1;
}

static int wait_for_room(lua_State *L, Exchange *exchange, Source *source) {
  if (exchange->writer)
    return luaL_error(L, "another task is sending this body");
  ExchangeWait *op = wait_new(L, sizeof(*op), close_writer, "http upload");
  op->exchange = exchange;
  exchange->writer = &op->wait;
  exchange->source = source;
  if (can_write(exchange)) (void)wait_settle(&op->wait, 0);
  return wait_yield(L, &op->wait, end_feed);
}

// wanted(part): waits until libcurl asks for the bytes of the body (0) or of a
// part, which it does once it is connected; false when it will not any more
static int f_wanted(lua_State *L) {
  Exchange *exchange = check_exchange(L);
  if (is_over(exchange)) return 0;
  return wait_for_room(L, exchange, check_source(L, exchange, 2));
}

// feed(part, bytes): hands over more bytes and waits for room for the next;
// false when nobody wants them any more
static int f_feed(lua_State *L) {
  Exchange *exchange = check_exchange(L);
  size_t size = 0;
  const char *bytes = luaL_checklstring(L, 3, &size);
  if (is_over(exchange)) return 0;
  Source *source = check_source(L, exchange, 2);
  int status = transfer_feed(&exchange->transfer, source, bytes, size);
  if (status != 0) return raise_error(L, status, "http upload");
  return wait_for_room(L, exchange, source);
}

// finish(part): says that there are no more bytes of it
static int f_finish(lua_State *L) {
  Exchange *exchange = check_exchange(L);
  if (is_over(exchange)) return 0;
  transfer_end_feed(&exchange->transfer, check_source(L, exchange, 2));
  return 0;
}

// timing(): as in an answer, with `total` once it is at its end
static int f_timing(lua_State *L) {
  push_timing(L, &check_exchange(L)->transfer.timing);
  return 1;
}

// close(): ends the transfer wherever it is; who waits gets EBADF. Closing
// twice is fine.
static int f_close(lua_State *L) {
  Exchange *exchange = check_exchange(L);
  if (exchange->closed) return 0;
  exchange->closed = true;
  transfer_free(&exchange->transfer);
  if (exchange->reader) (void)wait_settle(exchange->reader, 0);
  if (exchange->writer) (void)wait_settle(exchange->writer, 0);
  return 0;
}

int f_start(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  bool streamed = lua_toboolean(L, 2);
  lua_settop(L, 1);
  Reactor *reactor = reactor_of(L);
  Exchange *exchange = lua_newuserdatauv(L, sizeof(*exchange), 1);
  memset(exchange, 0, sizeof(*exchange));
  transfer_init(&exchange->transfer);
  luaL_setmetatable(L, TYPE);

  read_request(L, &exchange->transfer);
  exchange->transfer.streamed = streamed;
  int top = lua_gettop(L);
  lua_createtable(L, top - 2, 0);  // keeps what the transfer points into
  for (int i = 3; i <= top; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, i - 2);
  }
  lua_setiuservalue(L, 2, 1);
  lua_settop(L, 2);

  exchange->transfer.on_done = on_flow;
  exchange->transfer.on_flow = on_flow;
  int status = transfer_pool_open(reactor);
  if (status == 0) status = transfer_start(reactor, &exchange->transfer);
  if (status != 0)
    return raise_error(L, status, "http %s", exchange->transfer.label);
  return 1;
}

static const luaL_Reg methods[] = {
    {"answer", f_answer},
    {"head",   f_head  },
    {"read",   f_read  },
    {"wanted", f_wanted},
    {"feed",   f_feed  },
    {"finish", f_finish},
    {"timing", f_timing},
    {"close",  f_close },
    {NULL,     NULL    },
};

void open_exchange(lua_State *L) {
  luaL_newmetatable(L, TYPE);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, f_close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, f_close);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
}
