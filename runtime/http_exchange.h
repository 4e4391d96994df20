// A request in progress as an object; see http_exchange.c.

#ifndef SBX_HTTP_EXCHANGE_H
#define SBX_HTTP_EXCHANGE_H

#include <lua.h>

// start(request, streamed): sends a request and returns the exchange at once
int f_start(lua_State *L);

// Makes the type known; called once.
void open_exchange(lua_State *L);

#endif
