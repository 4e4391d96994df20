// Gets a Lua value ready for lua-cjson, which would write some values wrongly
// and takes many that JSON has no form for.

#ifndef SBX_JSON_PREPARE_H
#define SBX_JSON_PREPARE_H

#include <lua.h>
#include <stdbool.h>

// Stack or upvalue indices of the metatables that mark a table's form.
typedef struct JsonMarks {
  int array;
  int object;
} JsonMarks;

// Raises an error object of kind `json`, with the `path` of the culprit, unless
// the value on top of the stack can be written. What lua-cjson would not write
// exactly is carried (json_text.h) in a copy, which then replaces the value;
// the tables of the caller stay as they are. Returns whether it was replaced.
// With `sort`, each object becomes a list of its names, in order of their
// bytes, and their values.
bool json_prepare(lua_State *L, JsonMarks marks, bool sort);

// Replaces the message on top of the stack by an error object of kind `json`.
void json_push_error(lua_State *L);

#endif
