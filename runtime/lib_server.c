// sbx.core.server: the HTTP listener. Its requests are in server_lua.c.

#include <lauxlib.h>
#include <string.h>

#include "luax.h"
#include "reactor.h"
#include "server.h"
#include "server_lua.h"
#include "wait.h"

#define LISTENER_TYPE "sbx.core.server.Listener"

static const lua_Integer DEFAULT_HEADER = 32768;
static const lua_Integer DEFAULT_CONNECTIONS = 4096;
static const double DEFAULT_HEAD_SECONDS = 30;

static Server **check_listener(lua_State *L) {
  return luaL_checkudata(L, 1, LISTENER_TYPE);
}

typedef struct AcceptWait {
  Wait wait;
  Server *server;
} AcceptWait;

static void close_accept(Wait *wait) {
  AcceptWait *op = (AcceptWait *)wait;
  op->server->acceptor = NULL;
  wait_done(wait);
}

static int end_accept(lua_State *L, int status, lua_KContext context);

// Waits for a request, then runs end_accept.
static int await_request(lua_State *L, Server *server) {
  lua_settop(L, 1);
  AcceptWait *op = wait_new(L, sizeof(*op), close_accept, "accept");
  op->server = server;
  server->accept_claimed = true;
  server->acceptor = &op->wait;
  if (server->first != NULL) (void)wait_settle(&op->wait, 0);
  return wait_yield(L, &op->wait, end_accept);
}

static int end_accept(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  Server *server = *check_listener(L);
  if (server != NULL) server->accept_claimed = false;
  if (wait->status != 0) return raise_error(L, wait->status, "accept");
  if (server == NULL) return raise_error(L, UV_EBADF, "accept");
  // The client may have gone between the wake-up and now.
  if (server->first == NULL) return await_request(L, server);
  server_request_push(L, server);
  return 1;
}

// accept(): the next request, in the order of their arrival. Waits; raises
// EBADF once the listener is closed.
static int f_accept(lua_State *L) {
  Server *server = *check_listener(L);
  if (server == NULL) return raise_error(L, UV_EBADF, "accept");
  if (server->accept_claimed) return luaL_error(L, "another task is accepting");
  return await_request(L, server);
}

// Serves close, __close and __gc.
static int gc_listener(lua_State *L) {
  Server **slot = check_listener(L);
  Server *server = *slot;
  *slot = NULL;
  if (server != NULL) server_close(server);
  return 0;
}

// Upvalue 1 is the table of methods.
static int f_listener_index(lua_State *L) {
  const Server *server = *check_listener(L);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(key, "port") != 0 || server == NULL) return 1;
  lua_pushinteger(L, server->port);
  return 1;
}

static void check_field_names(lua_State *L) {
  static const char *const known[] = {"host",
                                      "port",
                                      "max_header",
                                      "max_connections",
                                      "max_per_peer",
                                      "head_timeout",
                                      "tls_cert",
                                      "tls_key",
                                      NULL};
  for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1)) {
    const char *name =
        lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    size_t i = 0;
    while (known[i] != NULL && strcmp(known[i], name) != 0)
      i++;
    if (known[i] == NULL) luaL_error(L, "unknown option '%s'", name);
  }
}

static lua_Integer check_range(lua_State *L, const char *name,
                               lua_Integer fallback, lua_Integer least,
                               lua_Integer most) {
  lua_Integer value = field_integer(L, 1, name, fallback);
  if (value < least || value > most) {
    luaL_error(L, "%s: expected %I to %I, got %I", name, least, most, value);
  }
  return value;
}

static uint64_t head_ms(lua_State *L) {
  double seconds = field_number(L, 1, "head_timeout", DEFAULT_HEAD_SECONDS);
  if (!(seconds >= 0.001 && seconds <= 3600)) {
    luaL_error(L, "head_timeout: expected 0.001 to 3600 seconds");
  }
  return (uint64_t)(seconds * 1000);
}

static int raise_not_listening(lua_State *L, int status,
                               const ServerOptions *options) {
  if (status == UV_EPROTO) {
    return raise_kind(L, "tls", "EPROTO",
                      "listen on %s port %d: the TLS certificate and key "
                      "cannot be used: expected PEM, the key without a "
                      "passphrase and belonging to the first certificate",
                      options->host, options->port);
  }
  return raise_error(L, status, "listen on %s port %d", options->host,
                     options->port);
}

// listen{host=, port=, max_header=, max_connections=, …}: a Listener on the
// numeric address `host` ("localhost" is 127.0.0.1) and `port` (0 finds a free
// one; the Listener's `port` tells). `max_header` bytes bound what a request
// may spend on its first line and headers, `head_timeout` the seconds.
// `tls_cert` and `tls_key` are PEM texts. Raises EADDRINUSE and the like.
static int f_listen(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  check_field_names(L);
  ServerOptions options = {
      .host = field_string(L, 1, "host", "127.0.0.1"),
      .port = (int)check_range(L, "port", 0, 0, 65535),
      .max_header =
          (size_t)check_range(L, "max_header", DEFAULT_HEADER, 1024, 1 << 20),
      .max_connections = (unsigned)check_range(L, "max_connections",
                                               DEFAULT_CONNECTIONS, 1, 1 << 20),
      .max_per_peer = (unsigned)check_range(L, "max_per_peer", 0, 0, 1 << 20),
      .head_ms = head_ms(L),
      .tls_cert = field_string(L, 1, "tls_cert", NULL),
      .tls_key = field_string(L, 1, "tls_key", NULL),
  };
  if ((options.tls_cert == NULL) != (options.tls_key == NULL)) {
    return luaL_error(L, "tls_cert and tls_key go together");
  }
  Server **slot = lua_newuserdatauv(L, sizeof(Server *), 0);
  *slot = NULL;
  luaL_setmetatable(L, LISTENER_TYPE);
  int status = server_open(slot, &reactor_of(L)->loop, &options);
  if (status == 0) return 1;
  return raise_not_listening(L, status, &options);
}

static const luaL_Reg listener_methods[] = {
    {"accept", f_accept   },
    {"close",  gc_listener},
    {NULL,     NULL       },
};

static const luaL_Reg listener_events[] = {
    {"__gc",    gc_listener},
    {"__close", gc_listener},
    {NULL,      NULL       },
};

static const luaL_Reg functions[] = {
    {"listen", f_listen},
    {NULL,     NULL    },
};

int luaopen_sbx_core_server(lua_State *L) {
  luaL_newmetatable(L, LISTENER_TYPE);
  luaL_setfuncs(L, listener_events, 0);
  luaL_newlib(L, listener_methods);
  lua_pushcclosure(L, f_listener_index, 1);
  lua_setfield(L, -2, "__index");
  server_request_open(L);
  luaL_newlib(L, functions);
  return 1;
}
