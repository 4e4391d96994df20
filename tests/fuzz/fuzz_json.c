// libFuzzer over sbx.core.json: any text is refused with a position in it, or
// read; what was read is written, read again and written the same.

#include <lua.h>

#include <lauxlib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "json_text.h"

int luaopen_sbx_core_json(lua_State *L);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Calls decode or encode of the module at index 1 with the value on top of the
// stack, which it replaces by the result or the error.
static int call(lua_State *L, const char *name, int pretty) {
  lua_getfield(L, 1, name);
  lua_insert(L, -2);
  lua_pushboolean(L, pretty);
  lua_pushboolean(L, 1);  // sorted, so that equal values give equal texts
  return lua_pcall(L, 3, 1, 0);
}

static void check_error(lua_State *L, size_t size) {
  if (!lua_istable(L, -1)) abort();
  lua_getfield(L, -1, "byte");
  lua_Integer byte = lua_tointeger(L, -1);
  if (byte < 1 || (lua_Unsigned)byte > size + 1) abort();
  lua_getfield(L, -2, "line");
  lua_getfield(L, -3, "column");
  if (lua_tointeger(L, -1) < 1 || lua_tointeger(L, -2) < 1) abort();
  if (lua_tointeger(L, -1) + lua_tointeger(L, -2) > byte + 1) abort();
}

// The value on top of the stack, written, must read back as itself.
static void check_round_trip(lua_State *L, int pretty) {
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  if (call(L, "encode", 0) != LUA_OK) abort();
  lua_pushvalue(L, 2);
  if (call(L, "encode", pretty) != LUA_OK) abort();
  if (call(L, "decode", 0) != LUA_OK) abort();
  if (call(L, "encode", 0) != LUA_OK) abort();
  if (!lua_rawequal(L, -1, -2)) abort();
}

// Any bytes as a string: written exactly when they are UTF-8.
static void check_string(lua_State *L, const char *bytes, size_t size) {
  lua_settop(L, 1);
  lua_pushlstring(L, bytes, size);
  lua_pushvalue(L, -1);
  int status = call(L, "encode", 0);
  if ((status == LUA_OK) != (json_bad_utf8(bytes, size) == NULL)) abort();
  if (status != LUA_OK) return;
  if (call(L, "decode", 0) != LUA_OK) abort();
  if (!lua_rawequal(L, -1, -2)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lua_State *L = luaL_newstate();
  if (L == NULL) return 0;
  luaopen_sbx_core_json(L);
  lua_pushlstring(L, (const char *)data, size);
  if (call(L, "decode", 0) == LUA_OK) {
    check_round_trip(L, 0);
    check_round_trip(L, 1);
  } else {
    check_error(L, size);
  }
  check_string(L, (const char *)data, size);
  lua_close(L);
  return 0;
}
