// sbx.core.host: facts of this run, and what only the host can do.

#define _GNU_SOURCE
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <uv.h>

#include "embedded.h"
#include "host.h"
#include "luax.h"
#include "screen.h"

#ifndef SBXLUA_VERSION
#define SBXLUA_VERSION "0.0.0"
#endif

// executable() -> the path of this program's file
static int f_executable(lua_State *L) {
  char path[4096];
  size_t size = sizeof(path);
  int status = uv_exepath(path, &size);
  if (status != 0) return raise_error(L, status, "executable");
  lua_pushlstring(L, path, size);
  return 1;
}

// isatty(fd) -> whether it is a terminal
static int f_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

// columns(fd) -> the terminal's width in cells and its height, or nil
static int f_columns(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  struct winsize size;
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 0;
  lua_pushinteger(L, size.ws_col);
  lua_pushinteger(L, size.ws_row);
  return 2;
}

// agent() -> the bytes of the sandbox agent, a static program
static int f_agent(lua_State *L) {
  lua_pushlstring(L, (const char *)embedded_agent, embedded_agent_size);
  return 1;
}

// set_abandoned(text): what a second Ctrl-C says was left behind; "" for
// nothing
static int f_set_abandoned(lua_State *L) {
  const char *text = luaL_checkstring(L, 1);
  Host *host = host_of(L);
  // The signal handler reads this: an empty text stands while it changes.
  host->abandoned[0] = '\0';
  (void)snprintf(host->abandoned + 1, sizeof(host->abandoned) - 1, " %s", text);
  if (text[0]) host->abandoned[0] = ';';
  return 0;
}

// observe(fn): fn(event, value) is called for "signal" (its name) and
// "deadlock" (returns the reason). It runs outside every task: it cannot wait.
static int f_observe(lua_State *L) {
  Host *host = host_of(L);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_unref(L, LUA_REGISTRYINDEX, host->observer);
  lua_settop(L, 1);
  host->observer = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

// signal() -> number and whether it came at all: the first signal of this run
static int f_signal(lua_State *L) {
  Host *host = host_of(L);
  if (host->first_signal == 0) return 0;
  lua_pushinteger(L, host->first_signal);
  return 1;
}

// write(fd, bytes): all of them, to a terminal, a file or a pipe. Blocks when
// the reader is slow: for short messages and for print.
static int f_write(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  FILE *stream = fd == STDOUT_FILENO   ? stdout
                 : fd == STDERR_FILENO ? stderr
                                       : NULL;
  luaL_argcheck(L, stream, 1, "expected 1 or 2");
  screen_before_output(L, fd);
  // A flush that failed earlier has lost output: this is the first to say so.
  errno = stream == stdout ? host_of(L)->output_error : 0;
  if (errno == 0 && fwrite(bytes, 1, size, stream) == size) return 0;
  int problem = errno ? errno : EIO;
  return raise_error(L, -problem, "write to std%s", fd == 1 ? "out" : "err");
}

static const luaL_Reg functions[] = {
    {"executable",    f_executable   },
    {"isatty",        f_isatty       },
    {"columns",       f_columns      },
    {"agent",         f_agent        },
    {"set_abandoned", f_set_abandoned},
    {"observe",       f_observe      },
    {"signal",        f_signal       },
    {"write",         f_write        },
    {NULL,            NULL           },
};

int luaopen_sbx_core_host(lua_State *L) {
  luaL_newlib(L, functions);
  lua_pushliteral(L, SBXLUA_VERSION);
  lua_setfield(L, -2, "version");
  return 1;
}
