// Makes the Lua state, runs the main task, ends both in order.

#define _GNU_SOURCE
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child_limit.h"
#include "core_modules.h"
#include "embedded.h"
#include "luax.h"
#include "stock_io.h"
#include "task.h"
#include "transfer.h"
#include "watchdog.h"

// Where our parent closed one of these, the loop's own descriptors would take
// its number, and what is printed would go into them.
static void fill_standard_descriptors(void) {
  for (int fd = 0; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);
}

// Descriptors that our own parent left open are no business of our children.
static void seal_descriptors(void) {
  (void)close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
}

// ---- finding the library

// find(name) -> loader, chunk name; or nil. The library's chunks are called
// "@sbx/...", wherever they come from, so that reports can tell them apart.
static int f_find(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  luaL_gsub(L, name, ".", "/");
  const char *chunk = lua_pushfstring(L, "@%s.lua", lua_tostring(L, -1));
  bool found;
  if (embedded_load(L, name, chunk, &found) != LUA_OK) return lua_error(L);
  if (!found) return 0;
  lua_pushstring(L, chunk);
  return 2;
}

// ---- the state

// Warnings are on from the start: errors in __gc metamethods are among them.
// `parameter` is the Host.
static void on_warning(void *parameter, const char *text, int more) {
  Host *host = parameter;
  bool begins = !host->warning_goes_on;
  host->warning_goes_on = more;
  if (begins && !more && text[0] == '@') {
    if (strcmp(text, "@off") == 0) host->warnings_off = true;
    if (strcmp(text, "@on") == 0) host->warnings_off = false;
    return;
  }
  if (host->warnings_off) return;
  if (begins) {
    slow_files_push(&host->slow_files, false);
    (void)fflush(stdout);
    (void)fputs("Lua warning: ", stderr);
  }
  (void)fputs(text, stderr);
  if (!more) (void)fputc('\n', stderr);
}

// Runs protected. Argument: the Host. Leaves the main task's function, the
// arguments' table.
static int prepare(lua_State *L) {
  Host *host = lua_touserdata(L, 1);
  luaL_openlibs(L);
  lua_setwarnf(L, on_warning, host);
  lua_gc(L, LUA_GCGEN, 0, 0);
  coroutine_install(L);
  stock_io_install(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  luaL_setfuncs(L, core_modules, 0);
  lua_pop(L, 1);
  for (const luaL_Reg *module = core_modules; module->name; module++) {
    // These define types that others rely on.
    if (strcmp(module->name, "sbx.core.errors") != 0 &&
        strcmp(module->name, "sbx.core.task") != 0)
      continue;
    luaL_requiref(L, module->name, module->func, 0);
    lua_pop(L, 1);
  }

  lua_pushcfunction(L, f_find);
  lua_pushliteral(L, "sbx.loader");
  lua_call(L, 1, 1);
  if (lua_isnil(L, -1))
    return luaL_error(L, "the library is missing: check SBXLUA_LUA");
  lua_pushcfunction(L, f_find);
  lua_call(L, 1, 1);  // the loader installs `require` and returns the start

  lua_createtable(L, host->argc, 0);
  for (int i = 0; i < host->argc; i++) {
    lua_pushstring(L, host->argv[i]);
    lua_rawseti(L, -2, i);
  }
  return 2;
}

void host_observe(lua_State *L, const char *event) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, host_of(L)->observer);  // value, observer
  lua_insert(L, -2);
  lua_pushstring(L, event);
  lua_insert(L, -2);  // observer, event, value
  if (lua_pcall(L, 2, 1, 0) == LUA_OK) return;
  lua_pop(L, 1);
  lua_pushnil(L);
}

static void on_deadlock(lua_State *L) {
  lua_pushnil(L);
  host_observe(L, "deadlock");
}

// Runs protected. Arguments: the main function and its argument. Returns the
// exit status.
static int run(lua_State *L) {
  Task *task = task_spawn(L, NULL, 1, false, false);
  if (!task_loop(L, task)) {
    (void)fputs(
        "sbxlua: deadlock: every task waits for another, and cancelling "
        "them did not help\n",
        stderr);
    lua_pushinteger(L, 1);
    return 1;
  }
  lua_getiuservalue(L, -1, TASK_OUTCOME);
  if (task->result != RESULT_OK) {
    const char *text = luaL_tolstring(L, -1, NULL);
    (void)fprintf(stderr, "sbxlua: %s\n", text);
    lua_pushinteger(L, 1);
    return 1;
  }
  lua_rawgeti(L, -1, 1);
  return 1;
}

// Whoever reads our output sees it before the program waits, also in a pipe.
static void on_before_wait(uv_prepare_t *prepare) {
  Host *host = prepare->data;
  slow_files_push(&host->slow_files, false);
  // A writer that this was enough for must not be slept over.
  if (host->reactor.ready_first) uv_stop(prepare->loop);
  if (host->output_error == 0 && fflush(stdout) != 0)
    host->output_error = errno;
}

static int flush_before_waits(Host *host) {
  int status = uv_prepare_init(&host->reactor.loop, &host->before_wait);
  if (status != 0) return status;
  host->before_wait.data = host;
  uv_unref((uv_handle_t *)&host->before_wait);
  return uv_prepare_start(&host->before_wait, on_before_wait);
}

static int run_state(Host *host, lua_State *L) {
  int status = 1;
  lua_pushcfunction(L, prepare);
  lua_pushlightuserdata(L, host);
  if (lua_pcall(L, 1, 2, 0) == LUA_OK) {  // function, arguments
    lua_pushcfunction(L, run);
    lua_insert(L, 1);
    if (lua_pcall(L, 2, 1, 0) == LUA_OK) {
      status = (int)lua_tointeger(L, -1);
      lua_settop(L, 0);
      return status;
    }
  }
  (void)fprintf(stderr, "sbxlua: %s\n", luaL_tolstring(L, -1, NULL));
  lua_settop(L, 0);
  return status;
}

// The exit status of a run whose output may have been lost.
static int check_output(Host *host, int status) {
  int problem = host->slow_files.output_error;
  if (problem == 0) problem = -host->output_error;  // why, while it was known
  errno = 0;
  if (problem == 0 && (fflush(stdout) != 0 || ferror(stdout)))
    problem = errno != 0 ? -errno : UV_EIO;
  // A run that failed has told why; mostly it was this.
  if (problem == 0 || status != 0) return status;
  // The reader is gone: end as quietly as a program that SIGPIPE stopped.
  if (problem == UV_EPIPE) return 128 + SIGPIPE;
  if (problem == UV_ETIMEDOUT)
    (void)fputs("sbxlua: write to stdout: nobody took the last of it\n",
                stderr);
  else
    (void)fprintf(stderr, "sbxlua: write to stdout: %s\n", strerror(-problem));
  return 1;
}

int host_run(int argc, char **argv) {
  fill_standard_descriptors();
  seal_descriptors();
  child_limit_raise();  // thousands of connections need it
  (void)signal(SIGPIPE, SIG_IGN);
  // Before the pool's first use; more than the default of 4, because file work
  // of many tasks shares it.
  (void)setenv("UV_THREADPOOL_SIZE", "16", 0);

  Host *host = calloc(1, sizeof(*host));
  lua_State *L = luaL_newstate();
  if (!host || !L || reactor_open(&host->reactor, L) != 0) {
    (void)fputs("sbxlua: out of memory or descriptors at start\n", stderr);
    free(host);
    return 1;
  }
  host->argc = argc;
  host->argv = argv;
  host->observer = LUA_NOREF;
  host->reactor.on_deadlock = on_deadlock;
  host->reactor.slow_files = &host->slow_files;
  int status = flush_before_waits(host);
  if (status == 0) status = signals_open(host);
  if (status == 0)
    status = slow_files_open(&host->slow_files, &host->reactor.loop,
                             &host->first_signal);
  if (status != 0) {
    (void)fprintf(stderr, "sbxlua: cannot start: %s\n", uv_strerror(status));
    status = 1;
  } else {
    // Where it has no timer or no signal, as under valgrind, there is none.
    (void)watchdog_open(&host->reactor.watchdog, &host->reactor);
    status = run_state(host, L);
    // Refuse new waits, let go of connections, then of Lua, then of the loop.
    host->reactor.closing = true;
    signals_close(host);
    watchdog_close(host->reactor.watchdog);
    host->reactor.watchdog = NULL;
    transfer_pool_close(&host->reactor);
    lua_close(L);
    slow_files_push(&host->slow_files, !host->hurried);
    slow_files_close(&host->slow_files);
    transfer_pool_free(&host->reactor);
    reactor_close(&host->reactor);
    if (host->exits && status == 0) status = host->exit_status;
    status = check_output(host, status);
  }
  free(host);
  return status;
}
