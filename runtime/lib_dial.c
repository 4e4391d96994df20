// sbx.core.dial: raw connections through libcurl, for protocols that begin with
// an HTTP request and go on with something else. Comfort is in the libraries
// that speak them.

#include <lauxlib.h>
#include <limits.h>
#include <string.h>

#include "http_answer.h"
#include "lib_dial.h"
#include "luax.h"
#include "reactor.h"

Dial **check_dial(lua_State *L, int index) {
  return luaL_checkudata(L, index, DIAL_TYPE);
}

static int raise_dial(lua_State *L, int status, const char *verb,
                      const Dial *dial) {
  if (dial == NULL) return raise_error(L, status, "%s: closed dial", verb);
  return raise_error(L, status, "%s %s", verb, dial->transfer.label);
}

// The open dial at index 1. Raises EBADF when it is closed.
static Dial *check_open(lua_State *L, const char *verb) {
  Dial *dial = *check_dial(L, 1);
  if (dial == NULL) raise_dial(L, UV_EBADF, verb, NULL);
  return dial;
}

// Opening

// Leaves the field's value on the stack, which keeps its bytes alive until the
// attempt has ended, whatever becomes of the table.
static const char *keep_text(lua_State *L, const char *name) {
  int type = lua_getfield(L, 1, name);
  if (type == LUA_TNIL) return NULL;
  if (type != LUA_TSTRING)
    luaL_error(L, "%s: expected a string, got a %s", name,
               luaL_typename(L, -1));
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  if (strlen(text) != size)
    luaL_error(L, "%s: must not hold a zero byte", name);
  return text;
}

static double field_seconds(lua_State *L, const char *name) {
  double seconds = field_number(L, 1, name, 0);
  if (seconds < 0 || seconds > 1e9)
    luaL_error(L, "%s: expected seconds from 0 to 1000000000", name);
  return seconds;
}

static void read_options(lua_State *L, Transfer *transfer) {
  transfer->url = keep_text(L, "url");
  transfer->unix_path = keep_text(L, "unix");
  transfer->proxy = keep_text(L, "proxy");
  transfer->ca_file = keep_text(L, "ca_file");
  transfer->verify = field_boolean(L, 1, "verify", true);
  transfer->timeout = field_seconds(L, "timeout");
  transfer->connect_timeout = field_seconds(L, "connect_timeout");
  luaL_argcheck(L, transfer->url, 1, "url: expected a string");
  for (const char *c = transfer->url; *c; c++)
    if ((unsigned char)*c <= ' ' || *c == 0x7f)
      luaL_error(L, "url: must not hold spaces or control characters");
}

// What libcurl has copied, and the stack will not keep.
static void forget_options(Transfer *transfer) {
  transfer->url = transfer->unix_path = NULL;
  transfer->proxy = transfer->ca_file = NULL;
}

// Stack: options, the dial's userdata, texts, the wait.
static int end_open(lua_State *L, int status, lua_KContext context) {
  const DialWait *op = (const DialWait *)context;
  Dial **slot = check_dial(L, 2);
  Transfer *transfer = &op->dial->transfer;
  if (op->wait.status == 0 && transfer->failure.kind == NULL) {
    forget_options(transfer);
    lua_pushvalue(L, 2);
    return 1;
  }
  int failed = op->wait.status;
  if (failed == 0) push_failure(L, transfer);
  *slot = NULL;
  dial_free(op->dial);
  return failed == 0 ? lua_error(L) : raise_error(L, failed, "connect");
}

// open{url=, unix=, proxy=, ca_file=, verify=, timeout=, connect_timeout=
// (seconds, 0: none)} → Dial: connects to where an HTTP request of that URL
// would go, through a proxy by a tunnel. Waits; raises what a request raises.
static int f_open(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  Dial **slot = lua_newuserdatauv(L, sizeof(Dial *), 0);
  *slot = NULL;
  luaL_setmetatable(L, DIAL_TYPE);
  Dial *dial = *slot = dial_new();
  if (dial == NULL) return raise_error(L, UV_ENOMEM, "connect");
  read_options(L, &dial->transfer);
  const char *problem = transfer_prepare(&dial->transfer);
  if (problem) return luaL_error(L, "url: %s", problem);

  DialWait *op = wait_new(L, sizeof(*op), dial_close_open, "connect");
  op->dial = dial;
  dial_start_open(op, reactor_of(L));
  return wait_yield(L, &op->wait, end_open);
}

// Reading and writing

static int end_read(lua_State *L, int status, lua_KContext context) {
  const DialWait *op = (const DialWait *)context;
  Dial *dial = *check_dial(L, 1);  // NULL when it was closed meanwhile
  if (dial != NULL) dial->read_claimed = false;
  if (op->wait.status != 0) return raise_dial(L, op->wait.status, "read", dial);
  if (dial == NULL) return raise_dial(L, UV_EBADF, "read", NULL);
  if (dial->count == 0) {
    lua_pushnil(L);
    return 1;
  }
  luaL_Buffer buffer;
  size_t size = dial->count < op->max ? dial->count : op->max;
  char *room = luaL_buffinitsize(L, &buffer, size);  // may raise: before take
  const char *bytes;
  size = dial_take(dial, size, &bytes);
  memcpy(room, bytes, size);
  dial_release(dial);
  luaL_pushresultsize(&buffer, size);
  return 1;
}

// read(max?): what has arrived, 1 to max bytes (at most and by default 64 KiB),
// or nil at the end. Waits; raises io errors, EBADF once closed.
static int f_read(lua_State *L) {
  Dial *dial = check_open(L, "read");
  lua_Integer max = luaL_optinteger(L, 2, DIAL_BUFFER);
  luaL_argcheck(L, max >= 1, 2, "must be at least 1");
  if (dial->read_claimed) return luaL_error(L, "another task is reading");

  DialWait *op = wait_new(L, sizeof(*op), dial_close_read, "read");
  op->dial = dial;
  op->max = (size_t)max;
  dial->read_claimed = true;
  dial_start_read(op);
  return wait_yield(L, &op->wait, end_read);
}

static int end_write(lua_State *L, int status, lua_KContext context) {
  const DialWait *op = (const DialWait *)context;
  Dial *dial = *check_dial(L, 1);
  if (dial != NULL) dial->write_claimed = false;
  if (op->wait.status == 0) return 0;
  return raise_dial(L, op->wait.status, "write", dial);
}

// write(bytes): returns once the kernel has taken all. Waits. Cancelled in the
// middle it leaves a part with the peer: further writes raise EPIPE.
static int f_write(lua_State *L) {
  Dial *dial = check_open(L, "write");
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  if (dial->write_claimed) return luaL_error(L, "another task is writing");

  DialWait *op = wait_new(L, sizeof(*op), dial_close_write, "write");
  op->dial = dial;
  dial->write_claimed = true;
  dial_start_write(op, bytes, size);  // the string stays at index 2
  return wait_yield(L, &op->wait, end_write);
}

// shutdown(): ends our side; the peer reads the end. Raises ENOTSUP over TLS.
static int f_shutdown(lua_State *L) {
  Dial *dial = check_open(L, "shutdown");
  if (dial->write_claimed) return luaL_error(L, "another task is writing");
  // A clean end would make the peer take a part for the whole.
  int status = dial->broken ? UV_EPIPE : transfer_shutdown(&dial->transfer);
  if (status != 0) return raise_dial(L, status, "shutdown", dial);
  return 0;
}

static int gc_dial(lua_State *L) {
  Dial **slot = lua_touserdata(L, 1);
  Dial *dial = *slot;
  *slot = NULL;
  dial_free(dial);
  return 0;
}

// close(): ends both directions; who waits gets EBADF. Closing twice is fine.
static int f_close(lua_State *L) {
  (void)check_dial(L, 1);
  return gc_dial(L);
}

static int f_tostring(lua_State *L) {
  const Dial *dial = *check_dial(L, 1);
  lua_pushfstring(L, "dial (%s)", dial ? dial->transfer.label : "closed");
  return 1;
}

static const luaL_Reg methods[] = {
    {"read",     f_read    },
    {"write",    f_write   },
    {"shutdown", f_shutdown},
    {"close",    f_close   },
    {NULL,       NULL      },
};

static const luaL_Reg metamethods[] = {
    {"__gc",       gc_dial   },
    {"__close",    gc_dial   },
    {"__tostring", f_tostring},
    {NULL,         NULL      },
};

static const luaL_Reg functions[] = {
    {"open", f_open},
    {NULL,   NULL  },
};

int luaopen_sbx_core_dial(lua_State *L) {
  luaL_newmetatable(L, DIAL_TYPE);
  luaL_setfuncs(L, metamethods, 0);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
