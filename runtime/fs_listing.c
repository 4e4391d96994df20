// The Lua object over a list of entries.

#include "fs_listing.h"

#include <lauxlib.h>
#include <stdio.h>

#define LISTING_TYPE "sbx.listing"

typedef struct Listing {
  FsList list;
  size_t next;
} Listing;

static const char *type_of_letter(char letter) {
  switch (letter) {
  case 'f':
  case 'F':
    return "file";
  case 'd':
  case 'D':
    return "directory";
  case 'l':
    return "symlink";
  case 'p':
  case 'P':
    return "fifo";
  case 's':
  case 'S':
    return "socket";
  case 'c':
  case 'C':
    return "device";
  default:
    return "unknown";
  }
}

// next() → name, type, whether a link leads to it; or nothing at the end
static int f_next(lua_State *L) {
  Listing *listing = luaL_checkudata(L, 1, LISTING_TYPE);
  if (listing->next >= listing->list.count) {
    fs_list_free(&listing->list);
    listing->next = 0;
    return 0;
  }
  const char *entry = listing->list.entries[listing->next++];
  lua_pushstring(L, entry + 1);
  lua_pushstring(L, type_of_letter(entry[0]));
  lua_pushboolean(L, entry[0] >= 'A' && entry[0] <= 'Z');
  return 3;
}

// names(list, max) → appends up to `max` names; true when more are left
static int f_names(lua_State *L) {
  Listing *listing = luaL_checkudata(L, 1, LISTING_TYPE);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_Integer max = luaL_checkinteger(L, 3);
  lua_Integer size = (lua_Integer)lua_rawlen(L, 2);
  for (; max > 0 && listing->next < listing->list.count; max--) {
    lua_pushstring(L, listing->list.entries[listing->next++] + 1);
    lua_rawseti(L, 2, ++size);
  }
  lua_pushboolean(L, listing->next < listing->list.count);
  return 1;
}

// identity() → a text that no other folder has at the time
static int f_identity(lua_State *L) {
  const Listing *listing = luaL_checkudata(L, 1, LISTING_TYPE);
  char text[64];
  int size = snprintf(text, sizeof(text), "%llx:%llx",
                      (unsigned long long)listing->list.dev,
                      (unsigned long long)listing->list.ino);
  lua_pushlstring(L, text, (size_t)size);
  return 1;
}

static int gc_listing(lua_State *L) {
  Listing *listing = lua_touserdata(L, 1);
  fs_list_free(&listing->list);
  listing->next = 0;
  return 0;
}

static const luaL_Reg methods[] = {
    {"identity", f_identity},
    {"names",    f_names   },
    {"next",     f_next    },
    {NULL,       NULL      },
};

FsList *fs_listing_push(lua_State *L) {
  Listing *listing = lua_newuserdatauv(L, sizeof(*listing), 0);
  *listing = (Listing){0};
  if (luaL_newmetatable(L, LISTING_TYPE)) {
    lua_pushcfunction(L, gc_listing);
    lua_setfield(L, -2, "__gc");
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
  }
  lua_setmetatable(L, -2);
  return &listing->list;
}
