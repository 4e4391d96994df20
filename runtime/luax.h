// Small additions to the Lua API: error objects, checked arguments.

#ifndef SBX_LUAX_H
#define SBX_LUAX_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#define ERROR_TYPE "sbx.error"

// Raises an error object made from a libuv status (or a negated errno), with
// `code` such as "ENOENT", a fitting `kind` and the message
// "<format, filled in>: <what the status means>". `op` is the first word of
// the text. UV_ECANCELED raises the running task's `cancelled` error instead.
int raise_error(lua_State *L, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Raises an error object with this kind, code (or NULL) and whole message.
int raise_kind(lua_State *L, const char *kind, const char *code,
               const char *format, ...) __attribute__((format(printf, 4, 5)));

// Pushes such an object without raising it.
void push_error(lua_State *L, int status, const char *text);

// Raises a plain text for what the script did wrong. It begins with the place
// in the script, not that of the library's function which the script called.
int raise_misuse(lua_State *L, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// The kind that a libuv status belongs to: "io", "connect", "dns", "timeout".
const char *error_kind(int status);

// Seconds at `index`: a number from 0 to a billion, never NaN. Raises a plain
// argument error otherwise.
double check_seconds(lua_State *L, int index);

// The same where nil or nothing stands for `fallback`.
double opt_seconds(lua_State *L, int index, double fallback);

// Fields of the option table at `index`: absent or nil gives the fallback; a
// wrong type raises a plain error that names the field.
const char *field_string(lua_State *L, int index, const char *name,
                         const char *fallback);
lua_Integer field_integer(lua_State *L, int index, const char *name,
                          lua_Integer fallback);
double field_number(lua_State *L, int index, const char *name, double fallback);
bool field_boolean(lua_State *L, int index, const char *name, bool fallback);

#endif
