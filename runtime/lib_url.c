// sbx.core.url: libcurl's URL parser.

#include <curl/curl.h>
#include <lauxlib.h>
#include <string.h>
#include <uv.h>

#include "luax.h"

#define URL_TYPE "sbx.url"

// libcurl takes no longer ones; this keeps the answer the same everywhere.
#define MAX_URL ((size_t)1024 * 1024)

// A table's fields, in the order of their names in a URL.
static const struct {
  const char *name;
  CURLUPart part;
} parts[] = {
    {"scheme",   CURLUPART_SCHEME  },
    {"user",     CURLUPART_USER    },
    {"password", CURLUPART_PASSWORD},
    {"options",  CURLUPART_OPTIONS },
    {"host",     CURLUPART_HOST    },
    {"zone",     CURLUPART_ZONEID  },
    {"port",     CURLUPART_PORT    },
    {"path",     CURLUPART_PATH    },
    {"query",    CURLUPART_QUERY   },
    {"fragment", CURLUPART_FRAGMENT},
};

// Held by Lua while the parts become Lua values, which may raise.
typedef struct Url {
  CURLU *url;  // NULL while closed
  char *text;  // of one part, else NULL
} Url;

static void close_url(Url *held) {
  curl_free(held->text);
  curl_url_cleanup(held->url);
  *held = (Url){0};
}

static int gc_url(lua_State *L) {
  close_url(lua_touserdata(L, 1));
  return 0;
}

static int raise_memory(lua_State *L) {
  return raise_error(L, UV_ENOMEM, "parse a URL");
}

// Sets the field of the table on top of the stack, unless the URL lacks it.
static void set_part(lua_State *L, Url *held, const char *name,
                     CURLUPart part) {
  CURLUcode code = curl_url_get(held->url, part, &held->text, 0);
  if (code == CURLUE_OUT_OF_MEMORY) raise_memory(L);
  if (code != CURLUE_OK || held->text == NULL) return;
  lua_pushstring(L, held->text);
  lua_setfield(L, -2, name);
  curl_free(held->text);
  held->text = NULL;
}

// split(text) → {scheme=, user=, password=, options=, host=, zone=, port=,
// path=, query=, fragment=}, each as it stands in the URL; or nil and why it
// is none.
static int f_split(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  Url *held = lua_newuserdatauv(L, sizeof(*held), 0);
  *held = (Url){0};
  luaL_setmetatable(L, URL_TYPE);

  const char *problem = NULL;
  if (length > MAX_URL) {
    problem = "longer than 1 MiB";
  } else if (strlen(text) != length) {
    problem = "a zero byte";
  } else {
    held->url = curl_url();
    if (held->url == NULL) return raise_memory(L);
    CURLUcode code = curl_url_set(held->url, CURLUPART_URL, text,
                                  CURLU_NON_SUPPORT_SCHEME | CURLU_PATH_AS_IS);
    if (code == CURLUE_OUT_OF_MEMORY) return raise_memory(L);
    if (code != CURLUE_OK) problem = curl_url_strerror(code);
  }
  if (problem != NULL) {
    close_url(held);
    lua_pushnil(L);
    lua_pushstring(L, problem);
    return 2;
  }
  lua_createtable(L, 0, 8);
  for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
    set_part(L, held, parts[i].name, parts[i].part);
  close_url(held);
  return 1;
}

static const luaL_Reg functions[] = {
    {"split", f_split},
    {NULL,    NULL   },
};

int luaopen_sbx_core_url(lua_State *L) {
  luaL_newmetatable(L, URL_TYPE);
  lua_pushcfunction(L, gc_url);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
