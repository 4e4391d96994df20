// sbx.core.stock: what the Lua part of the replaced stock functions needs.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "luax.h"
#include "stock_io.h"

static int finish_slow(lua_State *L, int status, lua_KContext context) {
  return lua_gettop(L);
}

static int choose(lua_State *L) {
  bool slow = false;
  if (lua_isnoneornil(L, 1)) {
    slow = push_standard_handle(L, 0);
    if (slow) lua_pop(L, 1);
  } else if (lua_isstring(L, 1)) {
    slow = is_slow_path(lua_tostring(L, 1));
  }
  if (!slow) return call_stock(L);
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, finish_slow);
  return lua_gettop(L);
}

// pipe(mode) -> file, fd: our end of a new pipe, which reads ("r") or writes
// ("w"), and the other one for a child, to be closed by close_fd
static int f_pipe(lua_State *L) {
  const char *mode = luaL_checkstring(L, 1);
  bool reads = mode[0] == 'r';
  FileHandle *handle = push_closed_handle(L, -1, mode);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return raise_error(L, -errno, "popen");
  int ours = ends[reads ? 0 : 1];
  int theirs = ends[reads ? 1 : 0];
  (void)fcntl(ours, F_SETFL, O_NONBLOCK);
  FILE *stream = fdopen(ours, mode);
  int status = stream ? open_handle(reactor_of(L), handle, stream) : -errno;
  if (status != 0) {
    (void)(stream ? fclose(stream) : close(ours));
    (void)close(theirs);
    return raise_error(L, status, "popen");
  }
  lua_pushinteger(L, theirs);
  return 2;
}

// close_fd(fd): of `pipe`
static int f_close_fd(lua_State *L) {
  (void)close((int)luaL_checkinteger(L, 1));
  return 0;
}

// set_closer(file, fn): fn(failed) gives the results of file:close(), in the
// end; `failed` when an error ended the block of its variable
static int f_set_closer(lua_State *L) {
  FileHandle *handle = slow_handle(L, 1);
  luaL_argcheck(L, handle, 1, "no slow file");
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, HANDLE_CLOSER);
  return 0;
}

// instead(stock, slow) -> a function that calls `slow` if its first argument
// names a slow file, or is absent and the standard input is slow; else `stock`
static int f_instead(lua_State *L) {
  luaL_argcheck(L, lua_iscfunction(L, 1), 1, "no C function");
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  lua_pushcclosure(L, choose, 2);
  return 1;
}

// The stock checks of the arguments; then the Lua function in the upvalue.
static int call_implementation(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, finish_slow);
  return lua_gettop(L);
}

static int f_popen(lua_State *L) {
  (void)luaL_checkstring(L, 1);
  const char *mode = luaL_optstring(L, 2, "r");
  luaL_argcheck(L, (mode[0] == 'r' || mode[0] == 'w') && !mode[1], 2,
                "invalid mode");
  return call_implementation(L);
}

static int f_execute(lua_State *L) {
  (void)luaL_optstring(L, 1, NULL);
  return call_implementation(L);
}

// commands(popen, execute) -> io.popen, os.execute: the same as C functions,
// which check the arguments
static int f_commands(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, f_popen, 1);
  lua_pushvalue(L, 2);
  lua_pushcclosure(L, f_execute, 1);
  return 2;
}

// push(): hands over what is buffered, as far as nobody has to wait
static int f_push(lua_State *L) {
  slow_files_push(reactor_of(L)->slow_files, false);
  (void)fflush(stdout);
  return 0;
}

// Until no file has a backlog.
static int end_drain(lua_State *L, int yielded, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait && wait->status == UV_ECANCELED)
    return raise_error(L, UV_ECANCELED, "flush");
  lua_settop(L, 0);
  SlowFiles *all = reactor_of(L)->slow_files;
  slow_files_push(all, false);
  SlowFile *file = all->first;
  while (file && file->out_count == 0)
    file = file->next;
  return file ? await_output(L, file, 0, end_drain) : 0;
}

// drain(): waits until all that was written to slow files is through
static int f_drain(lua_State *L) {
  return end_drain(L, LUA_OK, 0);
}

static const luaL_Reg functions[] = {
    {"pipe",       f_pipe      },
    {"close_fd",   f_close_fd  },
    {"set_closer", f_set_closer},
    {"instead",    f_instead   },
    {"commands",   f_commands  },
    {"push",       f_push      },
    {"drain",      f_drain     },
    {NULL,         NULL        },
};

int luaopen_sbx_core_stock(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
