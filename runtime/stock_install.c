// How the stock functions make room for ours, and the standard files.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "luax.h"
#include "stock_io.h"

// Registry keys of the standard files' handles.
static const char standard_keys[3];

FileHandle *push_standard_handle(lua_State *L, int number) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &standard_keys[number]);
  return keep_if_slow(L);
}

// Whether this VM miscompiles `break` out of a loop with a closing value, as
// releases up to 5.4.4 do: found out when the library is installed.
static bool loses_closing_values(lua_State *L) {
  static const char text[] =
      "local calls = {}\n"
      "local closing = setmetatable({}, { __close = function() end })\n"
      "local function step(_, n) return (n or 0) + 1 end\n"
      "for i in step, nil, nil, closing do\n"
      "  calls[1] = function() return i end\n"
      "  break\n"
      "end\n"
      "return (rawequal(calls, nil))\n";
  lua_State *co = lua_newthread(L);
  bool fails =
      luaL_loadstring(co, text) != LUA_OK || lua_pcall(co, 0, 0, 0) != LUA_OK;
  lua_pop(L, 1);
  return fails;
}

// A terminal's own file description, so that O_NONBLOCK concerns nobody else;
// -1 where there is none to be had.
static int reopen_terminal(int fd) {
  if (!isatty(fd)) return -1;
  char path[32];
  (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  int access = fd == 0 ? O_RDONLY : O_WRONLY;
  return open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

// The slow file of the standard output, if the standard error goes to the same
// place, so that the order of what both are given is kept.
static SlowFile *share_output(lua_State *L, const struct stat *info) {
  struct stat output;
  if (fstat(1, &output) != 0 || output.st_dev != info->st_dev ||
      output.st_ino != info->st_ino)
    return NULL;
  const FileHandle *handle = push_standard_handle(L, 1);
  if (!handle) return NULL;
  lua_pop(L, 1);
  handle->slow->holders++;
  return handle->slow;
}

static SlowFile *open_standard(lua_State *L, int number) {
  SlowFiles *all = reactor_of(L)->slow_files;
  struct stat info;
  if (fstat(number, &info) != 0 || !is_slow_kind(&info)) return NULL;
  if (!slow_files_can_watch(all, number)) return NULL;
  SlowFile *slow = number == 2 ? share_output(L, &info) : NULL;
  if (slow) return slow;
  int own = reopen_terminal(number);
  slow = slow_file_new(all, NULL, own < 0 ? number : own, own >= 0);
  if (!slow && own >= 0) (void)close(own);
  if (slow) slow->is_output = number == 1;
  return slow;
}

// Puts a handle of ours in the place of a standard file's. `io` is on top.
static void install_standard(lua_State *L, int number) {
  static const char *const names[] = {"stdin", "stdout", "stderr"};
  static const char *const defaults[] = {DEFAULT_INPUT, DEFAULT_OUTPUT, NULL};
  FILE *const streams[] = {stdin, stdout, stderr};
  FileHandle *handle = push_closed_handle(L, number, number == 0 ? "r" : "w");
  handle->slow = open_standard(L, number);
  if (!handle->slow) {
    lua_pop(L, 1);
    return;
  }
  handle->stock.f = streams[number];
  handle->stock.closef = push_no_close;
  handle->by_line = isatty(number);
  if (number == 2) handle->buffer = 0;
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &standard_keys[number]);
  if (defaults[number]) {
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, defaults[number]);
  }
  lua_setfield(L, -2, names[number]);
}

// Puts closures over the functions of the table on top, each with the function
// that it replaces, and with a boolean, as its upvalues.
static void replace(lua_State *L, const luaL_Reg *functions, bool flag) {
  for (; functions->name; functions++) {
    lua_getfield(L, -1, functions->name);
    lua_pushboolean(L, flag);
    lua_pushcclosure(L, functions->func, 2);
    lua_setfield(L, -2, functions->name);
  }
}

void stock_io_install(lua_State *L) {
  static const luaL_Reg library[] = {
      {"close",  f_io_close },
      {"flush",  f_io_flush },
      {"input",  f_io_input },
      {"lines",  f_io_lines },
      {"open",   f_io_open  },
      {"output", f_io_output},
      {"read",   f_io_read  },
      {"write",  f_io_write },
      {NULL,     NULL       },
  };
  static const luaL_Reg methods[] = {
      {"close",   f_file_close  },
      {"flush",   f_file_flush  },
      {"lines",   f_file_lines  },
      {"read",    f_file_read   },
      {"seek",    f_file_seek   },
      {"setvbuf", f_file_setvbuf},
      {"write",   f_file_write  },
      {NULL,      NULL          },
  };
  static const luaL_Reg metamethods[] = {
      {"__gc",    gc_handle     },
      {"__close", close_variable},
      {NULL,      NULL          },
  };
  lua_getglobal(L, "io");
  for (int number = 0; number < 3; number++)
    install_standard(L, number);
  replace(L, library, loses_closing_values(L));
  luaL_getmetatable(L, LUA_FILEHANDLE);
  replace(L, metamethods, false);
  lua_getfield(L, -1, "__index");
  replace(L, methods, false);
  lua_pop(L, 3);
  lua_register(L, "print", f_print);
  lua_getglobal(L, "os");
  lua_pushcfunction(L, f_os_exit);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
}
