// The two halves of sbx.core.server: lib_server.c has the Listener,
// server_lua.c the Request.

#ifndef SBX_SERVER_LUA_H
#define SBX_SERVER_LUA_H

#include <lua.h>

struct Server;

// Makes the metatable of requests.
void server_request_open(lua_State *L);

// Pushes the oldest unaccepted request of `server`, whose Listener is at index
// 1. Raises out of memory, in which case the request stays in the queue or is
// answered 500.
void server_request_push(lua_State *L, struct Server *server);

#endif
