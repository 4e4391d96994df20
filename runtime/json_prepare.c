// Walks over a value before lua-cjson writes it; see json_prepare.h.

#include "json_prepare.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_text.h"
#include "luax.h"

// lua-cjson counts bytes in an int and reserves six for every byte of a string.
#define MAX_WRITTEN (INT_MAX / 2)

// lua-cjson writes whole numbers below this digit for digit, and floats of as
// many digits as it has zeros.
#define EXACT_INTEGER 100000000000000
#define EXACT_DIGITS 14

void json_push_error(lua_State *L) {
  lua_createtable(L, 0, 5);
  lua_insert(L, -2);
  lua_setfield(L, -2, "message");
  lua_pushliteral(L, "json");
  lua_setfield(L, -2, "kind");
  luaL_setmetatable(L, ERROR_TYPE);
}

// How a value is reached from the root: one link for each table around it.
typedef struct Path {
  const struct Path *up;  // NULL at the root
  const void *table;      // the table that holds the value
  const char *name;       // the value's name there, or NULL
  size_t length;          // of the name, in bytes
  lua_Integer index;      // its position, where it has no name
  int depth;              // tables around the value
} Path;

typedef struct Encoder {
  lua_State *L;
  JsonMarks marks;
  bool sort;
  size_t size;  // at most this many bytes will lua-cjson write
} Encoder;

static bool is_identifier(const Path *path) {
  for (size_t i = 0; i < path->length; i++) {
    char c = path->name[i], letter = (char)(c | 0x20);
    bool digit = c >= '0' && c <= '9' && i > 0;
    if (!digit && c != '_' && (letter < 'a' || letter > 'z')) return false;
  }
  return path->length > 0;
}

// Adds a name, cut short where it is long, without control characters.
static void add_name(luaL_Buffer *buffer, const Path *path) {
  size_t length = path->length;
  if (length > 60) {
    length = 60;
    while (((unsigned char)path->name[length] & 0xC0) == 0x80)
      length--;
  }
  for (size_t i = 0; i < length; i++) {
    char c = path->name[i];
    luaL_addchar(buffer, (unsigned char)c < 0x20 ? '?' : c);
  }
  if (length < path->length) luaL_addstring(buffer, "...");
}

static void add_path(luaL_Buffer *buffer, const Path *path) {
  if (path->up == NULL) {
    luaL_addchar(buffer, '$');
    return;
  }
  add_path(buffer, path->up);
  if (path->name == NULL) {
    char index[32];
    snprintf(index, sizeof(index), "[%lld]", (long long)path->index);
    luaL_addstring(buffer, index);
  } else if (is_identifier(path)) {
    luaL_addchar(buffer, '.');
    add_name(buffer, path);
  } else {
    luaL_addstring(buffer, "[\"");
    add_name(buffer, path);
    luaL_addstring(buffer, "\"]");
  }
}

// Raises an error object that names the path of the value. The problem, which
// may name `detail` as %s, is about that value.
static void refuse(Encoder *e, const Path *path, const char *problem,
                   const char *detail) {
  lua_State *L = e->L;
  luaL_checkstack(L, 10, "json");
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  add_path(&buffer, path);
  luaL_pushresult(&buffer);
  lua_pushfstring(L, problem, detail);
  lua_pushfstring(L, "json: %s: %s", lua_tostring(L, -2), lua_tostring(L, -1));
  json_push_error(L);
  lua_pushvalue(L, -3);
  lua_setfield(L, -2, "path");
  lua_error(L);
}

static void reserve(Encoder *e, const Path *path, size_t size) {
  e->size += size;
  if (e->size > MAX_WRITTEN) refuse(e, path, "too large a text to write", NULL);
}

static void check_string(Encoder *e, const Path *path, int index) {
  size_t length;
  const char *text = lua_tolstring(e->L, index, &length);
  if (length > MAX_WRITTEN / 6)
    refuse(e, path, "too large a text to write", NULL);
  reserve(e, path, 6 * length + 4);
  const char *bad = json_bad_utf8(text, length);
  if (bad == NULL) return;
  lua_pushfstring(e->L, "%I", (lua_Integer)(bad - text) + 1);
  refuse(e, path, "a string with invalid UTF-8 at byte %s",
         lua_tostring(e->L, -1));
}

// Writes the fewest digits, of at least EXACT_DIGITS, that read back as the
// same number, and a point or an exponent, so that it reads back as a float.
// Returns whether lua-cjson would write the same.
static bool format_float(char *out, size_t size, lua_Number number) {
  int digits = EXACT_DIGITS;
  for (;; digits++) {
    snprintf(out, size, "%.*g", digits, number);
    if (digits == 17 || strtod(out, NULL) == number) break;
  }
  char *comma = strchr(out, ',');  // the point of another locale
  if (comma != NULL) *comma = '.';
  if (strpbrk(out, ".e") != NULL)
    return digits == EXACT_DIGITS && comma == NULL;
  strcat(out, ".0");
  return false;
}

static bool prepare_number(Encoder *e, const Path *path) {
  lua_State *L = e->L;
  char token[48] = {(char)CARRIER};
  reserve(e, path, sizeof(token));
  if (lua_isinteger(L, -1)) {
    lua_Integer integer = lua_tointeger(L, -1);
    if (integer < EXACT_INTEGER && integer > -EXACT_INTEGER) return false;
    snprintf(token + 1, sizeof(token) - 1, "%lld", (long long)integer);
  } else {
    lua_Number number = lua_tonumber(L, -1);
    if (isnan(number)) refuse(e, path, "JSON has no NaN", NULL);
    if (isinf(number)) refuse(e, path, "JSON has no infinity", NULL);
    if (format_float(token + 1, sizeof(token) - 1, number)) return false;
  }
  lua_pop(L, 1);
  lua_pushstring(L, token);
  return true;
}

// Whether the table on top of the stack is to be written as an array: its mark
// decides, or else its first key.
static bool is_array(Encoder *e) {
  lua_State *L = e->L;
  if (lua_getmetatable(L, -1)) {
    bool array = lua_rawequal(L, -1, e->marks.array);
    bool object = lua_rawequal(L, -1, e->marks.object);
    lua_pop(L, 1);
    if (array || object) return array;
  }
  lua_pushnil(L);
  if (!lua_next(L, -2)) return false;
  bool array = lua_isinteger(L, -2);
  lua_pop(L, 2);
  return array;
}

// The link for the item below the top of the stack, in an array of `count`.
static Path item_path(Encoder *e, const Path *path, lua_Integer count) {
  lua_State *L = e->L;
  if (!lua_isinteger(L, -2)) {
    refuse(e, path, "an array with a key that is a %s", luaL_typename(L, -2));
  }
  lua_Integer index = lua_tointeger(L, -2);
  if (index < 1 || index > count) refuse(e, path, "an array with holes", NULL);
  return (Path){.up = path, .index = index, .depth = path->depth + 1};
}

static Path name_path(Encoder *e, const Path *path) {
  lua_State *L = e->L;
  if (lua_type(L, -2) != LUA_TSTRING) {
    refuse(e, path, "an object with a key that is a %s", luaL_typename(L, -2));
  }
  Path link = {.up = path, .depth = path->depth + 1};
  link.name = lua_tolstring(L, -2, &link.length);
  check_string(e, path, -2);
  return link;
}

static void check_nesting(Encoder *e, const Path *path, const void *table) {
  for (const Path *p = path; p != NULL; p = p->up) {
    if (p->table == table) refuse(e, path, "a table inside itself", NULL);
  }
  if (path->depth == JSON_MAX_DEPTH) refuse(e, path, "nested too deeply", NULL);
}

typedef struct Name {
  const char *text;  // belongs to the object
  size_t length;
} Name;

static int compare_names(const void *left, const void *right) {
  const Name *a = left, *b = right;
  int order =
      memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
  if (order != 0) return order;
  return (a->length > b->length) - (a->length < b->length);
}

// Replaces the object on top of the stack, which has `count` names, by a list
// of them and their values in order, for json_print.
static void list_sorted(lua_State *L, lua_Integer count) {
  Name *names = lua_newuserdatauv(L, (size_t)count * sizeof(*names), 0);
  lua_Integer filled = 0;
  lua_pushnil(L);
  for (; lua_next(L, -3); filled++) {  // object, names, name, value
    names[filled].text = lua_tolstring(L, -2, &names[filled].length);
    lua_pop(L, 1);
  }
  qsort(names, (size_t)count, sizeof(*names), compare_names);

  lua_createtable(L, 0, 0);
  lua_pushlstring(L, (const char[]){(char)CARRIER, '{'}, 2);
  lua_rawseti(L, -2, 1);
  for (lua_Integer i = 0; i < count; i++) {  // object, names, list
    lua_pushlstring(L, names[i].text, names[i].length);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, 2 * i + 2);
    lua_rawget(L, -4);
    lua_rawseti(L, -2, 2 * i + 3);
  }
  lua_replace(L, -3);
  lua_pop(L, 1);
}

static bool prepare(Encoder *e, const Path *path);

// Replaces the nil at `copy` by a copy of the table below it.
static void copy_table(lua_State *L, int copy, int array, lua_Integer count) {
  lua_createtable(L, array ? (int)count : 0, 0);
  lua_pushnil(L);
  while (lua_next(L, copy - 1)) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, -4);
  }
  lua_replace(L, copy);
}

// Replaces the table on top of the stack if anything in it must be.
static bool prepare_table(Encoder *e, const Path *path) {
  lua_State *L = e->L;
  luaL_checkstack(L, 12, "json");
  const void *pointer = lua_topointer(L, -1);
  check_nesting(e, path, pointer);
  reserve(e, path, 8);

  int table = lua_gettop(L), copy = table + 1;
  bool array = is_array(e);
  lua_Integer length = (lua_Integer)lua_rawlen(L, table), count = 0;
  lua_pushnil(L);  // the copy, once there is one
  lua_pushnil(L);
  for (; lua_next(L, table); count++) {  // table, copy, key, value
    Path link = array ? item_path(e, path, length) : name_path(e, path);
    link.table = pointer;
    bool replaced = prepare(e, &link);
    if (replaced) {
      if (lua_isnil(L, copy)) copy_table(L, copy, array, length);
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, copy);
    } else {
      lua_pop(L, 1);
    }
  }
  if (array && count != length) refuse(e, path, "an array with holes", NULL);

  bool replaced = !lua_isnil(L, copy);
  lua_remove(L, replaced ? table : copy);
  if (array && count == 0) {
    lua_pop(L, 1);
    lua_pushlstring(L, (const char[]){(char)CARRIER, '[', ']'}, 3);
    return true;
  }
  if (array || !e->sort || count == 0) return replaced;
  list_sorted(L, count);
  return true;
}

// Raises unless the value on top of the stack can be written, and replaces it
// by what lua-cjson must get instead: returns whether it did.
static bool prepare(Encoder *e, const Path *path) {
  switch (lua_type(e->L, -1)) {
  case LUA_TBOOLEAN:
    reserve(e, path, 8);
    return false;
  case LUA_TNUMBER:
    return prepare_number(e, path);
  case LUA_TSTRING:
    check_string(e, path, -1);
    return false;
  case LUA_TTABLE:
    return prepare_table(e, path);
  case LUA_TLIGHTUSERDATA:
    reserve(e, path, 8);
    if (lua_touserdata(e->L, -1) == NULL) return false;  // json.null
    break;
  default:
    break;
  }
  refuse(e, path, "JSON has no %s", luaL_typename(e->L, -1));
  return false;
}

bool json_prepare(lua_State *L, JsonMarks marks, bool sort) {
  Encoder e = {.L = L, .marks = marks, .sort = sort};
  Path root = {0};
  return prepare(&e, &root);
}
