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
#include "place.h"
#include "screen.h"
#include "stock_io.h"

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

// ssh() -> the bytes of the program that speaks SSH; "" where there is none
static int f_ssh(lua_State *L) {
  lua_pushlstring(L, (const char *)embedded_ssh, embedded_ssh_size);
  return 1;
}

// file(name) -> the bytes of a file of the library, "sbx/a/b.css", of a page,
// "docs/http.md", or the source of a module, "sbx.http"; or nil. From the
// folder SBXLUA_LUA where that is set.
static int f_file(lua_State *L) {
  return embedded_push(L, luaL_checkstring(L, 1)) ? 1 : 0;
}

// files(prefix) -> the names of all files in the binary that begin so, sorted
static int f_files(lua_State *L) {
  const char *prefix = luaL_checkstring(L, 1);
  lua_newtable(L);
  lua_Integer count = 0;
  for (size_t i = 0; i < embedded_count; i++) {
    if (strncmp(embedded_files[i].name, prefix, strlen(prefix)) != 0) continue;
    lua_pushstring(L, embedded_files[i].name);
    lua_rawseti(L, -2, ++count);
  }
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

// observe(fn): fn(event, value) is called for "signal" (its name), "deadlock"
// (returns the reason), "tree" (SIGQUIT) and "slow" (what held the loop). It
// cannot wait.
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

// write(fd, bytes): like print, to 1 or 2. Waits while a slow reader has much
// to catch up with; where the VM cannot suspend, it blocks.
static int f_write(lua_State *L) {
  lua_Integer fd = luaL_checkinteger(L, 1);
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  luaL_argcheck(L, fd == STDOUT_FILENO || fd == STDERR_FILENO, 1,
                "expected 1 or 2");
  return stock_write(L, (int)fd, bytes, size);
}

// exit_status() -> what os.exit was called with; nothing before
static int f_exit_status(lua_State *L) {
  if (!host_of(L)->exits) return 0;
  lua_pushinteger(L, host_of(L)->exit_status);
  return 1;
}

// place(task) -> the innermost line of the script that it is in, or nil
static int f_place(lua_State *L) {
  char place[PLACE_SIZE];
  if (!place_of_task(luaL_checkudata(L, 1, TASK_TYPE), place)) return 0;
  lua_pushstring(L, place);
  return 1;
}

// hurry(): the end of the run does not wait for whoever reads our output
static int f_hurry(lua_State *L) {
  host_of(L)->hurried = true;
  return 0;
}

static const luaL_Reg functions[] = {
    {"executable",    f_executable   },
    {"isatty",        f_isatty       },
    {"columns",       f_columns      },
    {"agent",         f_agent        },
    {"ssh",           f_ssh          },
    {"file",          f_file         },
    {"files",         f_files        },
    {"set_abandoned", f_set_abandoned},
    {"observe",       f_observe      },
    {"signal",        f_signal       },
    {"write",         f_write        },
    {"exit_status",   f_exit_status  },
    {"place",         f_place        },
    {"hurry",         f_hurry        },
    {NULL,            NULL           },
};

int luaopen_sbx_core_host(lua_State *L) {
  luaL_newlib(L, functions);
  lua_pushliteral(L, SBXLUA_VERSION);
  lua_setfield(L, -2, "version");
  return 1;
}
