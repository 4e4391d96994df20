// sbx.core.json: lua-cjson reads and writes, made exact.
//
//   decode: json_check, json_carry, lua-cjson, settle
//   encode: prepare, lua-cjson, json_print
//
// json_text.h says how a value that lua-cjson would spoil is carried through
// it.

#include <lua.h>

#include <lua-cjson.h>

#include <limits.h>
#include <string.h>

#include "json_prepare.h"
#include "json_text.h"
#include "luax.h"

// lua-cjson counts bytes in an int, and carried tokens lengthen a text.
#define MAX_TEXT (INT_MAX / 4)

// The functions share their upvalues.
#define CJSON_DECODE lua_upvalueindex(1)
#define CJSON_ENCODE lua_upvalueindex(2)
#define ARRAY lua_upvalueindex(3)   // metatable of what is written as [...]
#define OBJECT lua_upvalueindex(4)  // metatable of what is written as {...}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

// Decoding

static int raise_syntax(lua_State *L, const char *text, JsonCheck check) {
  lua_Integer line = 1, column = 1;
  for (size_t i = 0; i < check.offset; i++) {
    if (text[i] == '\n') {
      line++;
      column = 1;
    } else if (((unsigned char)text[i] & 0xC0) != 0x80) {
      column++;
    }
  }
  lua_pushfstring(L, "json: line %I, column %I: %s", line, column,
                  check.problem);
  json_push_error(L);
  set_integer(L, "byte", (lua_Integer)check.offset + 1);
  set_integer(L, "line", line);
  set_integer(L, "column", column);
  return lua_error(L);
}

static void push_array(lua_State *L) {
  lua_newtable(L);
  lua_pushvalue(L, ARRAY);
  lua_setmetatable(L, -2);
}

// Replaces the string on top of the stack, if carried, by its value.
static bool settle_string(lua_State *L) {
  const char *text = lua_tostring(L, -1);
  if ((unsigned char)text[0] != CARRIER) return false;
  if (text[1] == '[') {
    push_array(L);
  } else if (lua_stringtonumber(L, text + 1) == 0) {
    // Only where the locale has another decimal point, and then no more than
    // 200 characters, can Lua not read what json_check has read.
    luaL_error(L, "json: a number too long for the locale");
  }
  lua_remove(L, -2);
  return true;
}

// Replaces the number on top of the stack by an integer if it was a whole one.
static bool settle_number(lua_State *L) {
  lua_Number number = lua_tonumber(L, -1);
  lua_Integer whole = (lua_Integer)number;  // fits: json_check carries the rest
  if ((lua_Number)whole != number) return false;
  lua_pop(L, 1);
  lua_pushinteger(L, whole);
  return true;
}

static bool settle(lua_State *L);

static void settle_array(lua_State *L) {
  lua_pushvalue(L, ARRAY);
  lua_setmetatable(L, -2);
  for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
    if (settle(L)) {
      lua_rawseti(L, -2, i);
    } else {
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

static void settle_object(lua_State *L) {
  lua_pushnil(L);
  while (lua_next(L, -2)) {  // object, name, value
    if (settle(L)) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, -4);
    } else {
      lua_pop(L, 1);
    }
  }
}

// Mends what lua-cjson built, on top of the stack. Returns whether the value
// there is another one now. json_check bounds the recursion.
static bool settle(lua_State *L) {
  switch (lua_type(L, -1)) {
  case LUA_TNUMBER:
    return settle_number(L);
  case LUA_TSTRING:
    return settle_string(L);
  case LUA_TTABLE:
    luaL_checkstack(L, 5, "json");
    // An object has strings for names, and no array here is empty.
    if (lua_rawgeti(L, -1, 1) != LUA_TNIL) {
      lua_pop(L, 1);
      settle_array(L);
    } else {
      lua_pop(L, 1);
      settle_object(L);
    }
    return false;
  default:
    return false;
  }
}

// decode(text) → value; raises kind `json` with byte, line and column
static int f_decode(lua_State *L) {
  luaL_checktype(L, 1, LUA_TSTRING);
  size_t length;
  const char *text = lua_tolstring(L, 1, &length);
  luaL_argcheck(L, length <= MAX_TEXT, 1, "text of more than 512 MiB");
  JsonCheck check = json_check(text, length);
  if (check.problem != NULL) return raise_syntax(L, text, check);

  lua_settop(L, 1);
  lua_pushvalue(L, CJSON_DECODE);
  if (check.carried == 0) {
    lua_pushvalue(L, 1);
  } else {
    luaL_Buffer buffer;
    size_t size = json_carry_size(length, check.carried);
    json_carry(text, length, luaL_buffinitsize(L, &buffer, size));
    luaL_pushresultsize(&buffer, size);
  }
  lua_call(L, 1, 1);
  settle(L);
  return 1;
}

// Encoding

// Replaces the text on top of the stack by the finished one.
static void print(lua_State *L, bool pretty) {
  size_t length;
  const char *json = lua_tolstring(L, -1, &length);
  size_t size = pretty ? json_print(json, length, true, NULL) : length;
  luaL_Buffer buffer;
  size = json_print(json, length, pretty, luaL_buffinitsize(L, &buffer, size));
  luaL_pushresultsize(&buffer, size);
}

// encode(value, pretty, sort_keys) → text; raises kind `json` with path
static int f_encode(lua_State *L) {
  luaL_checkany(L, 1);
  bool pretty = lua_toboolean(L, 2), sort = lua_toboolean(L, 3);
  JsonMarks marks = {.array = ARRAY, .object = OBJECT};

  lua_settop(L, 1);
  lua_pushvalue(L, CJSON_ENCODE);
  lua_pushvalue(L, 1);
  bool replaced = json_prepare(L, marks, sort);
  lua_call(L, 1, 1);

  size_t length;
  const char *json = lua_tolstring(L, -1, &length);
  if (replaced || pretty || memchr(json, '/', length) != NULL) print(L, pretty);
  return 1;
}

static const luaL_Reg functions[] = {
    {"decode", f_decode},
    {"encode", f_encode},
    {NULL,     NULL    },
};

static void push_marker(lua_State *L, const char *name) {
  lua_createtable(L, 0, 1);
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__name");
}

int luaopen_sbx_core_json(lua_State *L) {
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");

  lua_pushcfunction(L, luaopen_cjson);
  lua_call(L, 0, 1);  // module, cjson
  lua_getfield(L, -1, "encode_keep_buffer");
  lua_pushboolean(L, false);  // or the largest text written stays in memory
  lua_call(L, 1, 0);
  lua_getfield(L, -1, "decode");
  lua_getfield(L, -2, "encode");
  lua_remove(L, -3);

  push_marker(L, "json.array");
  lua_pushvalue(L, -1);
  lua_setfield(L, -5, "array");
  push_marker(L, "json.object");
  lua_pushvalue(L, -1);
  lua_setfield(L, -6, "object");
  luaL_setfuncs(L, functions, 4);
  return 1;
}
