// sbx.core.terminal: the terminal on standard input as a line editor needs it.
// Keys come at once and unechoed; output is processed as ever.
//
// A signal handler gives the modes back: the one mutable global here.

#define _GNU_SOURCE
#include "terminal.h"

#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "host.h"
#include "luax.h"
#include "stock_io.h"

static struct termios before;           // the modes to give back
static volatile sig_atomic_t is_raw;    // whether they are to be given back
static volatile sig_atomic_t is_noted;  // whether the end of the process does

void terminal_restore(void) {
  if (!is_raw) return;
  is_raw = 0;
  (void)tcsetattr(STDIN_FILENO, TCSANOW, &before);
}

static struct termios raw_modes(void) {
  struct termios modes = before;
  modes.c_iflag &=
      ~(tcflag_t)(ICRNL | INLCR | IGNCR | IXON | IXOFF | BRKINT | ISTRIP);
  modes.c_lflag &= ~(tcflag_t)(ICANON | ECHO | IEXTEN);
  // What was typed or printed before Ctrl-C is not to be lost.
  modes.c_lflag |= ISIG | NOFLSH;
  modes.c_cc[VMIN] = 1;
  modes.c_cc[VTIME] = 0;
  modes.c_cc[VSUSP] = _POSIX_VDISABLE;  // the modes are given back first
  return modes;
}

// raw() -> whether the terminal now gives each key at once
static int f_raw(lua_State *L) {
  lua_pushboolean(L, true);
  if (is_raw) return 1;
  if (!is_noted) {
    is_noted = 1;
    (void)atexit(terminal_restore);
  }
  bool done = tcgetattr(STDIN_FILENO, &before) == 0;
  if (done) {
    struct termios modes = raw_modes();
    done = tcsetattr(STDIN_FILENO, TCSADRAIN, &modes) == 0;
  }
  is_raw = done;
  lua_pushboolean(L, done);
  return 1;
}

// signals(yes): whether Ctrl-C is a signal, which reaches a program that is
// busy, or a key, in its place among the others
static int f_signals(lua_State *L) {
  struct termios modes;
  if (!is_raw || tcgetattr(STDIN_FILENO, &modes) != 0) return 0;
  modes.c_cc[VINTR] =
      lua_toboolean(L, 1) ? before.c_cc[VINTR] : _POSIX_VDISABLE;
  (void)tcsetattr(STDIN_FILENO, TCSANOW, &modes);
  return 0;
}

// restore(): the modes from before
static int f_restore(lua_State *L) {
  terminal_restore();
  return 0;
}

// suspend(): stops this job, as Ctrl-Z does; returns once it goes on. A job
// that nobody could continue is not stopped.
static int f_suspend(lua_State *L) {
  // The whole job: the shell waits for each process of it.
  (void)kill(0, SIGTSTP);
  return 0;
}

// take() -> the bytes that have been typed, without waiting
static int f_take(lua_State *L) {
  const FileHandle *handle = push_standard_handle(L, STDIN_FILENO);
  SlowFile *file = handle ? handle->slow : NULL;
  if (!file) {
    lua_pushliteral(L, "");
    return 1;
  }
  (void)slow_file_fill(file);
  size_t count = file->in_count;
  lua_pushlstring(L, count > 0 ? slow_file_unread(file) : "", count);
  slow_file_take(file, count);
  return 1;
}

// keep_on(yes): whether SIGINT is told to the observer as "interrupt" and ends
// neither the program nor, unless that cancels it, what is running
static int f_keep_on(lua_State *L) {
  host_of(L)->keeps_on = lua_toboolean(L, 1);
  return 0;
}

static const luaL_Reg functions[] = {
    {"raw",     f_raw    },
    {"signals", f_signals},
    {"restore", f_restore},
    {"suspend", f_suspend},
    {"take",    f_take   },
    {"keep_on", f_keep_on},
    {NULL,      NULL     },
};

int luaopen_sbx_core_terminal(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
