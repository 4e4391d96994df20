// sbx.core.errors: the metatable that C and Lua share for error objects.

#include <lauxlib.h>
#include <uv.h>

#include "luax.h"

// code_text(status): a libuv status -> its name and what it means
static int f_code_text(lua_State *L) {
  int status = (int)luaL_checkinteger(L, 1);
  char text[128];
  lua_pushstring(L, uv_err_name_r(status, text, sizeof(text)));
  lua_pushstring(L, uv_strerror_r(status, text, sizeof(text)));
  return 2;
}

static const luaL_Reg functions[] = {
    {"code_text", f_code_text},
    {NULL,        NULL       },
};

int luaopen_sbx_core_errors(lua_State *L) {
  luaL_newlib(L, functions);
  (void)luaL_newmetatable(L, ERROR_TYPE);
  lua_setfield(L, -2, "metatable");
  return 1;
}
