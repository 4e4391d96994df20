// The Request of sbx.core.server. The userdata is a holder of its request (see
// server_request.h) and keeps the Listener alive: user value 1 is the table of
// facts about the request, user value 2 the Listener.

#include "server_lua.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

#include "luax.h"
#include "server.h"
#include "wait.h"

#define REQUEST_TYPE "sbx.core.server.Request"

typedef struct RequestWait {
  Wait wait;
  Request *request;
} RequestWait;

// What the userdata holds. The account stays when the handler has let go.
typedef struct Slot {
  Request *request;  // first, so that a Slot * is a Request **
  unsigned status;
  uint64_t received, sent;
} Slot;

static Request **check_slot(lua_State *L) {
  return luaL_checkudata(L, 1, REQUEST_TYPE);
}

// The request at index 1. Raises EBADF when the handler has closed it.
static Request *check_request(lua_State *L, const char *verb) {
  Request *request = *check_slot(L);
  if (request == NULL) raise_error(L, UV_EBADF, "%s: closed request", verb);
  return request;
}

static int raise_gone(lua_State *L, const char *verb) {
  return raise_kind(L, "http", "ECONNRESET",
                    "%s: the client closed the connection", verb);
}

void server_request_push(lua_State *L, Server *server) {
  Slot *account = lua_newuserdatauv(L, sizeof(*account), 2);
  *account = (Slot){0};
  luaL_setmetatable(L, REQUEST_TYPE);
  Request **slot = &account->request;
  *slot = server_next(server);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 2);
  server_push_facts(L, *slot);
  lua_setiuservalue(L, -2, 1);
}

static void close_read(Wait *wait) {
  Request *request = ((RequestWait *)wait)->request;
  request->reader = NULL;
  upload_want_piece(&request->body);  // a cancelled read_all wants no more
  wait_done(wait);
}

// What both readers check before they wait. Raises plain errors.
static Request *check_readable(lua_State *L) {
  Request *request = check_request(L, "read");
  if (request->read_claimed) luaL_error(L, "another task is reading");
  if (request->answered) luaL_error(L, "read: the answer has begun");
  return request;
}

// Waits until the body is ready for the reader, then runs `end`.
static int await_body(lua_State *L, Request *request, lua_KFunction end) {
  RequestWait *op = wait_new(L, sizeof(*op), close_read, "request body");
  op->request = request;
  request->read_claimed = true;
  request->reader = &op->wait;
  if (upload_ready(&request->body)) {
    (void)wait_settle(&op->wait, 0);
  } else if (request->stage == OVER) {
    (void)wait_settle(&op->wait, UV_ECONNRESET);
  } else {
    request_want_body(request);
  }
  return wait_yield(L, &op->wait, end);
}

// The request of a reader whose wait is over. Raises what went wrong.
static Request *end_body_wait(lua_State *L, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  Request *request = *check_slot(L);
  if (request != NULL) request->read_claimed = false;
  if (wait->status == UV_ECONNRESET) raise_gone(L, "read");
  if (wait->status != 0) raise_error(L, wait->status, "read");
  if (request == NULL) raise_error(L, UV_EBADF, "read: closed request");
  return request;
}

static int raise_malformed(lua_State *L) {
  return raise_kind(L, "http", "EPROTO", "read: the form is malformed");
}

static int end_read(lua_State *L, int status, lua_KContext context) {
  Request *request = end_body_wait(L, context);
  Upload *body = &request->body;
  const Piece *piece = body->first;
  if (piece == NULL) {
    if (body->malformed) return raise_malformed(L);
    lua_pushnil(L);
    return 1;
  }
  lua_pushlstring(L, piece->bytes, piece->length);
  int results = 1;
  if (piece->part > 0) {
    lua_pushstring(L, piece->name);
    lua_pushstring(L, piece->filename);
    lua_pushinteger(L, piece->part);
    results = 4;
  }
  upload_shift(body);  // only now: making the strings may raise
  request_want_body(request);
  return results;
}

// read(): the next bytes of the body, as they arrive, or nil at the end. Of a
// form also the part's name, its file name (nil if it has none) and its number
// from 1. Waits; raises `http` ECONNRESET when the client is gone, EPROTO when
// the form is malformed.
static int f_read(lua_State *L) {
  Request *request = check_readable(L);
  return await_body(L, request, end_read);
}

static int raise_too_large(lua_State *L, lua_Integer max) {
  return raise_kind(L, "limit", NULL, "request body: more than %d bytes",
                    (int)max);
}

static int end_read_all(lua_State *L, int status, lua_KContext context) {
  Request *request = end_body_wait(L, context);
  Upload *body = &request->body;
  lua_Integer max = lua_tointeger(L, 2);
  if (body->queued > (size_t)max) return raise_too_large(L, max);
  luaL_Buffer buffer;
  char *room = luaL_buffinitsize(L, &buffer, body->queued);
  size_t size = 0;
  for (const Piece *piece = body->first; piece != NULL; piece = piece->next) {
    memcpy(room + size, piece->bytes, piece->length);
    size += piece->length;
  }
  upload_drop_pieces(body);
  luaL_pushresultsize(&buffer, size);
  return 1;
}

// read_all(max): the rest of the body. Waits; raises `limit` when that is more
// than `max` bytes, and what read raises. Not for a form.
static int f_read_all(lua_State *L) {
  Request *request = check_readable(L);
  lua_Integer max = luaL_checkinteger(L, 2);
  luaL_argcheck(L, max >= 0 && max <= INT32_MAX, 2, "out of range");
  if (request->body.form != NULL) {
    return luaL_error(L, "read_all: the body is read as a form");
  }
  bool announced = request->length != UINT64_MAX && !request->body.taken;
  if (announced && request->length > (uint64_t)max) {
    return raise_too_large(L, max);
  }
  upload_want_whole(&request->body, (size_t)max);
  return await_body(L, request, end_read_all);
}

// form(): reads the body as multipart/form-data from now on. Raises `http`
// EINVAL when the content type says something else.
static int f_form(lua_State *L) {
  Request *request = check_readable(L);
  int status = request_start_form(request);
  if (status == 0) return 0;
  if (status == UV_EALREADY) {
    return luaL_error(L, "form: the body is being read already");
  }
  if (status == UV_ECONNRESET) return raise_gone(L, "form");
  if (status == UV_EINVAL) {
    return raise_kind(L, "http", "EINVAL",
                      "form: the content type is not multipart/form-data with "
                      "a boundary");
  }
  return raise_error(L, status, "form");
}

static bool is_token(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c >= 128 || c == 0) return false;
    if (!isalnum(c) && strchr("!#$%&'*+-.^_`|~", c) == NULL) return false;
  }
  return length > 0;
}

static bool is_clean(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if ((c < 32 && c != '\t') || c == 127) return false;
  }
  return true;
}

// The table of headers at `index`, or nothing. Raises plain errors.
static void check_headers(lua_State *L, int index) {
  if (lua_isnoneornil(L, index)) return;
  luaL_checktype(L, index, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
    luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING, index,
                  "a header's name must be a string");
    size_t length;
    const char *name = lua_tolstring(L, -2, &length);
    if (!is_token(name, length)) luaL_error(L, "bad header name");
    bool ours = strcasecmp(name, "Content-Length") == 0 ||
                strcasecmp(name, "Transfer-Encoding") == 0;
    if (ours) luaL_error(L, "header '%s' is set by the listener", name);
    if (!lua_isstring(L, -1)) luaL_error(L, "header '%s': not a string", name);
    const char *value = lua_tolstring(L, -1, &length);
    if (!is_clean(value, length)) {
      luaL_error(L, "header '%s' has a control character", name);
    }
  }
}

// Adds the headers at `index`, which were checked, to the begun answer.
static void add_headers(lua_State *L, Request *request, int index) {
  if (lua_isnoneornil(L, index)) return;
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
    const char *value = lua_tostring(L, -1);
    if (*value == '\0') continue;  // the library sends no empty header
    const char *name = lua_tostring(L, -2);
    int status = request_add_header(request, name, value);
    if (status != 0) luaL_error(L, "header '%s' is refused", name);
  }
}

// What both answers check. Returns the status at index 2.
static unsigned check_answer(lua_State *L, Request *request) {
  lua_Integer status = luaL_checkinteger(L, 2);
  luaL_argcheck(L, status >= 200 && status <= 599, 2, "expected 200 to 599");
  check_headers(L, 3);
  if (request->answered) luaL_error(L, "the request is answered already");
  return (unsigned)status;
}

// respond(status, headers?, body?): the whole answer. What was not read of the
// request's body is thrown away. Does not wait, and is no error when the client
// is gone.
static int f_respond(lua_State *L) {
  Request *request = check_request(L, "respond");
  unsigned status = check_answer(L, request);
  size_t size;
  const char *body = luaL_optlstring(L, 4, "", &size);
  int failed = request_begin(request, status, body, size);
  if (failed != 0) return raise_error(L, failed, "respond");
  add_headers(L, request, 3);
  request_send(request);
  return 0;
}

// start(status, headers?, length?): begins a streamed answer of `length` bytes,
// or of as many as are written until `finish`.
static int f_start(lua_State *L) {
  Request *request = check_request(L, "start");
  unsigned status = check_answer(L, request);
  uint64_t length = UINT64_MAX;
  if (!lua_isnoneornil(L, 4)) {
    lua_Integer given = luaL_checkinteger(L, 4);
    luaL_argcheck(L, given >= 0, 4, "must not be negative");
    length = (uint64_t)given;
  }
  int failed = request_begin_stream(request, status, length);
  if (failed != 0) return raise_error(L, failed, "start");
  add_headers(L, request, 3);
  request_send(request);
  return 0;
}

// cut(bytes?): in place of an answer, sends these bytes as they are and breaks
// the connection off. Does not wait.
static int f_cut(lua_State *L) {
  Request *request = check_request(L, "cut");
  size_t size;
  const char *bytes = luaL_optlstring(L, 2, "", &size);
  if (request->answered)
    return luaL_error(L, "the request is answered already");
  request_cut(request, bytes, size);
  return 0;
}

static void close_write(Wait *wait) {
  Request *request = ((RequestWait *)wait)->request;
  request->writer = NULL;
  request_unfeed(request);
  wait_done(wait);
}

static int end_write(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  Request *request = *check_slot(L);
  if (request != NULL) request->write_claimed = false;
  if (wait->status == 0) return 0;
  if (wait->status == UV_ECONNRESET) return raise_gone(L, "write");
  return raise_error(L, wait->status, "write");
}

static Request *check_writable(lua_State *L, const char *verb) {
  Request *request = check_request(L, verb);
  if (!request->streamed || !request->answered || request->finished) {
    luaL_error(L, "%s: no answer was started, or it is finished", verb);
  }
  if (request->write_claimed) luaL_error(L, "another task is writing");
  return request;
}

// write(bytes): returns once the connection has taken all. Waits while the
// client reads slowly; raises `http` ECONNRESET once it is gone. Cancelled in
// the middle it leaves the answer broken: the client sees it cut off.
static int f_write(lua_State *L) {
  Request *request = check_writable(L, "write");
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  if (request->promised != UINT64_MAX) {
    uint64_t left = request->promised - request->written;
    luaL_argcheck(L, size <= left, 2, "more than the length that was promised");
  }
  RequestWait *op = wait_new(L, sizeof(*op), close_write, "write to client");
  op->request = request;
  request->write_claimed = true;
  request->writer = &op->wait;
  // An answer without a body may be over, and well, before it is written.
  bool over = request->stage == OVER;
  if (request->broken) {
    (void)wait_settle(&op->wait, UV_ECONNRESET);
  } else if (size == 0 || over) {
    (void)wait_settle(&op->wait, 0);
  } else {
    request_feed(request, bytes, size);  // the string stays at index 2
  }
  return wait_yield(L, &op->wait, end_write);
}

// finish(): ends the streamed answer. Raises a plain error when it is shorter
// than was promised; the client then sees it cut off.
static int f_finish(lua_State *L) {
  Request *request = check_writable(L, "finish");
  request_finish(request);
  bool cut = request->broken && request->stage != OVER;
  if (cut) return luaL_error(L, "finish: the answer is incomplete");
  return 0;
}

static void keep_account(Slot *slot) {
  const Request *request = slot->request;
  if (request == NULL) return;
  slot->status = request->answered ? request->status : 0;
  slot->received = request->received;
  slot->sent = request->sent;
}

// Serves close, __close and __gc: without an answer the client gets a 500.
static int gc_request(lua_State *L) {
  Request **slot = check_slot(L);
  Request *request = *slot;
  keep_account((Slot *)slot);
  *slot = NULL;
  if (request == NULL) return 0;
  if (request->reader != NULL) (void)wait_settle(request->reader, UV_EBADF);
  if (request->writer != NULL) (void)wait_settle(request->writer, UV_EBADF);
  request_release(request);
  return 0;
}

// account() -> the status that was answered, or nil; the bytes of the body that
// came in, and those given for the answer's body. Also when it is closed.
static int f_account(lua_State *L) {
  Slot *slot = (Slot *)check_slot(L);
  keep_account(slot);
  if (slot->status == 0)
    lua_pushnil(L);
  else
    lua_pushinteger(L, slot->status);
  lua_pushinteger(L, (lua_Integer)slot->received);
  lua_pushinteger(L, (lua_Integer)slot->sent);
  return 3;
}

// Upvalue 1 is the table of methods.
static int f_index(lua_State *L) {
  const Request *request = *check_slot(L);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  if (lua_type(L, 2) == LUA_TSTRING &&
      strcmp(lua_tostring(L, 2), "gone") == 0) {
    lua_pushboolean(L, request == NULL || request->gone);
    return 1;
  }
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, 2);
  lua_rawget(L, -2);
  return 1;
}

static const luaL_Reg methods[] = {
    {"read",     f_read    },
    {"read_all", f_read_all},
    {"form",     f_form    },
    {"respond",  f_respond },
    {"start",    f_start   },
    {"write",    f_write   },
    {"finish",   f_finish  },
    {"cut",      f_cut     },
    {"close",    gc_request},
    {"account",  f_account },
    {NULL,       NULL      },
};

static const luaL_Reg events[] = {
    {"__gc",    gc_request},
    {"__close", gc_request},
    {NULL,      NULL      },
};

void server_request_open(lua_State *L) {
  luaL_newmetatable(L, REQUEST_TYPE);
  luaL_setfuncs(L, events, 0);
  luaL_newlib(L, methods);
  lua_pushcclosure(L, f_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
