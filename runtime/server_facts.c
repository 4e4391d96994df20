// The facts about a request as Lua values: its line, its query and its headers.

#include <lauxlib.h>
#include <string.h>

#include "server.h"
#include "server_lua.h"
#include "server_uri.h"

static void push_decoded(lua_State *L, UriSpan from, bool plus) {
  luaL_Buffer buffer;
  char *room = luaL_buffinitsize(L, &buffer, from.length);
  luaL_pushresultsize(&buffer, uri_decode(room, from, plus));
}

// Pushes {name = {value, ...}}, the values in their order.
static void push_query(lua_State *L, UriSpan query) {
  lua_newtable(L);
  UriSpan name, value;
  while (uri_next_pair(&query, &name, &value)) {
    push_decoded(L, name, true);  // query, name
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TNIL) {
      lua_pop(L, 1);
      lua_newtable(L);
      lua_pushvalue(L, -2);
      lua_pushvalue(L, -2);
      lua_rawset(L, -5);  // query, name, values
    }
    push_decoded(L, value, true);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 2);
  }
}

static void push_lower(lua_State *L, const char *name) {
  luaL_Buffer buffer;
  size_t length = strlen(name);
  char *room = luaL_buffinitsize(L, &buffer, length);
  for (size_t i = 0; i < length; i++) {
    room[i] = name[i];
    if (name[i] >= 'A' && name[i] <= 'Z') room[i] = (char)(name[i] | 0x20);
  }
  luaL_pushresultsize(&buffer, length);
}

// Pushes {lower-case name = value}; repeated headers are joined as HTTP allows.
static void push_headers(lua_State *L, const Request *request) {
  lua_newtable(L);
  const char *end = request->headers + request->headers_size;
  for (const char *name = request->headers, *value; name < end;
       name = value + strlen(value) + 1) {
    value = name + strlen(name) + 1;
    push_lower(L, name);  // headers, name
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TNIL) {
      lua_pop(L, 1);
      lua_pushstring(L, value);
    } else {
      bool cookie = strcmp(lua_tostring(L, -2), "cookie") == 0;
      lua_pushstring(L, cookie ? "; " : ", ");
      lua_pushstring(L, value);
      lua_concat(L, 3);
    }
    lua_rawset(L, -3);
  }
}

void server_push_facts(lua_State *L, const Request *request) {
  UriSpan path, query;
  uri_split(request->target, &path, &query);
  lua_createtable(L, 0, 7);
  lua_pushstring(L, request->method);
  lua_setfield(L, -2, "method");
  push_decoded(L, path, false);
  lua_setfield(L, -2, "path");
  lua_pushlstring(L, path.text, path.length);
  lua_setfield(L, -2, "raw_path");
  lua_pushlstring(L, query.text, query.length);
  lua_setfield(L, -2, "raw_query");
  push_query(L, query);
  lua_setfield(L, -2, "query");
  push_headers(L, request);
  lua_setfield(L, -2, "headers");
  lua_pushstring(L, request->remote);
  lua_setfield(L, -2, "remote");
}
