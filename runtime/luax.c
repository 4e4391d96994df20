// Error objects from C, checked arguments, option fields.

#include "luax.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <uv.h>

#include "task.h"

const char *error_kind(int status) {
  switch (status) {
  case UV_ETIMEDOUT:
    return "timeout";
  case UV_ECONNREFUSED:
  case UV_ECONNRESET:
  case UV_ECONNABORTED:
  case UV_EHOSTUNREACH:
  case UV_ENETUNREACH:
  case UV_EADDRNOTAVAIL:
    return "connect";
  default:
    return status <= UV_EAI_ADDRFAMILY && status >= UV_EAI_SOCKTYPE ? "dns"
                                                                    : "io";
  }
}

void push_error(lua_State *L, int status, const char *text) {
  lua_createtable(L, 0, 4);
  lua_pushstring(L, error_kind(status));
  lua_setfield(L, -2, "kind");
  char name[32];
  lua_pushstring(L, uv_err_name_r(status, name, sizeof(name)));
  lua_setfield(L, -2, "code");
  char meaning[128];
  lua_pushfstring(L, "%s: %s", text,
                  uv_strerror_r(status, meaning, sizeof(meaning)));
  lua_setfield(L, -2, "message");
  size_t word = strcspn(text, " ");
  lua_pushlstring(L, text, word);
  lua_setfield(L, -2, "op");
  luaL_setmetatable(L, ERROR_TYPE);
}

int raise_error(lua_State *L, int status, const char *format, ...) {
  if (status == UV_ECANCELED) {
    Task *task = task_current(L);
    const Scope *source = task ? task_must_end(task) : NULL;
    if (task && !source) source = scope_reaching(task);
    if (!source) return raise_kind(L, "cancelled", NULL, "cancelled");
    push_cancelled(L, source);
    return lua_error(L);
  }
  va_list arguments;
  va_start(arguments, format);
  const char *text = lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  push_error(L, status, text);
  return lua_error(L);
}

int raise_kind(lua_State *L, const char *kind, const char *code,
               const char *format, ...) {
  lua_createtable(L, 0, 4);
  lua_pushstring(L, kind);
  lua_setfield(L, -2, "kind");
  if (code) {
    lua_pushstring(L, code);
    lua_setfield(L, -2, "code");
  }
  va_list arguments;
  va_start(arguments, format);
  lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  lua_setfield(L, -2, "message");
  luaL_setmetatable(L, ERROR_TYPE);
  return lua_error(L);
}

static void push_script_place(lua_State *L) {
  lua_Debug ar;
  for (int level = 1; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline <= 0 || strncmp(ar.source, "@sbx/", 5) == 0) continue;
    lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
    return;
  }
  luaL_where(L, 1);
}

int raise_misuse(lua_State *L, const char *format, ...) {
  push_script_place(L);
  va_list arguments;
  va_start(arguments, format);
  lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  lua_concat(L, 2);
  return lua_error(L);
}

double check_seconds(lua_State *L, int index) {
  lua_Number seconds = luaL_checknumber(L, index);
  luaL_argcheck(L, seconds >= 0 && seconds <= 1e9, index,
                "expected seconds from 0 to 1000000000");
  return seconds;
}

double opt_seconds(lua_State *L, int index, double fallback) {
  return lua_isnoneornil(L, index) ? fallback : check_seconds(L, index);
}

// Pushes the field. Returns its type; nothing is pushed for an absent one.
static int get_field(lua_State *L, int index, const char *name) {
  if (!lua_istable(L, index)) return LUA_TNIL;
  int type = lua_getfield(L, index, name);
  if (type == LUA_TNIL) lua_pop(L, 1);
  return type;
}

static void expect(lua_State *L, bool fits, const char *name,
                   const char *expected) {
  if (!fits)
    luaL_error(L, "%s: expected %s, got a %s", name, expected,
               luaL_typename(L, -1));
}

const char *field_string(lua_State *L, int index, const char *name,
                         const char *fallback) {
  int type = get_field(L, index, name);
  if (type == LUA_TNIL) return fallback;
  expect(L, type == LUA_TSTRING, name, "a string");
  // The table keeps it alive after the pop.
  const char *text = lua_tostring(L, -1);
  lua_pop(L, 1);
  return text;
}

lua_Integer field_integer(lua_State *L, int index, const char *name,
                          lua_Integer fallback) {
  if (get_field(L, index, name) == LUA_TNIL) return fallback;
  int whole = 0;
  lua_Integer value = lua_tointegerx(L, -1, &whole);
  expect(L, whole && lua_type(L, -1) == LUA_TNUMBER, name, "a whole number");
  lua_pop(L, 1);
  return value;
}

double field_number(lua_State *L, int index, const char *name,
                    double fallback) {
  int type = get_field(L, index, name);
  if (type == LUA_TNIL) return fallback;
  lua_Number value = lua_tonumber(L, -1);
  expect(L, type == LUA_TNUMBER && !isnan(value), name, "a number");
  lua_pop(L, 1);
  return value;
}

bool field_boolean(lua_State *L, int index, const char *name, bool fallback) {
  int type = get_field(L, index, name);
  if (type == LUA_TNIL) return fallback;
  expect(L, type == LUA_TBOOLEAN, name, "true or false");
  bool value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}
