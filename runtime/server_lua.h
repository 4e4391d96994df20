// The parts of sbx.core.server: lib_server.c has the Listener, server_lua.c the
// Request, server_facts.c what is known of it from the start.

#ifndef SBX_SERVER_LUA_H
#define SBX_SERVER_LUA_H

#include <lua.h>

struct Request;
struct Server;

// Makes the metatable of requests.
void server_request_open(lua_State *L);

// Pushes the oldest unaccepted request of `server`, whose Listener is at index
// 1. Raises out of memory, in which case the request stays in the queue or is
// answered 500.
void server_request_push(lua_State *L, struct Server *server);

// Pushes the table of facts about a request: method, path, raw_path, raw_query,
// query, headers and remote. Raises out of memory.
void server_push_facts(lua_State *L, const struct Request *request);

#endif
