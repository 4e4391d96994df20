// sbx.core.process: child processes by uv_spawn. A child's block is held by Lua
// and by the loop, and freed by the one that lets go last: a child that runs on
// after its object was collected is still reaped.

#define _GNU_SOURCE  // environ, close_range
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child_fd.h"
#include "child_group.h"
#include "luax.h"
#include "reactor.h"
#include "stream.h"
#include "wait.h"

#define PROCESS_TYPE "sbx.process"
#define MAX_FDS 64

typedef struct ExitWait ExitWait;

typedef struct Process {
  uv_process_t handle;  // first, so that a uv_process_t * is a Process *
  ExitWait *waiters;    // everybody suspended in wait()
  int code;             // once exited; 128 + signal when it was killed
  int signal;           // what killed it, else 0
  bool detached;        // it leads its own session and process group
  bool sweeps;          // at its exit the rest of its group is killed
  bool group_gone;      // its number may be another group's by now
  bool released;        // it may outlive the program
  bool running;
  bool held_by_loop;  // until the close callback of the handle
} Process;

struct ExitWait {
  Wait wait;
  Process *process;
  ExitWait *previous, *next;
};

// Everything that uv_spawn wants, gathered before anything is opened.
typedef struct Spawn {
  uv_process_options_t options;
  uv_stdio_container_t stdio[MAX_FDS];
  ChildFd fds[MAX_FDS];
  int count;
} Spawn;

// Exit

static void on_closed(uv_handle_t *handle) {
  Process *process = (Process *)handle;
  process->held_by_loop = false;
  if (handle->data == NULL) free(process);  // Lua let go before
}

static void on_exit_child(uv_process_t *handle, int64_t code, int signal) {
  Process *process = (Process *)handle;
  process->running = false;
  process->signal = signal;
  process->code = signal != 0 ? 128 + signal : (int)code;
  // A group that still has members keeps its number from being given away.
  if (process->detached) {
    int with = process->sweeps ? SIGKILL : 0;
    process->group_gone = kill(-handle->pid, with) != 0;
  }
  while (process->waiters != NULL)
    wait_settle(&process->waiters->wait, 0);
  uv_close((uv_handle_t *)handle, on_closed);
}

static void close_exit_wait(Wait *wait) {
  ExitWait *op = (ExitWait *)wait;
  Process *process = op->process;
  if (op->previous != NULL) op->previous->next = op->next;
  if (op->next != NULL) op->next->previous = op->previous;
  if (process->waiters == op) process->waiters = op->next;
  if (process->waiters == NULL) uv_unref((uv_handle_t *)&process->handle);
  wait_done(wait);
}

// Opens all ends and starts the child. On failure the streams stay with their
// userdata and the process handle is closed.
static int start(uv_loop_t *loop, Process *process, Spawn *spawn) {
  int status = 0;
  for (int i = 0; i < spawn->count && status == 0; i++) {
    ChildFd *fd = &spawn->fds[i];
    uv_stdio_container_t *container = &spawn->stdio[fd->number];
    status = child_fd_open(loop, fd, spawn->options.file);
    container->flags = UV_INHERIT_FD;
    container->data.fd = fd->kind == FD_INHERIT ? fd->from : fd->opened;
  }
  if (status == 0) {
    // Libraries open descriptors that a child would inherit: libcurl does.
    (void)close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    process->held_by_loop = true;
    status = uv_spawn(loop, &process->handle, &spawn->options);
    if (status == 0) {
      process->running = true;
      // Only somebody who waits for it keeps the loop going.
      uv_unref((uv_handle_t *)&process->handle);
    } else {
      uv_close((uv_handle_t *)&process->handle, on_closed);
    }
  }
  for (int i = 0; i < spawn->count; i++) {
    child_fd_close(&spawn->fds[i], status == 0);
  }
  return status;
}

// Options

// The string at the top of the stack, which stays owned by a table. Raises for
// another type and for a zero byte, where the system would cut it.
static char *check_text(lua_State *L, const char *name) {
  size_t size = 0;
  const char *text =
      lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &size) : NULL;
  if (text == NULL) {
    luaL_error(L, "%s: expected a string", name);
  } else if (strlen(text) != size) {
    luaL_error(L, "%s: contains a zero byte", name);
  }
  lua_pop(L, 1);
  return (char *)text;  // libuv's type lacks a const; it does not write
}

// The array of strings in field `name` as a NULL-ended vector, which stays on
// the stack; NULL, and nothing pushed, when the field is nil.
static char **check_vector(lua_State *L, const char *name) {
  int type = lua_getfield(L, 1, name);
  if (type == LUA_TNIL) {
    lua_pop(L, 1);
    return NULL;
  }
  if (type != LUA_TTABLE) luaL_error(L, "%s: expected a table", name);
  lua_Unsigned count = lua_rawlen(L, -1);
  if (count > INT_MAX / 16) luaL_error(L, "%s: too long", name);
  char **vector = lua_newuserdatauv(L, (count + 1) * sizeof(*vector), 0);
  for (lua_Unsigned i = 0; i < count; i++) {
    lua_rawgeti(L, -2, (lua_Integer)i + 1);
    vector[i] = check_text(L, name);
  }
  vector[count] = NULL;
  lua_remove(L, -2);
  return vector;
}

// Reads the entry of `stdio` at the top of the stack. `fds` is the index of the
// table that collects the streams.
static void check_fd(lua_State *L, Spawn *spawn, int fds) {
  static const char *const kinds[] = {"pipe",  "socket", "null", "inherit",
                                      "bytes", "listen", NULL};
  int entry = lua_gettop(L);
  if (!lua_istable(L, entry)) luaL_error(L, "stdio: expected tables");
  if (spawn->count == MAX_FDS) luaL_error(L, "stdio: too many entries");
  lua_Integer number = field_integer(L, entry, "fd", -1);
  if (number < 0 || number >= MAX_FDS) {
    luaL_error(L, "stdio: fd must be 0 to %d", MAX_FDS - 1);
  }
  for (int i = 0; i < spawn->count; i++) {
    if (spawn->fds[i].number == number) luaL_error(L, "stdio: fd given twice");
  }
  ChildFd *fd = &spawn->fds[spawn->count];
  fd->number = (int)number;
  fd->opened = -1;
  const char *kind = field_string(L, entry, "kind", "");
  int index = 0;
  while (kinds[index] != NULL && strcmp(kinds[index], kind) != 0)
    index++;
  if (kinds[index] == NULL) luaL_error(L, "stdio: unknown kind '%s'", kind);
  fd->kind = (ChildFdKind)index;
  lua_Integer from = field_integer(L, entry, "from", number);
  if (from < 0 || from > INT_MAX) luaL_error(L, "stdio: from out of range");
  fd->from = (int)from;
  if (fd->kind == FD_BYTES) {
    lua_getfield(L, entry, "data");
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "stdio: data missing");
    fd->data = lua_tolstring(L, -1, &fd->size);
  }
  if (fd->kind == FD_LISTEN) {
    lua_getfield(L, entry, "path");
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "stdio: path missing");
    fd->data = lua_tolstring(L, -1, &fd->size);
    if (fd->size == 0 || strlen(fd->data) != fd->size)
      luaL_error(L, "stdio: path is empty or contains a zero byte");
  }
  if (fd->kind == FD_PIPE || fd->kind == FD_SOCKET) {
    fd->slot = stream_push(L);
    lua_rawseti(L, fds, number);
  }
  if (number >= spawn->options.stdio_count) {
    spawn->options.stdio_count = (int)number + 1;
  }
  spawn->count++;
  lua_settop(L, entry - 1);
}

static void check_stdio(lua_State *L, Spawn *spawn, int fds) {
  spawn->options.stdio_count = 3;  // not named: /dev/null
  for (int i = 0; i < MAX_FDS; i++)
    spawn->stdio[i].flags = UV_IGNORE;
  if (lua_getfield(L, 1, "stdio") != LUA_TNIL) {
    luaL_checktype(L, -1, LUA_TTABLE);
    int list = lua_gettop(L);
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
      check_fd(L, spawn, fds);
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static unsigned check_id(lua_State *L, const char *name, unsigned flag,
                         unsigned *flags) {
  lua_Integer id = field_integer(L, 1, name, -1);
  if (id < -1 || id >= UINT_MAX) luaL_error(L, "%s: out of range", name);
  if (id >= 0) *flags |= flag;
  return (unsigned)id;
}

static Process *check_process(lua_State *L) {
  Process **slot = luaL_checkudata(L, 1, PROCESS_TYPE);
  // Only another object's finalizer can still hold a collected one.
  if (*slot == NULL) luaL_error(L, "the process object is collected");
  return *slot;
}

// spawn{file, args, env?, cwd?, uid?, gid?, detached?, stdio?} → Process.
// `args` is the whole argv; `env` an array of "NAME=value" (nil: ours); `file`
// without a slash is looked for in the child's PATH. Raises io errors.
static int f_spawn(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  Process **slot = lua_newuserdatauv(L, sizeof(Process *), 1);
  *slot = NULL;
  luaL_setmetatable(L, PROCESS_TYPE);
  lua_newtable(L);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, 2, 1);
  Spawn *spawn = lua_newuserdatauv(L, sizeof(*spawn), 0);
  memset(spawn, 0, sizeof(*spawn));  // options, process, fds, spawn

  uv_process_options_t *options = &spawn->options;
  lua_getfield(L, 1, "file");
  options->file = check_text(L, "file");
  if (lua_getfield(L, 1, "cwd") == LUA_TNIL) {
    lua_pop(L, 1);
  } else {
    options->cwd = check_text(L, "cwd");
  }
  options->args = check_vector(L, "args");
  if (options->args == NULL || options->args[0] == NULL) {
    return luaL_error(L, "args: expected the program's name at least");
  }
  options->env = check_vector(L, "env");
  options->uid = check_id(L, "uid", UV_PROCESS_SETUID, &options->flags);
  options->gid = check_id(L, "gid", UV_PROCESS_SETGID, &options->flags);
  bool detached = field_boolean(L, 1, "detached", false);
  if (detached) options->flags |= UV_PROCESS_DETACHED;
  check_stdio(L, spawn, 3);
  options->stdio = spawn->stdio;
  options->exit_cb = on_exit_child;

  Process *process = calloc(1, sizeof(*process));
  if (process == NULL) return raise_error(L, UV_ENOMEM, "spawn");
  *slot = process;
  process->handle.data = slot;
  process->detached = detached;
  int status = start(&reactor_of(L)->loop, process, spawn);
  if (status == 0) {
    lua_settop(L, 2);
    return 1;
  }
  if (options->cwd != NULL && access(options->cwd, X_OK) != 0) {
    return raise_error(L, status, "spawn %s in %s", options->file,
                       options->cwd);
  }
  return raise_error(L, status, "spawn %s", options->file);
}

// pid() → our own.
static int f_pid(lua_State *L) {
  lua_pushinteger(L, uv_os_getpid());
  return 1;
}

// executable(path) → whether it is a file that we may execute.
static int f_executable(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat facts;
  lua_pushboolean(L, stat(path, &facts) == 0 && S_ISREG(facts.st_mode) &&
                         access(path, X_OK) == 0);
  return 1;
}

// environ() → {NAME = value}: our own environment.
static int f_environ(lua_State *L) {
  lua_newtable(L);
  for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
    const char *equals = strchr(*entry, '=');
    if (equals == NULL) continue;
    lua_pushlstring(L, *entry, (size_t)(equals - *entry));
    lua_pushstring(L, equals + 1);
    lua_rawset(L, -3);
  }
  return 1;
}

// The object

static int end_wait(lua_State *L, int status, lua_KContext context) {
  const Wait *wait = (const Wait *)context;
  if (wait->status != 0) return raise_error(L, wait->status, "wait");
  const Process *process = check_process(L);
  lua_pushinteger(L, process->code);
  if (process->signal == 0) return 1;
  lua_pushinteger(L, process->signal);
  return 2;
}

// wait() → code, signal: of the ended child, as often as asked. A child that a
// signal killed has code 128 + signal. Waits.
static int f_wait(lua_State *L) {
  Process *process = check_process(L);
  ExitWait *op = wait_new(L, sizeof(*op), close_exit_wait, "child");
  op->process = process;
  op->next = process->waiters;
  if (op->next != NULL) op->next->previous = op;
  process->waiters = op;
  if (process->running) {
    uv_ref((uv_handle_t *)&process->handle);
  } else {
    wait_settle(&op->wait, 0);
  }
  return wait_yield(L, &op->wait, end_wait);
}

static int check_signal(lua_State *L) {
  lua_Integer signal = luaL_checkinteger(L, 2);
  luaL_argcheck(L, signal > 0 && signal <= 64, 2, "not a signal");
  return (int)signal;
}

// kill(signal) → sent: false once the child has ended.
static int f_kill(lua_State *L) {
  Process *process = check_process(L);
  int signal = check_signal(L);
  int status = UV_ESRCH;
  // While it runs for libuv it is not reaped: the number is still its own.
  if (process->running) status = uv_process_kill(&process->handle, signal);
  if (status != 0 && status != UV_ESRCH) return raise_error(L, status, "kill");
  lua_pushboolean(L, status == 0);
  return 1;
}

// kill_group(signal, sweep?) → sent: the child and its descendants that stayed
// in its group; only for a detached child. With `sweep`, what is left of the
// group when the child ends is killed for good.
static int f_kill_group(lua_State *L) {
  Process *process = check_process(L);
  int signal = check_signal(L);
  if (!process->detached) return luaL_error(L, "the child is not detached");
  int status = 0;
  if (process->running) {
    if (lua_toboolean(L, 3)) process->sweeps = true;
    if (kill(-process->handle.pid, signal) != 0) status = -errno;
    if (status != 0) return raise_error(L, status, "kill");
  }
  lua_pushboolean(L, process->running);
  return 1;
}

// kill_rest(signal?) → left: whether any of the child's group runs on after the
// child; if so, signals them. To be asked often once the child has ended: after
// a pause, a stranger may have got the group's number.
static int f_kill_rest(lua_State *L) {
  Process *process = check_process(L);
  int signal = lua_isnoneornil(L, 2) ? 0 : check_signal(L);
  if (process->running || !process->detached) return luaL_error(L, "too early");
  int group = process->handle.pid;
  if (!process->group_gone && !child_group_runs(group))
    process->group_gone = true;
  bool left = !process->group_gone;
  if (left && signal != 0) (void)kill(-group, signal);  // gone: as wanted
  lua_pushboolean(L, left);
  return 1;
}

// unref(): lets the child outlive the program.
static int f_unref(lua_State *L) {
  check_process(L)->released = true;
  return 0;
}

// Nobody waits any more at the end of the program: the child is asked to end
// too, unless it was let go.
static void leave_behind(Process *process) {
  int pid = process->handle.pid;
  if (!process->released) {
    (void)kill(process->detached ? -pid : pid, SIGTERM);
  }
  uv_close((uv_handle_t *)&process->handle, on_closed);
}

static int gc_process(lua_State *L) {
  Process **slot = lua_touserdata(L, 1);
  Process *process = *slot;
  *slot = NULL;
  if (process == NULL) return 0;
  process->handle.data = NULL;
  if (process->running && reactor_of(L)->closing) leave_behind(process);
  if (!process->held_by_loop) free(process);
  return 0;
}

// Methods first, then pid, running, fds, and stdin, stdout, stderr.
static int f_index(lua_State *L) {
  const Process *process = check_process(L);
  const char *name = luaL_checkstring(L, 2);
  if (lua_getfield(L, lua_upvalueindex(1), name) != LUA_TNIL) return 1;
  if (strcmp(name, "pid") == 0) {
    lua_pushinteger(L, process->handle.pid);
  } else if (strcmp(name, "running") == 0) {
    lua_pushboolean(L, process->running);
  } else {
    static const char *const names[] = {"stdin", "stdout", "stderr"};
    lua_getiuservalue(L, 1, 1);
    if (strcmp(name, "fds") == 0) return 1;
    int number = 0;
    while (number < 3 && strcmp(name, names[number]) != 0)
      number++;
    lua_rawgeti(L, -1, number < 3 ? number : -1);
  }
  return 1;
}

static const luaL_Reg methods[] = {
    {"wait",       f_wait      },
    {"kill",       f_kill      },
    {"kill_group", f_kill_group},
    {"kill_rest",  f_kill_rest },
    {"unref",      f_unref     },
    {NULL,         NULL        },
};

static const luaL_Reg functions[] = {
    {"environ",    f_environ   },
    {"executable", f_executable},
    {"pid",        f_pid       },
    {"spawn",      f_spawn     },
    {NULL,         NULL        },
};

int luaopen_sbx_core_process(lua_State *L) {
  luaL_newmetatable(L, PROCESS_TYPE);
  lua_pushcfunction(L, gc_process);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_pushcclosure(L, f_index, 1);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
