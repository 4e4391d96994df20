// sbx.core.screen: tells one Lua function when to draw what stands on a
// terminal beside the output. It keeps no program alive, and what it calls is
// no task and cannot wait.

#define _GNU_SOURCE
#include <lauxlib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "luax.h"
#include "reactor.h"
#include "screen.h"
#include "slow_file.h"
#include "stock_io.h"

#define SCREEN_TYPE "sbx.screen"

enum { TAIL = 1024 };  // bytes of an unfinished line that are kept

typedef struct Screen {
  uv_timer_t timer;     // first: freed in its close callback
  int owner;            // reference to the function
  bool is_terminal[3];  // by descriptor; 0 is not used
  bool due;             // the owner is to be called after this turn
  bool inside;          // it is being called: what it writes is its own
  bool tail_lost;       // the unfinished line is longer than `tail`
  size_t tail_size;
  char tail[TAIL];  // the output's last line, as long as it is unfinished
} Screen;

static void on_time(uv_timer_t *timer) {
  ((Screen *)timer)->due = true;
  // Timers run ahead of the poll, which would sleep over it.
  uv_stop(timer->loop);
}

static void on_closed(uv_handle_t *handle) {
  free(handle);
}

// ---- writing

// The file behind stderr, or NULL when that is closed.
static SlowFile *drawing_file(lua_State *L) {
  const FileHandle *handle = push_standard_handle(L, STDERR_FILENO);
  if (!handle) return NULL;
  lua_pop(L, 1);
  return handle->slow;
}

// Calls owner(what, number). An owner that fails is not called again.
static void call_owner(lua_State *L, const char *what, int number) {
  Screen *screen = reactor_of(L)->screen;
  if (screen->inside || screen->owner == LUA_NOREF || !lua_checkstack(L, 4))
    return;
  screen->inside = true;
  lua_rawgeti(L, LUA_REGISTRYINDEX, screen->owner);
  lua_pushstring(L, what);
  lua_pushinteger(L, number);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
    luaL_unref(L, LUA_REGISTRYINDEX, screen->owner);
    screen->owner = LUA_NOREF;
    uv_timer_stop(&screen->timer);
    const char *text = lua_tostring(L, -1);
    lua_warning(L, "the screen is left alone: ", 1);
    lua_warning(L, text ? text : "its owner failed", 0);
    lua_pop(L, 1);
  }
  screen->inside = false;
}

void screen_before_output(lua_State *L, int number) {
  Screen *screen = reactor_of(L)->screen;
  if (!screen || !screen->is_terminal[number]) return;
  call_owner(L, "output", number);
}

void screen_note_output(lua_State *L, int number, const char *bytes,
                        size_t size) {
  Screen *screen = reactor_of(L)->screen;
  if (!screen || !screen->is_terminal[number]) return;
  const char *line = memrchr(bytes, '\n', size);
  if (line) {
    size -= (size_t)(line + 1 - bytes);
    bytes = line + 1;
    screen->tail_size = 0;
    screen->tail_lost = false;
  }
  if (size > TAIL - screen->tail_size) {
    screen->tail_lost = true;
    size = TAIL - screen->tail_size;
  }
  memcpy(screen->tail + screen->tail_size, bytes, size);
  screen->tail_size += size;
}

void screen_after_turn(lua_State *L) {
  Screen *screen = reactor_of(L)->screen;
  if (!screen || !screen->due) return;
  screen->due = false;
  call_owner(L, "turn", 0);
}

// ---- what Lua calls

static int gc_screen(lua_State *L) {
  Screen **slot = luaL_checkudata(L, 1, SCREEN_TYPE);
  if (!*slot) return 0;
  uv_close((uv_handle_t *)&(*slot)->timer, on_closed);
  reactor_of(L)->screen = NULL;
  *slot = NULL;
  return 0;
}

// Whether stdout and stderr are one terminal. They have one backlog then, in
// which everything keeps its order.
static bool is_same_device(void) {
  struct stat out, err;
  return fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
         out.st_rdev == err.st_rdev;
}

// The state's screen; the registry owns it.
static Screen *get_screen(lua_State *L) {
  Reactor *reactor = reactor_of(L);
  if (reactor->screen) return reactor->screen;
  Screen **slot = lua_newuserdatauv(L, sizeof(Screen *), 0);
  *slot = NULL;
  luaL_setmetatable(L, SCREEN_TYPE);
  lua_setfield(L, LUA_REGISTRYINDEX, SCREEN_TYPE ".slot");
  Screen *screen = calloc(1, sizeof(*screen));
  if (!screen) {
    (void)luaL_error(L, "not enough memory");
    abort();  // not reached
  }
  screen->owner = LUA_NOREF;
  screen->is_terminal[2] = isatty(STDERR_FILENO);
  screen->is_terminal[1] =
      screen->is_terminal[2] && isatty(STDOUT_FILENO) && is_same_device();
  (void)uv_timer_init(&reactor->loop, &screen->timer);
  uv_unref((uv_handle_t *)&screen->timer);
  *slot = screen;
  reactor->screen = screen;
  return screen;
}

// own(fn or nil): fn("output", 1 or 2) is called before output to a terminal,
// and fn("turn") where it was asked for
static int f_own(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  Screen *screen = get_screen(L);
  int before = screen->owner;
  screen->owner = lua_isnil(L, 1) ? LUA_NOREF : luaL_ref(L, LUA_REGISTRYINDEX);
  luaL_unref(L, LUA_REGISTRYINDEX, before);
  if (screen->owner == LUA_NOREF) {
    uv_timer_stop(&screen->timer);
    screen->due = false;
  }
  return 0;
}

// every(seconds or nil): a "turn" that often from now on, on the real clock
static int f_every(lua_State *L) {
  Screen *screen = get_screen(L);
  if (lua_isnoneornil(L, 1)) {
    uv_timer_stop(&screen->timer);
    return 0;
  }
  uint64_t ms = (uint64_t)(check_seconds(L, 1) * 1000);
  uv_update_time(screen->timer.loop);
  uv_timer_start(&screen->timer, on_time, ms, ms > 0 ? ms : 1);
  return 0;
}

// soon(): a "turn" once the tasks that are ready now have run
static int f_soon(lua_State *L) {
  get_screen(L)->due = true;
  return 0;
}

// tail() -> the unfinished last line of the output; nil when it is too long
static int f_tail(lua_State *L) {
  const Screen *screen = get_screen(L);
  if (screen->tail_lost) return 0;
  lua_pushlstring(L, screen->tail, screen->tail_size);
  return 1;
}

// break_line(): the owner has finished that line
static int f_break_line(lua_State *L) {
  Screen *screen = get_screen(L);
  screen->tail_size = 0;
  screen->tail_lost = false;
  return 0;
}

// draw(bytes, force) -> whether they go to the terminal on stderr, after all
// output so far. Where that has not been taken yet they do not, unless forced.
// Never waits.
static int f_draw(lua_State *L) {
  size_t size;
  const char *bytes = luaL_checklstring(L, 1, &size);
  SlowFile *file = drawing_file(L);
  bool taken = file && slow_file_push(file) == 0 &&
               (file->out_count == 0 || lua_toboolean(L, 2)) &&
               slow_file_append(file, bytes, size) == 0 &&
               slow_file_push(file) == 0;
  lua_pushboolean(L, taken);
  return 1;
}

static const luaL_Reg functions[] = {
    {"own",        f_own       },
    {"every",      f_every     },
    {"soon",       f_soon      },
    {"tail",       f_tail      },
    {"break_line", f_break_line},
    {"draw",       f_draw      },
    {NULL,         NULL        },
};

int luaopen_sbx_core_screen(lua_State *L) {
  (void)luaL_newmetatable(L, SCREEN_TYPE);
  lua_pushcfunction(L, gc_screen);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, functions);
  return 1;
}
