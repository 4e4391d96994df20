// sbx.core.websocket: a WebSocket on a dial whose server has agreed to one. The
// handshake before it, and comfort, are in lua/sbx/http/websocket.lua.

#include <lauxlib.h>
#include <openssl/evp.h>
#include <string.h>

#include "json_text.h"
#include "lib_dial.h"
#include "luax.h"
#include "reactor.h"
#include "websocket.h"

#define WEBSOCKET_TYPE "sbx.core.websocket"

// The userdata; `socket` is NULL once it is collected or could not be made.
typedef struct Handle {
  Websocket *socket;
  bool receive_claimed, send_claimed, ping_claimed;  // until the end of each
} Handle;

static Handle *check_handle(lua_State *L) {
  Handle *handle = luaL_checkudata(L, 1, WEBSOCKET_TYPE);
  luaL_argcheck(L, handle->socket, 1, "collected");
  return handle;
}

static void set_text(lua_State *L, const char *name, const char *value) {
  if (!value) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

static int raise_socket(lua_State *L, const Websocket *socket, const char *kind,
                        const char *code, const char *phase,
                        const char *reason) {
  lua_createtable(L, 0, 6);
  set_text(L, "kind", kind);
  set_text(L, "code", code);
  set_text(L, "phase", phase);
  set_text(L, "op", "websocket");
  set_text(L, "url", socket->label);
  lua_pushfstring(L, "websocket %s: %s", socket->label, reason);
  lua_setfield(L, -2, "message");
  luaL_setmetatable(L, ERROR_TYPE);
  return lua_error(L);
}

static int raise_failure(lua_State *L, const Websocket *socket) {
  const Failure *failure = &socket->failure;
  return raise_socket(L, socket, failure->kind, failure->code, failure->phase,
                      failure->reason);
}

// Nothing can be sent, and this is why.
static int raise_unsendable(lua_State *L, const Websocket *socket) {
  if (socket->failure.kind) return raise_failure(L, socket);
  return raise_socket(L, socket, "io", "EPIPE", "send",
                      socket->broken ? "a message was cut short by a "
                                       "cancellation, none can follow it"
                                     : "it is closed");
}

// Making one

static uint64_t field_size(lua_State *L, const char *name) {
  lua_Integer size = field_integer(L, 2, name, 0);
  if (size < 0) luaL_error(L, "%s: expected 0 or more", name);
  return (uint64_t)size;
}

static double field_seconds(lua_State *L, const char *name) {
  double seconds = field_number(L, 2, name, 0);
  if (seconds < 0 || seconds > 1e9)
    luaL_error(L, "%s: expected seconds from 0 to 1000000000", name);
  return seconds;
}

// attach(dial, {label=, max_message= (bytes), ping_interval=, close_timeout=
// (seconds), bytes=}) → Websocket. `bytes` followed the server's answer. Takes
// the dial over: it is closed for its other users.
static int f_attach(lua_State *L) {
  Dial **slot = check_dial(L, 1);
  Dial *dial = *slot;
  luaL_argcheck(L, dial, 1, "closed");
  luaL_argcheck(L, !dial->read_claimed && !dial->write_claimed, 1, "in use");
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  uint64_t max_message = field_size(L, "max_message");
  double ping_interval = field_seconds(L, "ping_interval");
  double close_timeout = field_seconds(L, "close_timeout");
  const char *label = field_string(L, 2, "label", "");
  size_t size = 0;
  const char *bytes = "";
  if (lua_getfield(L, 2, "bytes") != LUA_TNIL)
    bytes = luaL_checklstring(L, -1, &size);

  Handle *handle = lua_newuserdatauv(L, sizeof(*handle), 0);
  memset(handle, 0, sizeof(*handle));
  luaL_setmetatable(L, WEBSOCKET_TYPE);
  Websocket *socket = websocket_new(reactor_of(L), dial, label, max_message);
  if (!socket) return raise_error(L, UV_ENOMEM, "websocket");
  handle->socket = socket;
  *slot = NULL;
  socket->ping_interval = ping_interval;
  socket->close_timeout = close_timeout;
  websocket_start(socket, bytes, size);
  return 1;
}

// accept_for(key) → what a server must answer to this Sec-WebSocket-Key
static int f_accept_for(lua_State *L) {
  static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  (void)luaL_checkstring(L, 1);
  lua_settop(L, 1);
  lua_pushstring(L, guid);
  lua_concat(L, 2);
  size_t size;
  const char *text = lua_tolstring(L, 1, &size);
  unsigned char digest[EVP_MAX_MD_SIZE], encoded[2 * EVP_MAX_MD_SIZE];
  unsigned int length;
  if (!EVP_Digest(text, size, digest, &length, EVP_sha1(), NULL))
    return raise_kind(L, "io", NULL, "websocket: libcrypto has no SHA-1");
  int count = EVP_EncodeBlock(encoded, digest, (int)length);
  lua_pushlstring(L, (const char *)encoded, (size_t)count);
  return 1;
}

// Receiving

static int end_receive(lua_State *L, int status, lua_KContext context) {
  const WebsocketWait *op = (const WebsocketWait *)context;
  Websocket *socket = op->socket;
  check_handle(L)->receive_claimed = false;
  if (op->wait.status != 0) return raise_error(L, op->wait.status, "websocket");
  const Message *message = socket->first;
  if (message) {
    const char *data = message->data ? (const char *)message->data : "";
    lua_pushlstring(L, data, message->size);  // may raise: before the take
    lua_pushstring(L, message->opcode == FRAME_TEXT ? "text" : "binary");
    message_free(websocket_take(socket));
    return 2;
  }
  if (socket->failure.kind) return raise_failure(L, socket);
  lua_pushnil(L);
  return 1;
}

// receive() → data, "text" or "binary"; nil once closed. Waits.
static int f_receive(lua_State *L) {
  Handle *handle = check_handle(L);
  if (handle->receive_claimed)
    return luaL_error(L, "another task is receiving");
  WebsocketWait *op =
      wait_new(L, sizeof(*op), websocket_close_receive, "receive");
  op->socket = handle->socket;
  handle->receive_claimed = true;
  websocket_start_receive(op);
  return wait_yield(L, &op->wait, end_receive);
}

// Sending

static int end_send(lua_State *L, int status, lua_KContext context) {
  const WebsocketWait *op = (const WebsocketWait *)context;
  check_handle(L)->send_claimed = false;
  if (op->wait.status != 0) return raise_error(L, op->wait.status, "websocket");
  if (op->socket->message.sent) {
    lua_pushboolean(L, true);
    return 1;
  }
  return raise_unsendable(L, op->socket);
}

// send(bytes, binary) → true once the kernel has taken all; false at once for a
// text that is not UTF-8. Waits.
static int f_send(lua_State *L) {
  Handle *handle = check_handle(L);
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  int opcode = lua_toboolean(L, 3) ? FRAME_BINARY : FRAME_TEXT;
  if (opcode == FRAME_TEXT && json_bad_utf8(bytes, size)) {
    lua_pushboolean(L, false);
    return 1;
  }
  if (handle->send_claimed) return luaL_error(L, "another task is sending");
  WebsocketWait *op = wait_new(L, sizeof(*op), websocket_close_send, "send");
  op->socket = handle->socket;
  handle->send_claimed = true;
  websocket_start_send(op, opcode, bytes, size);  // the string stays at index 2
  return wait_yield(L, &op->wait, end_send);
}

static int end_ping(lua_State *L, int status, lua_KContext context) {
  const WebsocketWait *op = (const WebsocketWait *)context;
  check_handle(L)->ping_claimed = false;
  if (op->wait.status != 0) return raise_error(L, op->wait.status, "websocket");
  if (op->socket->probe_took < 0) return raise_unsendable(L, op->socket);
  lua_pushnumber(L, op->socket->probe_took);
  return 1;
}

// ping() → seconds until its pong came. Waits.
static int f_ping(lua_State *L) {
  Handle *handle = check_handle(L);
  if (handle->ping_claimed) return luaL_error(L, "another task is pinging");
  WebsocketWait *op = wait_new(L, sizeof(*op), websocket_close_ping, "ping");
  op->socket = handle->socket;
  handle->ping_claimed = true;
  websocket_start_ping(op);
  return wait_yield(L, &op->wait, end_ping);
}

// Closing

static int end_close(lua_State *L, int status, lua_KContext context) {
  const WebsocketWait *op = (const WebsocketWait *)context;
  if (op->wait.status != 0) return raise_error(L, op->wait.status, "websocket");
  lua_pushboolean(L, op->socket->close_received);
  return 1;
}

// close(code, reason) → whether the server confirmed it. Waits for that, for
// close_timeout at most.
static int f_close(lua_State *L) {
  Handle *handle = check_handle(L);
  lua_Integer code = luaL_checkinteger(L, 2);
  size_t size;
  const char *reason = luaL_checklstring(L, 3, &size);
  luaL_argcheck(L,
                code >= 0 && code <= 4999 && frame_valid_close((unsigned)code),
                2, "not a code that may be sent");
  luaL_argcheck(L, size <= CONTROL_MOST - 2, 3, "longer than 123 bytes");
  luaL_argcheck(L, !json_bad_utf8(reason, size), 3, "not UTF-8");
  if (handle->socket->closer)
    return luaL_error(L, "another task is closing it");
  WebsocketWait *op = wait_new(L, sizeof(*op), websocket_close_close, "close");
  op->socket = handle->socket;
  websocket_start_close(op, (unsigned)code, reason, size);
  return wait_yield(L, &op->wait, end_close);
}

// drop(): ends the connection at once; who waits is told. Does not wait.
static int f_drop(lua_State *L) {
  websocket_drop(check_handle(L)->socket);
  return 0;
}

// status() → ended, the peer's close code (or nil), its reason
static int f_status(lua_State *L) {
  const Websocket *socket = check_handle(L)->socket;
  lua_pushboolean(L, socket->state == WEBSOCKET_ENDED);
  if (socket->close_code == 0) return 1;
  lua_pushinteger(L, socket->close_code);
  lua_pushlstring(L, socket->close_reason, socket->close_reason_size);
  return 3;
}

static int gc_handle(lua_State *L) {
  Handle *handle = lua_touserdata(L, 1);
  websocket_free(handle->socket);
  handle->socket = NULL;
  return 0;
}

static const luaL_Reg methods[] = {
    {"receive", f_receive},
    {"send",    f_send   },
    {"ping",    f_ping   },
    {"close",   f_close  },
    {"drop",    f_drop   },
    {"status",  f_status },
    {NULL,      NULL     },
};

static const luaL_Reg functions[] = {
    {"attach",     f_attach    },
    {"accept_for", f_accept_for},
    {NULL,         NULL        },
};

int luaopen_sbx_core_websocket(lua_State *L) {
  luaL_newmetatable(L, WEBSOCKET_TYPE);
  lua_pushcfunction(L, gc_handle);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
