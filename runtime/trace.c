// Writes the trace: see trace.h.

#define _GNU_SOURCE
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CAPACITY = 65536, LONGEST_EVENT = 1024, LONGEST_NAME = 96 };

static const uint64_t FLUSH_NANOSECONDS = 250000000;
static const char TAIL[] = "\n]}\n";

typedef struct Trace {
  int fd;
  int problem;  // the first error of a write
  int clean;    // reference to a function of Lua, text → text
  uint64_t start;
  uint64_t flushed_at;
  off_t offset;  // of what is in the buffer
  bool any;      // there was an event: the next one needs a comma
  volatile sig_atomic_t writing;
  size_t length;
  char buffer[CAPACITY];
} Trace;

// ---- writing

// Writes all of it at `offset`; safe in a signal handler.
static int write_at(int fd, const char *bytes, size_t length, off_t offset) {
  while (length > 0) {
    ssize_t count = pwrite(fd, bytes, length, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -errno;
    bytes += count;
    length -= (size_t)count;
    offset += count;
  }
  return 0;
}

static void flush(Trace *trace, uint64_t now) {
  trace->flushed_at = now;
  if (trace->problem != 0) {
    trace->length = 0;
    return;
  }
  trace->writing = 1;
  int status = write_at(trace->fd, trace->buffer, trace->length, trace->offset);
  off_t end = trace->offset + (off_t)trace->length;
  if (status == 0) status = write_at(trace->fd, TAIL, sizeof(TAIL) - 1, end);
  if (status == 0) {
    trace->offset = end;
  } else {  // as it was before, as far as the file system lets us
    trace->problem = status;
    if (ftruncate(trace->fd, trace->offset) == 0)
      (void)write_at(trace->fd, TAIL, sizeof(TAIL) - 1, trace->offset);
  }
  trace->length = 0;
  trace->writing = 0;
}

void trace_abandon(Reactor *reactor) {
  Trace *trace = reactor->trace;
  if (!trace || trace->writing || trace->problem != 0) return;
  off_t end = trace->offset + (off_t)trace->length;
  (void)write_at(trace->fd, trace->buffer, trace->length, trace->offset);
  (void)write_at(trace->fd, TAIL, sizeof(TAIL) - 1, end);
}

static void append(Trace *trace, const char *json, size_t length,
                   uint64_t now) {
  if (length + 2 > CAPACITY) return;
  if (trace->length + length + 2 > CAPACITY) flush(trace, now);
  size_t at = trace->length;
  if (trace->any) trace->buffer[at++] = ',';
  trace->buffer[at++] = '\n';
  memcpy(trace->buffer + at, json, length);
  trace->any = true;
  trace->length = at + length;  // last: a signal handler may look
  if (now - trace->flushed_at > FLUSH_NANOSECONDS) flush(trace, now);
}

void trace_event(Reactor *reactor, const char *json, size_t length) {
  append(reactor->trace, json, length, uv_hrtime());
}

double trace_now(const Reactor *reactor) {
  return (double)(uv_hrtime() - reactor->trace->start) / 1000.0;
}

// ---- texts

// Bytes of the UTF-8 sequence at `text`, or 0 when there is none.
static size_t sequence(const unsigned char *text, size_t left) {
  size_t length = text[0] < 0x80   ? 1
                  : text[0] < 0xc2 ? 0
                  : text[0] < 0xe0 ? 2
                  : text[0] < 0xf0 ? 3
                  : text[0] < 0xf5 ? 4
                                   : 0;
  if (length == 0 || length > left) return 0;
  for (size_t i = 1; i < length; i++)
    if ((text[i] & 0xc0) != 0x80) return 0;
  if (text[0] == 0xe0 && text[1] < 0xa0) return 0;
  if (text[0] == 0xed && text[1] > 0x9f) return 0;
  if (text[0] == 0xf0 && text[1] < 0x90) return 0;
  if (text[0] == 0xf4 && text[1] > 0x8f) return 0;
  return length;
}

// The inside of a JSON string; what is no text becomes '?'. A long one is cut.
static const char *quoted(char into[LONGEST_NAME * 2 + 8], const char *text,
                          size_t length) {
  char *to = into;
  size_t i = 0;
  while (i < length && to - into < LONGEST_NAME) {
    unsigned char byte = (unsigned char)text[i];
    size_t count = sequence((const unsigned char *)text + i, length - i);
    if (count == 0 || byte < 0x20 || byte == 0x7f) {
      *to++ = '?';
      i++;
      continue;
    }
    if (byte == '"' || byte == '\\') *to++ = '\\';
    memcpy(to, text + i, count);
    to += count;
    i += count;
  }
  *to = '\0';
  return into;
}

// ---- events

typedef struct Micros {
  uint64_t whole;
  unsigned rest;  // thousandths
} Micros;

static Micros micros(uint64_t nanoseconds) {
  return (Micros){nanoseconds / 1000, (unsigned)(nanoseconds % 1000)};
}

static Micros since_start(const Trace *trace, uint64_t now) {
  return micros(now > trace->start ? now - trace->start : 0);
}

__attribute__((format(printf, 3, 4))) static void
add(Trace *trace, uint64_t now, const char *format, ...) {
  char line[LONGEST_EVENT];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  if (length > 0 && (size_t)length < sizeof(line))
    append(trace, line, (size_t)length, now);
}

#define TIME "%" PRIu64 ".%03u"

void trace_task_begins(Reactor *reactor, const Task *task) {
  Trace *trace = reactor->trace;
  uint64_t now = uv_hrtime(), id = task->own.id;
  Micros ts = since_start(trace, now);
  const Scope *parent = task->own.parent;
  char site[LONGEST_NAME * 2 + 8];
  quoted(site, task->site, strlen(task->site));
  add(trace, now,
      "{\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu64
      ",\"name\":\"thread_name\",\"args\":{\"name\":\"task %" PRIu64 " %s\"}}",
      id, id, site);
  add(trace, now,
      "{\"ph\":\"B\",\"pid\":1,\"tid\":%" PRIu64 ",\"ts\":" TIME
      ",\"cat\":\"task\",\"name\":\"task\",\"args\":{\"parent\":%" PRIu64
      ",\"site\":\"%s\",\"daemon\":%s}}",
      id, ts.whole, ts.rest, parent ? parent->owner->own.id : 0, site,
      task->daemon ? "true" : "false");
}

// Pushes the name of a task as it may be shown; nil for none.
static void push_name(lua_State *L, const Trace *trace, const Task *task) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, task);
  if (lua_isnil(L, -1)) return;
  lua_getiuservalue(L, -1, TASK_NAME);
  lua_remove(L, -2);
  if (lua_type(L, -1) != LUA_TSTRING) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, trace->clean);
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING) return;
  lua_pop(L, 1);
  lua_pushnil(L);
}

static const char *result_of(const Task *task) {
  switch (task->result) {
  case RESULT_OK:
    return "done";
  case RESULT_ERROR:
    return "failed";
  case RESULT_CANCELLED:
    return "cancelled";
  default:
    return "unfinished";
  }
}

void trace_task_ends(lua_State *L, Reactor *reactor, const Task *task) {
  Trace *trace = reactor->trace;
  uint64_t now = uv_hrtime(), id = task->own.id;
  Micros ts = since_start(trace, now);
  char name[LONGEST_NAME * 2 + 8] = "";
  if (lua_checkstack(L, 8)) {
    push_name(L, trace, task);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (text) quoted(name, text, length);
    lua_pop(L, 1);
  }
  if (name[0]) {
    char site[LONGEST_NAME * 2 + 8];
    add(trace, now,
        "{\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu64
        ",\"name\":\"thread_name\",\"args\":{\"name\":\"task %" PRIu64
        " (%s) %s\"}}",
        id, id, name, quoted(site, task->site, strlen(task->site)));
  }
  add(trace, now,
      "{\"ph\":\"E\",\"pid\":1,\"tid\":%" PRIu64 ",\"ts\":" TIME
      ",\"args\":{\"name\":\"%s\",\"result\":\"%s\"}}",
      id, ts.whole, ts.rest, name, result_of(task));
}

void trace_wait_begins(Reactor *reactor, Wait *wait) {
  wait->began = uv_hrtime();
}

void trace_wait_settles(Reactor *reactor, Wait *wait) {
  wait->settled_at = uv_hrtime();
  wait->settled_by = reactor->current ? reactor->current->own.id : 0;
}

void trace_wait_ends(Reactor *reactor, const Wait *wait) {
  Trace *trace = reactor->trace;
  uint64_t now = uv_hrtime();
  // One that was under way when the trace began is seen from there on.
  uint64_t began = wait->began > trace->start ? wait->began : trace->start;
  Micros ts = since_start(trace, began), duration = micros(now - began);
  Micros at = since_start(trace, wait->settled_at ? wait->settled_at : now);
  char what[LONGEST_NAME * 2 + 8];
  add(trace, now,
      "{\"ph\":\"X\",\"pid\":1,\"tid\":%" PRIu64 ",\"ts\":" TIME
      ",\"dur\":" TIME
      ",\"cat\":\"wait\",\"name\":\"%s\",\"args\":{\"by\":%" PRIu64
      ",\"at\":" TIME ",\"status\":%d}}",
      wait->task->own.id, ts.whole, ts.rest, duration.whole, duration.rest,
      quoted(what, wait->what, strlen(wait->what)), wait->settled_by, at.whole,
      at.rest, wait->status);
}

// ---- beginning and end

static void free_trace(Trace *trace) {
  (void)close(trace->fd);
  free(trace);
}

static int open_file(const char *path) {
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
  if (fd < 0) return -errno;
  struct stat facts;
  int status = fstat(fd, &facts) != 0    ? -errno
               : !S_ISREG(facts.st_mode) ? UV_ESPIPE
               : ftruncate(fd, 0) != 0   ? -errno
                                         : 0;
  if (status == 0) return fd;
  (void)close(fd);
  return status;
}

int trace_open(lua_State *L, Reactor *reactor, const char *path, int clean) {
  if (reactor->trace) return UV_EBUSY;
  Trace *trace = calloc(1, sizeof(*trace));
  if (!trace) return UV_ENOMEM;
  trace->fd = open_file(path);
  if (trace->fd < 0) {
    int status = trace->fd;
    free(trace);
    return status;
  }
  trace->clean = clean;
  trace->start = trace->flushed_at = uv_hrtime();
  struct timespec wall;
  (void)clock_gettime(CLOCK_REALTIME, &wall);
  int length = snprintf(trace->buffer, CAPACITY,
                        "{\"displayTimeUnit\":\"ms\",\"otherData\":{"
                        "\"sbxlua\":\"" SBXLUA_VERSION
                        "\",\"v\":1,\"start\":%lld.%06ld},\n"
                        "\"traceEvents\":[",
                        (long long)wall.tv_sec, wall.tv_nsec / 1000);
  trace->length = (size_t)length;
  flush(trace, trace->start);
  if (trace->problem != 0) {
    int status = trace->problem;
    free_trace(trace);
    return status;
  }
  reactor->trace = trace;
  for (const Task *task = reactor->live_first; task; task = task->live_next)
    trace_task_begins(reactor, task);
  return 0;
}

int trace_close(lua_State *L, Reactor *reactor) {
  Trace *trace = reactor->trace;
  if (!trace) return 0;
  for (const Task *task = reactor->live_first; task; task = task->live_next) {
    if (task->wait) trace_wait_ends(reactor, task->wait);
    trace_task_ends(L, reactor, task);
  }
  flush(trace, uv_hrtime());
  int status = trace->problem;
  reactor->trace = NULL;
  luaL_unref(L, LUA_REGISTRYINDEX, trace->clean);
  free_trace(trace);
  return status;
}
