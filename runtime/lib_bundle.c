// sbx.core.bundle: the script that goes along with this program.

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>

#include "bundle.h"
#include "luax.h"

// mark() -> the bytes of this program's mark, and how many of them are its
// magic
static int f_mark(lua_State *L) {
  BundleMark mark;
  bundle_mark(&mark);
  lua_pushlstring(L, (const char *)&mark, sizeof(mark));
  lua_pushinteger(L, (lua_Integer)sizeof(mark.magic));
  return 2;
}

// is_here() -> whether this run is to run a script that goes along
static int f_is_here(lua_State *L) {
  lua_pushboolean(L, bundle_is_here());
  return 1;
}

// payload() -> its bytes, unchecked; nil where the file is cut short
static int f_payload(lua_State *L) {
  char *bytes;
  size_t size;
  int status = bundle_read(&bytes, &size);
  if (status == -EBADMSG) return 0;
  if (status != 0) return raise_error(L, status, "read this program");
  // Only running out of memory raises here, at the end of the run.
  lua_pushlstring(L, bytes, size);
  free(bytes);
  return 1;
}

static const luaL_Reg functions[] = {
    {"mark",    f_mark   },
    {"is_here", f_is_here},
    {"payload", f_payload},
    {NULL,      NULL     },
};

int luaopen_sbx_core_bundle(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
