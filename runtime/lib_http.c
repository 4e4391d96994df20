// sbx.core.http: one request, as strict as the wire. What a request means is
// in transfer.h; comfort and defaults are in lua/sbx/http.lua.

#define _GNU_SOURCE

#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http_answer.h"
#include "luax.h"
#include "reactor.h"
#include "transfer.h"
#include "wait.h"

static const char TYPE[] = "sbx.http.request";

enum { PARTS_MOST = 100, HEADERS_MOST = 200 };

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

// ---- the request

// Leaves the field's value on the stack, which keeps its bytes alive until the
// request has ended, whatever becomes of the table.
static const char *keep_bytes(lua_State *L, int index, const char *name,
                              size_t *size) {
  int type = lua_getfield(L, index, name);
  if (type == LUA_TNIL) return NULL;
  if (type != LUA_TSTRING)
    luaL_error(L, "%s: expected a string, got a %s", name,
               luaL_typename(L, -1));
  return lua_tolstring(L, -1, size);
}

static const char *keep_text(lua_State *L, int index, const char *name) {
  size_t size = 0;
  const char *text = keep_bytes(L, index, name, &size);
  if (text && strlen(text) != size)
    luaL_error(L, "%s: must not hold a zero byte", name);
  return text;
}

static bool is_token(const char *text) {
  static const char others[] = "!#$%&'*+-.^_`|~";
  for (const char *c = text; *c; c++) {
    bool letter = (*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') ||
                  (*c >= 'a' && *c <= 'z');
    if (!letter && !strchr(others, *c)) return false;
  }
  return *text != '\0';
}

// Refuses what would end the line early and begin another header.
static void check_line(lua_State *L, const char *what, const char *text) {
  for (const char *c = text; c && *c; c++)
    if ((unsigned char)*c < ' ' && *c != '\t')
      luaL_error(L, "%s: must not hold control characters", what);
}

static void append_header(lua_State *L, Transfer *transfer, const char *line) {
  struct curl_slist *grown = curl_slist_append(transfer->headers, line);
  if (!grown) luaL_error(L, "not enough memory");
  transfer->headers = grown;
}

typedef struct Given {
  bool type, agent, encoding;  // headers that the caller has set
} Given;

static void note_given(lua_State *L, Given *given, const char *name) {
  if (strcasecmp(name, "content-length") == 0 ||
      strcasecmp(name, "transfer-encoding") == 0)
    luaL_error(L, "headers: %s follows from the body and cannot be set", name);
  given->type |= strcasecmp(name, "content-type") == 0;
  given->agent |= strcasecmp(name, "user-agent") == 0;
  given->encoding |= strcasecmp(name, "accept-encoding") == 0;
}

// headers: {name, value, name, value, ...}
static void read_headers(lua_State *L, Transfer *transfer) {
  Given given = {0};
  lua_Integer count = 0;
  int type = lua_getfield(L, 1, "headers");
  if (type == LUA_TTABLE)
    count = luaL_len(L, -1);
  else if (type != LUA_TNIL)
    luaL_error(L, "headers: expected a table, got a %s", luaL_typename(L, -1));
  if (count / 2 > HEADERS_MOST)
    luaL_error(L, "headers: more than %d", HEADERS_MOST);
  for (lua_Integer i = 1; i < count; i += 2) {
    lua_geti(L, -1, i);
    lua_geti(L, -2, i + 1);
    size_t size = 0;
    const char *name = lua_tostring(L, -2);
    const char *value = lua_tolstring(L, -1, &size);
    if (!name || !is_token(name)) luaL_error(L, "headers: not a header name");
    if (!value || strlen(value) != size)
      luaL_error(L, "headers: %s: expected text without zero bytes", name);
    check_line(L, name, value);
    note_given(L, &given, name);
    // libcurl takes "Name;" for a header without a value.
    lua_pushfstring(L, size > 0 ? "%s: %s" : "%s;", name, value);
    append_header(L, transfer, lua_tostring(L, -1));
    lua_pop(L, 3);
  }
  append_header(L, transfer, "Expect:");
  if (!given.type && !transfer->parts)
    append_header(L, transfer, "Content-Type:");
  if (!given.agent)
    append_header(L, transfer, "User-Agent: sbxlua/" SBXLUA_VERSION);
  transfer->decode = !given.encoding;
}

// One part: {name=, filename=?, type=?, data= | path=}
static void read_part(lua_State *L, Part *part) {
  int index = lua_gettop(L);
  luaL_argcheck(L, lua_istable(L, index), 1, "parts: expected tables");
  part->source.fd = -1;
  part->name = keep_text(L, index, "name");
  part->filename = keep_text(L, index, "filename");
  part->type = keep_text(L, index, "type");
  check_line(L, "type", part->type);
  if (!part->name) luaL_error(L, "parts: a part has no name");
  size_t size = 0;
  part->source.bytes = keep_bytes(L, index, "data", &size);
  part->source.path = keep_text(L, index, "path");
  part->source.size = (int64_t)size;
  if (!part->source.bytes == !part->source.path)
    luaL_error(L, "part '%s': expected data or path", part->name);
}

static void read_parts(lua_State *L, Transfer *transfer) {
  if (lua_getfield(L, 1, "parts") == LUA_TNIL) return;
  luaL_argcheck(L, lua_istable(L, -1), 1, "parts: expected a table");
  int list = lua_gettop(L);
  lua_Integer count = luaL_len(L, list);
  luaL_argcheck(L, count > 0 && count <= PARTS_MOST, 1,
                "parts: expected 1 to 100 of them");
  Part *parts = calloc((size_t)count, sizeof(*parts));
  if (!parts) {
    luaL_error(L, "not enough memory");
    return;
  }
  transfer->parts = parts;
  transfer->part_count = (size_t)count;
  for (lua_Integer i = 0; i < count; i++)
    parts[i].source.fd = -1;
  luaL_checkstack(L, (int)count * 6 + 20, "parts");
  for (lua_Integer i = 0; i < count; i++) {
    lua_geti(L, list, i + 1);
    read_part(L, &parts[i]);
  }
}

static void read_body(lua_State *L, Transfer *transfer) {
  size_t size = 0;
  transfer->body.bytes = keep_bytes(L, 1, "body", &size);
  transfer->body.path = keep_text(L, 1, "body_path");
  transfer->body.size = (int64_t)size;
  transfer->has_body = transfer->body.bytes || transfer->body.path;
  read_parts(L, transfer);
  int bodies = (transfer->body.bytes != NULL) + (transfer->body.path != NULL) +
               (transfer->parts != NULL);
  luaL_argcheck(L, bodies <= 1, 1, "expected one of body, body_path and parts");
}

static double field_seconds(lua_State *L, const char *name) {
  double seconds = field_number(L, 1, name, 0);
  if (seconds < 0 || seconds > 1e9)
    luaL_error(L, "%s: expected seconds from 0 to 1000000000", name);
  return seconds;
}

static void read_limits(lua_State *L, Transfer *transfer) {
  transfer->timeout = field_seconds(L, "timeout");
  transfer->connect_timeout = field_seconds(L, "connect_timeout");
  transfer->idle_timeout = field_seconds(L, "idle_timeout");
  transfer->queue_timeout = field_seconds(L, "queue_timeout");
  lua_Integer limit = field_integer(L, 1, "limit", 0);
  lua_Integer most = field_integer(L, 1, "max_body", LUA_MAXINTEGER);
  lua_Integer follow = field_integer(L, 1, "follow", 0);
  luaL_argcheck(L, limit >= 0, 1, "limit: expected 0 or more");
  luaL_argcheck(L, most >= 0, 1, "max_body: expected 0 or more");
  luaL_argcheck(L, follow >= 0 && follow <= 100, 1,
                "follow: expected 0 to 100");
  transfer->limit = (size_t)limit;
  transfer->max_body = (size_t)most;
  transfer->follow = (long)follow;
}

static void read_target(lua_State *L, Transfer *transfer) {
  transfer->method = keep_text(L, 1, "method");
  transfer->url = keep_text(L, 1, "url");
  transfer->unix_path = keep_text(L, 1, "unix");
  transfer->save_path = keep_text(L, 1, "save");
  transfer->proxy = keep_text(L, 1, "proxy");
  transfer->ca_file = keep_text(L, 1, "ca_file");
  transfer->group = keep_text(L, 1, "group");
  // Longer ones would share the queue of another.
  luaL_argcheck(L, !transfer->group || strlen(transfer->group) <= 200, 1,
                "group: longer than 200 bytes");
  luaL_argcheck(L, transfer->method && is_token(transfer->method), 1,
                "method: expected letters such as GET");
  luaL_argcheck(L, strcmp(transfer->method, "CONNECT") != 0, 1,
                "method: CONNECT is for proxies");
  luaL_argcheck(L, transfer->url, 1, "url: expected a string");
  for (const char *c = transfer->url; *c; c++)
    if ((unsigned char)*c <= ' ' || *c == 0x7f)
      luaL_error(L, "url: must not hold spaces or control characters");
}

// request{method=, url=, headers={name, value, ...}, body= | body_path= |
// parts={...}, save=, unix=, proxy=, ca_file=, group=, limit=, timeout=,
// connect_timeout=, idle_timeout=, queue_timeout= (seconds, 0: none),
// max_body= (bytes), follow=, at_most_once=, verify=, http2=}: waits for the
// answer, {status=, reason=, headers=, set_cookies=?, body= | saved=, size=,
// url=, label=, timing=, retry_after=?}. Raises an error object when there is
// none, and a plain error on misuse.
static int f_request(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_checkstack(L, 60, "request");
  Reactor *reactor = reactor_of(L);
  Request *request = lua_newuserdatauv(L, sizeof(*request), 0);
  memset(request, 0, sizeof(*request));
  Transfer *transfer = &request->transfer;
  transfer_init(transfer);
  luaL_setmetatable(L, TYPE);

  read_target(L, transfer);
  read_body(L, transfer);
  read_headers(L, transfer);
  read_limits(L, transfer);
  transfer->at_most_once = field_boolean(L, 1, "at_most_once", false);
  transfer->verify = field_boolean(L, 1, "verify", true);
  transfer->http2 = field_boolean(L, 1, "http2", false);
  const char *problem = transfer_prepare(transfer);
  if (problem) return luaL_error(L, "url: %s", problem);

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
    {"stats",      f_stats     },
    {"close_idle", f_close_idle},
    {NULL,         NULL        },
};

int luaopen_sbx_core_http(lua_State *L) {
  luaL_newmetatable(L, TYPE);
  lua_pushcfunction(L, gc_request);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
