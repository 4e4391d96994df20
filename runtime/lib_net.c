// sbx.core.net: TCP and Unix sockets. Addresses are literals here; `resolve`
// turns a name into them, and sbx.net joins the two.

#include <lauxlib.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "luax.h"
#include "reactor.h"
#include "stream.h"
#include "wait.h"

#define LISTENER_TYPE "sbx.listener"
#define BACKLOG 1024

typedef struct AcceptWait AcceptWait;

// Freed by the loop, in the close callback of its handle.
typedef struct Listener {
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  } uv;

  StreamKind kind;
  AcceptWait *first, *last;  // who waits in accept, in order
  bool pending;              // libuv holds a connection that nobody took
  int port;                  // 0 for a Unix socket
  char name[64];             // for messages: "tcp 127.0.0.1:80"
} Listener;

struct AcceptWait {
  Wait wait;
  Listener *listener;
  Stream **slot;  // on the waiting coroutine's stack
  AcceptWait *previous, *next;
};

// Addresses

typedef struct Address {
  StreamKind kind;

  union {
    struct sockaddr any;
    struct sockaddr_in ip4;
    struct sockaddr_in6 ip6;
  } ip;

  const char *path;  // of a Unix socket: argument 1
  char name[64];
} Address;

// A literal IP address and a port at arguments 1 and 2.
static void check_ip(lua_State *L, Address *address) {
  const char *host = luaL_checkstring(L, 1);
  lua_Integer port = luaL_checkinteger(L, 2);
  luaL_argcheck(L, port >= 0 && port <= 65535, 2, "not a port");
  memset(address, 0, sizeof(*address));
  address->kind = STREAM_TCP;
  const char *format = "tcp %s:%d";
  if (uv_ip4_addr(host, (int)port, &address->ip.ip4) != 0) {
    int status = uv_ip6_addr(host, (int)port, &address->ip.ip6);
    luaL_argcheck(L, status == 0, 1, "not an IP address");
    format = "tcp [%s]:%d";
  }
  (void)snprintf(address->name, sizeof(address->name), format, host, (int)port);
}

// The path of a Unix socket at argument 1. libuv would cut a long one.
static void check_path(lua_State *L, Address *address) {
  size_t size;
  const char *path = luaL_checklstring(L, 1, &size);
  const size_t limit = sizeof(((struct sockaddr_un *)NULL)->sun_path);
  luaL_argcheck(L, size > 0 && size < limit, 1, "must be 1 to 107 bytes");
  luaL_argcheck(L, strlen(path) == size, 1, "contains a zero byte");
  memset(address, 0, sizeof(*address));
  address->kind = STREAM_PIPE;
  address->path = path;
  (void)snprintf(address->name, sizeof(address->name), "%s", path);
}

// Connecting

static void on_connect(uv_connect_t *request, int status) {
  Stream *stream = request->data;
  if (stream->writer != NULL) wait_settle(stream->writer, status);
}

static void close_connect(Wait *wait) {
  Stream *stream = ((StreamWait *)wait)->stream;
  stream->writer = NULL;  // a failed or cancelled attempt is closed in `end`
  wait_done(wait);
}

// Stack: arguments, the stream's userdata, the wait.
static int end_connect(lua_State *L, int status, lua_KContext context) {
  const StreamWait *op = (const StreamWait *)context;
  if (op->wait.status == 0) {
    if (op->stream->uv.handle.type == UV_TCP) {
      (void)uv_tcp_nodelay(&op->stream->uv.tcp, 1);  // a wish, not a need
    }
    lua_pushvalue(L, -2);
    return 1;
  }
  Stream **slot = lua_touserdata(L, -2);
  char name[sizeof(op->stream->name)];
  memcpy(name, op->stream->name, sizeof(name));
  stream_close(op->stream);
  *slot = NULL;
  if (op->wait.status == UV_ECANCELED || op->wait.status == UV_ETIMEDOUT) {
    return raise_error(L, op->wait.status, "connect %s", name);
  }
  return raise_kind(L, "connect", uv_err_name(op->wait.status),
                    "connect %s: %s", name, uv_strerror(op->wait.status));
}

static int start_connect(lua_State *L, const Address *address) {
  Stream **slot = stream_push(L);
  StreamWait *op = wait_new(L, sizeof(*op), close_connect, "connect");
  int status =
      stream_new(slot, &reactor_of(L)->loop, address->kind, address->name);
  if (status != 0) {
    wait_drop(L, &op->wait);
    return raise_error(L, status, "connect %s", address->name);
  }
  Stream *stream = *slot;
  op->stream = stream;
  stream->writer = &op->wait;
  stream->request.connect.data = stream;
  if (address->kind == STREAM_PIPE) {
    uv_pipe_connect(&stream->request.connect, &stream->uv.pipe, address->path,
                    on_connect);
  } else {
    status = uv_tcp_connect(&stream->request.connect, &stream->uv.tcp,
                            &address->ip.any, on_connect);
    if (status != 0) wait_settle(&op->wait, status);
  }
  return wait_yield(L, &op->wait, end_connect);
}

// connect(address, port) → Stream. Waits; raises connect errors.
static int f_connect(lua_State *L) {
  Address address;
  check_ip(L, &address);
  return start_connect(L, &address);
}

// connect_unix(path) → Stream. Waits; raises connect errors.
static int f_connect_unix(lua_State *L) {
  Address address;
  check_path(L, &address);
  return start_connect(L, &address);
}

// Listening

static void on_listener_closed(uv_handle_t *handle) {
  free(handle->data);
}

static void close_accept(Wait *wait) {
  AcceptWait *op = (AcceptWait *)wait;
  Listener *listener = op->listener;
  if (op->previous != NULL) op->previous->next = op->next;
  if (op->next != NULL) op->next->previous = op->previous;
  if (listener->first == op) listener->first = op->next;
  if (listener->last == op) listener->last = op->previous;
  if (listener->first == NULL) uv_unref(&listener->uv.handle);
  wait_done(wait);
}

// Gives the connection that libuv holds to the one who has waited longest.
static void hand_out(Listener *listener) {
  AcceptWait *op = listener->first;
  int status = stream_new(op->slot, listener->uv.handle.loop, listener->kind,
                          listener->name);
  if (status == 0) {
    listener->pending = false;
    status = uv_accept(&listener->uv.stream, &(*op->slot)->uv.stream);
    if (status == 0 && listener->kind == STREAM_TCP) {
      (void)uv_tcp_nodelay(&(*op->slot)->uv.tcp, 1);  // a wish, not a need
    }
  }
  wait_settle(&op->wait, status);
}

static void on_connection(uv_stream_t *handle, int status) {
  Listener *listener = handle->data;
  if (status != 0) {
    // Out of descriptors, or a peer that left at once: who waits is told.
    if (listener->first != NULL) wait_settle(&listener->first->wait, status);
    return;
  }
  listener->pending = true;
  if (listener->first != NULL) hand_out(listener);
}

static Listener **check_listener_slot(lua_State *L) {
  return luaL_checkudata(L, 1, LISTENER_TYPE);
}

// Stack: the listener, the stream's userdata, the wait.
static int end_accept(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "accept");
  lua_settop(L, 2);
  return 1;
}

// accept() → Stream: the next connection; several may wait and are served in
// order. Waits; raises EBADF once the listener is closed.
static int f_accept(lua_State *L) {
  Listener *listener = *check_listener_slot(L);
  if (listener == NULL) {
    return raise_error(L, UV_EBADF, "accept: closed listener");
  }
  lua_settop(L, 1);
  Stream **slot = stream_push(L);
  AcceptWait *op = wait_new(L, sizeof(*op), close_accept, "accept");
  op->listener = listener;
  op->slot = slot;
  op->previous = listener->last;
  if (op->previous != NULL) {
    op->previous->next = op;
  } else {
    listener->first = op;
  }
  listener->last = op;
  uv_ref(&listener->uv.handle);  // only a waiter keeps the loop going
  if (listener->pending) hand_out(listener);
  return wait_yield(L, &op->wait, end_accept);
}

static int open_listener(Listener *listener, uv_loop_t *loop,
                         const Address *address) {
  listener->kind = address->kind;
  memcpy(listener->name, address->name, sizeof(listener->name));
  int status = address->kind == STREAM_TCP
                   ? uv_tcp_init(loop, &listener->uv.tcp)
                   : uv_pipe_init(loop, &listener->uv.pipe, 0);
  listener->uv.handle.data = listener;
  return status;
}

static int find_port(Listener *listener) {
  union {
    struct sockaddr any;
    struct sockaddr_in ip4;
    struct sockaddr_in6 ip6;
  } bound;

  int size = sizeof(bound);
  int status = uv_tcp_getsockname(&listener->uv.tcp, &bound.any, &size);
  if (status != 0) return status;
  listener->port = ntohs(bound.any.sa_family == AF_INET ? bound.ip4.sin_port
                                                        : bound.ip6.sin6_port);
  return 0;
}

static int start_listening(Listener *listener, const Address *address) {
  bool tcp = address->kind == STREAM_TCP;
  int status = tcp ? uv_tcp_bind(&listener->uv.tcp, &address->ip.any, 0)
                   : uv_pipe_bind(&listener->uv.pipe, address->path);
  if (status == 0) {
    status = uv_listen(&listener->uv.stream, BACKLOG, on_connection);
  }
  return status == 0 && tcp ? find_port(listener) : status;
}

static int listen_on(lua_State *L, const Address *address) {
  Listener **slot = lua_newuserdatauv(L, sizeof(Listener *), 0);
  *slot = NULL;
  luaL_setmetatable(L, LISTENER_TYPE);
  Listener *listener = calloc(1, sizeof(*listener));
  if (listener == NULL) return raise_error(L, UV_ENOMEM, "listen");
  int status = open_listener(listener, &reactor_of(L)->loop, address);
  if (status != 0) {
    free(listener);
    return raise_error(L, status, "listen %s", address->name);
  }
  *slot = listener;
  status = start_listening(listener, address);
  if (status != 0) return raise_error(L, status, "listen %s", address->name);
  uv_unref(&listener->uv.handle);
  return 1;
}

// listen(address, port) → Listener; port 0 takes a free one, see `l.port`.
static int f_listen(lua_State *L) {
  Address address;
  check_ip(L, &address);
  return listen_on(L, &address);
}

// listen_unix(path) → Listener. The path must not exist; closing removes it.
static int f_listen_unix(lua_State *L) {
  Address address;
  check_path(L, &address);
  return listen_on(L, &address);
}

static int gc_listener(lua_State *L) {
  Listener **slot = lua_touserdata(L, 1);
  Listener *listener = *slot;
  *slot = NULL;
  if (listener == NULL) return 0;
  while (listener->first != NULL)
    wait_settle(&listener->first->wait, UV_EBADF);
  uv_close(&listener->uv.handle, on_listener_closed);
  return 0;
}

// close(): who waits in accept gets EBADF. Closing twice is fine.
static int f_close(lua_State *L) {
  (void)check_listener_slot(L);
  return gc_listener(L);
}

static int f_index(lua_State *L) {
  const Listener *listener = *check_listener_slot(L);
  const char *name = luaL_checkstring(L, 2);
  if (strcmp(name, "port") != 0) {
    lua_getfield(L, lua_upvalueindex(1), name);
  } else if (listener != NULL && listener->kind == STREAM_TCP) {
    lua_pushinteger(L, listener->port);
  } else {
    lua_pushnil(L);
  }
  return 1;
}

// Names

// A look-up cannot be stopped once a thread is at it, so it lives apart from
// the wait and frees itself.
typedef struct Lookup {
  uv_getaddrinfo_t request;
  struct LookupWait *op;  // NULL once nobody waits
} Lookup;

typedef struct LookupWait {
  Wait wait;
  Lookup *lookup;
  struct addrinfo *found;
} LookupWait;

static void on_lookup(uv_getaddrinfo_t *request, int status,
                      struct addrinfo *found) {
  Lookup *lookup = request->data;
  LookupWait *op = lookup->op;
  if (op == NULL) {
    uv_freeaddrinfo(found);
  } else {
    op->found = found;
    wait_settle(&op->wait, status);
  }
  free(lookup);
}

static void close_lookup(Wait *wait) {
  LookupWait *op = (LookupWait *)wait;
  op->lookup->op = NULL;
  if (wait->status == UV_ECANCELED) {
    (void)uv_cancel((uv_req_t *)&op->lookup->request);  // perhaps too late
  }
  wait_done(wait);
}

// The list is freed on the way out: a memory error would only leak it.
static int end_lookup(lua_State *L, int status, lua_KContext context) {
  LookupWait *op = (LookupWait *)context;
  if (op->wait.status != 0) {
    return raise_error(L, op->wait.status, "resolve %s", lua_tostring(L, 1));
  }
  lua_newtable(L);
  lua_Integer count = 0;
  for (const struct addrinfo *at = op->found; at != NULL; at = at->ai_next) {
    char text[64];
    if (uv_ip_name(at->ai_addr, text, sizeof(text)) != 0) continue;
    lua_pushstring(L, text);
    lua_rawseti(L, -2, ++count);
  }
  uv_freeaddrinfo(op->found);
  return 1;
}

// resolve(name) → literal addresses, best first. Waits; raises dns errors.
static int f_resolve(lua_State *L) {
  size_t size;
  const char *name = luaL_checklstring(L, 1, &size);
  luaL_argcheck(L, size > 0 && size < 256 && strlen(name) == size, 1,
                "not a host name");
  LookupWait *op = wait_new(L, sizeof(*op), close_lookup, "name look-up");
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                           .ai_flags = AI_ADDRCONFIG};
  Lookup *lookup = calloc(1, sizeof(*lookup));
  int status = UV_ENOMEM;
  if (lookup != NULL) {
    lookup->request.data = lookup;
    lookup->op = op;
    op->lookup = lookup;
    status = uv_getaddrinfo(&reactor_of(L)->loop, &lookup->request, on_lookup,
                            name, NULL, &hints);
  }
  if (status != 0) {
    free(lookup);
    wait_drop(L, &op->wait);
    return raise_error(L, status, "resolve %s", name);
  }
  return wait_yield(L, &op->wait, end_lookup);
}

static const luaL_Reg listener_methods[] = {
    {"accept", f_accept},
    {"close",  f_close },
    {NULL,     NULL    },
};

static const luaL_Reg functions[] = {
    {"connect",      f_connect     },
    {"connect_unix", f_connect_unix},
    {"listen",       f_listen      },
    {"listen_unix",  f_listen_unix },
    {"resolve",      f_resolve     },
    {NULL,           NULL          },
};

int luaopen_sbx_core_net(lua_State *L) {
  luaL_newmetatable(L, LISTENER_TYPE);
  lua_pushcfunction(L, gc_listener);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, gc_listener);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, listener_methods);
  lua_pushcclosure(L, f_index, 1);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
