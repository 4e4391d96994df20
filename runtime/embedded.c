// Finds and loads what the build put into the binary.

#include "embedded.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const EmbeddedFile *find(const char *name) {
  size_t low = 0, high = embedded_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(name, embedded_files[middle].name);
    if (order == 0) return &embedded_files[middle];
    if (order < 0)
      high = middle;
    else
      low = middle + 1;
  }
  return NULL;
}

static void push_stream(lua_State *L, FILE *stream) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  size_t count;
  do {
    count = fread(luaL_prepbuffer(&buffer), 1, LUAL_BUFFERSIZE, stream);
    luaL_addsize(&buffer, count);
  } while (count > 0);
  (void)fclose(stream);
  luaL_pushresult(&buffer);
}

// Pushes the bytes of `name`, as it stands in the folder of SBXLUA_LUA; false
// where there is none. The pages are in a folder beside that one.
static bool push_file(lua_State *L, const char *name) {
  const char *root = getenv("SBXLUA_LUA");
  if (!root || !root[0]) return false;
  luaL_gsub(L, name, ".", "/");
  const char *path = lua_tostring(L, -1);
  const char *candidates[] = {
      lua_pushfstring(L, "%s/%s.lua", root, path),
      lua_pushfstring(L, "%s/%s/init.lua", root, path),
      lua_pushfstring(L, "%s/%s", root, name),
      lua_pushfstring(L, "%s/../%s", root, name),
  };
  // A name with an ending is a file's.
  bool is_file = strchr(name, '/') != NULL;
  FILE *stream = NULL;
  for (int i = is_file ? 2 : 0; i < (is_file ? 4 : 2) && !stream; i++)
    stream = fopen(candidates[i], "rb");
  lua_pop(L, 5);
  if (!stream) return false;
  push_stream(L, stream);
  return true;
}

bool embedded_push(lua_State *L, const char *name) {
  if (push_file(L, name)) return true;
  const EmbeddedFile *file = find(name);
  if (!file) return false;
  lua_pushlstring(L, (const char *)file->bytes, file->size);
  return true;
}

int embedded_load(lua_State *L, const char *name, const char *chunk,
                  bool *found) {
  *found = true;
  if (!strchr(name, '/') && push_file(L, name)) {
    size_t size;
    const char *text = lua_tolstring(L, -1, &size);
    int status = luaL_loadbufferx(L, text, size, chunk, "t");
    lua_remove(L, -2);
    return status;
  }
  const EmbeddedFile *file = find(name);
  *found = file && file->code_size > 0;
  if (!*found) return LUA_OK;
  // Bytecode fits the very release that made it; the shared library may have
  // been replaced since.
  if (strcmp(lua_ident, embedded_release) == 0)
    return luaL_loadbufferx(L, (const char *)file->code, file->code_size, chunk,
                            "b");
  return luaL_loadbufferx(L, (const char *)file->bytes, file->size, chunk, "t");
}
