// Reading from slow files, by the formats of stock Lua. All formats of a call
// are tried on the bytes at hand; when these are not enough, nothing is taken,
// and the call is tried again once more have come. So a call that is cancelled
// loses nothing.

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <string.h>

#include "luax.h"
#include "stock_io.h"

enum { LONGEST_NUMERAL = 200 };

// A call of `read` in progress.
typedef struct ReadCall {
  int handle;       // stack index of the handle
  int first, last;  // of the formats; none when last < first
  int (*finish)(lua_State *L, int results);
} ReadCall;

typedef struct ReadWait {
  SlowWait slow;
  ReadCall call;
} ReadWait;

// Where a call is in the unread bytes.
typedef struct Cursor {
  SlowFile *file;
  size_t at;
  bool ended;    // no more will come
  bool starved;  // more would be needed
} Cursor;

// ---- formats: each pushes one value and returns whether it is a success

static int next_byte(Cursor *cursor) {
  if (cursor->at < cursor->file->in_count)
    return (unsigned char)slow_file_unread(cursor->file)[cursor->at++];
  if (!cursor->ended) cursor->starved = true;
  return EOF;
}

static size_t bytes_left(const Cursor *cursor) {
  return cursor->file->in_count - cursor->at;
}

static bool push_bytes(lua_State *L, Cursor *cursor, size_t size) {
  const char *bytes =
      size > 0 ? slow_file_unread(cursor->file) + cursor->at : "";
  lua_pushlstring(L, bytes, size);
  cursor->at += size;
  return size > 0;
}

static bool read_line(lua_State *L, Cursor *cursor, bool keep_end) {
  SlowFile *file = cursor->file;
  size_t from = cursor->at;
  if (file->line_from == from && file->line_to > from) from = file->line_to;
  const char *end = NULL;
  if (from < file->in_count)
    end = memchr(slow_file_unread(file) + from, '\n', file->in_count - from);
  if (!end) {
    file->line_from = cursor->at;
    file->line_to = file->in_count;
    if (!cursor->ended) {
      cursor->starved = true;
      return false;
    }
    return push_bytes(L, cursor, bytes_left(cursor));
  }
  size_t size = (size_t)(end - slow_file_unread(file)) - cursor->at;
  (void)push_bytes(L, cursor, size + (keep_end ? 1 : 0));
  if (!keep_end) cursor->at++;
  return true;
}

static bool read_all(lua_State *L, Cursor *cursor) {
  if (!cursor->ended) {
    cursor->starved = true;
    return false;
  }
  (void)push_bytes(L, cursor, bytes_left(cursor));
  return true;
}

static bool read_count(lua_State *L, Cursor *cursor, size_t count) {
  // A count that no string can have fails at once, as its allocation would.
  if (count > PTRDIFF_MAX) {
    lua_pushliteral(L, "not enough memory");
    return lua_error(L);
  }
  size_t left = bytes_left(cursor);
  if (left < count && !cursor->ended) {
    cursor->starved = true;
    return false;
  }
  return push_bytes(L, cursor, left < count ? left : count);
}

// Whether there is another byte.
static bool test_end(lua_State *L, Cursor *cursor) {
  bool more = next_byte(cursor) != EOF;
  if (more) cursor->at--;
  lua_pushliteral(L, "");
  return more;
}

// The longest prefix of the input that can begin a numeral, for the VM to
// judge; one byte is looked at ahead.
typedef struct Numeral {
  Cursor *cursor;
  int ahead;
  size_t size;
  char text[LONGEST_NUMERAL + 1];
} Numeral;

static bool accept_byte(Numeral *numeral) {
  if (numeral->size == LONGEST_NUMERAL) {
    numeral->text[0] = '\0';  // too long: no number
    return false;
  }
  numeral->text[numeral->size++] = (char)numeral->ahead;
  numeral->ahead = next_byte(numeral->cursor);
  return true;
}

static bool accept_one_of(Numeral *numeral, const char *two) {
  if (numeral->ahead != two[0] && numeral->ahead != two[1]) return false;
  return accept_byte(numeral);
}

static int accept_digits(Numeral *numeral, bool hexadecimal) {
  int count = 0;
  while ((hexadecimal ? isxdigit(numeral->ahead) : isdigit(numeral->ahead)) &&
         accept_byte(numeral))
    count++;
  return count;
}

static bool read_number(lua_State *L, Cursor *cursor) {
  Numeral numeral = {.cursor = cursor};
  const char point[] = {localeconv()->decimal_point[0], '.'};
  do {
    numeral.ahead = next_byte(cursor);
  } while (isspace(numeral.ahead));
  (void)accept_one_of(&numeral, "+-");
  bool hexadecimal = false;
  int digits = 0;
  if (accept_one_of(&numeral, "00")) {
    hexadecimal = accept_one_of(&numeral, "xX");
    if (!hexadecimal) digits = 1;
  }
  digits += accept_digits(&numeral, hexadecimal);
  if (accept_one_of(&numeral, point))
    digits += accept_digits(&numeral, hexadecimal);
  if (digits > 0 && accept_one_of(&numeral, hexadecimal ? "pP" : "eE")) {
    (void)accept_one_of(&numeral, "+-");
    (void)accept_digits(&numeral, false);
  }
  if (numeral.ahead != EOF) cursor->at--;
  numeral.text[numeral.size] = '\0';
  if (lua_stringtonumber(L, numeral.text)) return true;
  lua_pushnil(L);
  return false;
}

static bool read_format(lua_State *L, Cursor *cursor, int format) {
  if (lua_type(L, format) == LUA_TNUMBER) {
    size_t count = (size_t)luaL_checkinteger(L, format);
    return count == 0 ? test_end(L, cursor) : read_count(L, cursor, count);
  }
  const char *name = lua_tostring(L, format);
  if (name && *name == '*') name++;
  if (!name || !*name || !strchr("nlLa", *name)) {
    // What the formats before this one read is gone.
    slow_file_take(cursor->file, cursor->at);
    (void)luaL_checkstring(L, format);
    return luaL_argerror(L, format, "invalid format");
  }
  switch (*name) {
  case 'n':
    return read_number(L, cursor);
  case 'l':
    return read_line(L, cursor, false);
  case 'L':
    return read_line(L, cursor, true);
  default:
    return read_all(L, cursor);
  }
}

// Tries the whole call. Returns how many results it pushed, or -1 and leaves
// everything as it was.
static int try_call(lua_State *L, SlowFile *file, const ReadCall *call,
                    bool ended) {
  Cursor cursor = {.file = file, .ended = ended};
  int top = lua_gettop(L);
  int count = call->last - call->first + 1;
  luaL_checkstack(L, count + LUA_MINSTACK, "too many arguments");
  bool success = true;
  if (count <= 0) success = read_line(L, &cursor, false);
  for (int format = call->first; success && format <= call->last; format++)
    success = read_format(L, &cursor, format);
  if (cursor.starved) {
    lua_settop(L, top);
    return -1;
  }
  slow_file_take(file, cursor.at);
  if (!success) {
    lua_pop(L, 1);
    luaL_pushfail(L);
  }
  return lua_gettop(L) - top;
}

// ---- waiting: for bytes, and before that for the turn to read

static const char *what_of(const FileHandle *handle) {
  return handle->number == 0 ? "read stdin" : "read a pipe";
}

static int proceed(lua_State *L, const ReadCall *call, bool ended);

static void close_turn(Wait *wait) {
  SlowWait *op = (SlowWait *)wait;
  for (SlowWait **at = &op->file->turns; *at; at = &(*at)->next) {
    if (*at != op) continue;
    *at = op->next;
    break;
  }
  wait_done(wait);
}

static void pass_turn(SlowFile *file) {
  if (file->turns) (void)wait_settle(&file->turns->wait, 0);
}

static void close_reader(Wait *wait) {
  SlowFile *file = ((SlowWait *)wait)->file;
  file->reader = NULL;
  slow_file_watch(file);
  slow_files_release(file->all);
  wait_done(wait);
  pass_turn(file);  // behind this one
}

void abandon_reads(SlowFile *file) {
  while (file->turns)
    (void)wait_settle(&file->turns->wait, UV_EBADF);
  if (file->reader) (void)wait_settle(&file->reader->wait, UV_EBADF);
}

static int fail_read(lua_State *L, const ReadCall *call, int status) {
  errno = -status;
  return call->finish(L, luaL_fileresult(L, 0, NULL));
}

static ReadWait *new_wait(lua_State *L, const ReadCall *call,
                          void (*close)(Wait *)) {
  FileHandle *handle = lua_touserdata(L, call->handle);
  ReadWait *op = wait_new(L, sizeof(*op), close, what_of(handle));
  op->slow.file = handle->slow;
  op->call = *call;
  return op;
}

// The handle of a wait that is over, whose block it drops; NULL when the file
// was closed meanwhile. Raises when the task was cancelled.
static FileHandle *after_wait(lua_State *L, const ReadWait *op) {
  int status = op->slow.wait.status;
  if (status == UV_ECANCELED) raise_error(L, status, "read");
  FileHandle *handle = lua_touserdata(L, op->call.handle);
  lua_settop(L,
             op->call.last > op->call.handle ? op->call.last : op->call.handle);
  return status == 0 ? handle : NULL;
}

static int await_turn(lua_State *L, const ReadCall *call, bool in_front);

static int end_turn(lua_State *L, int status, lua_KContext context) {
  ReadCall call = ((ReadWait *)context)->call;
  FileHandle *handle = after_wait(L, (ReadWait *)context);
  if (!handle) return fail_read(L, &call, UV_EBADF);
  if (handle->slow->reader) return await_turn(L, &call, true);
  pass_turn(handle->slow);  // whoever runs after this one tries then
  return proceed(L, &call, false);
}

static int await_turn(lua_State *L, const ReadCall *call, bool in_front) {
  ReadWait *op = new_wait(L, call, close_turn);
  SlowWait **at = &op->slow.file->turns;
  while (*at && !in_front)
    at = &(*at)->next;
  op->slow.next = *at;
  *at = &op->slow;
  return wait_yield(L, &op->slow.wait, end_turn);
}

static int end_bytes(lua_State *L, int status, lua_KContext context);

static int await_bytes(lua_State *L, const ReadCall *call) {
  ReadWait *op = new_wait(L, call, close_reader);
  SlowFile *file = op->slow.file;
  file->reader = &op->slow;
  slow_files_hold(file->all);
  slow_file_watch(file);
  return wait_yield(L, &op->slow.wait, end_bytes);
}

static int end_bytes(lua_State *L, int status, lua_KContext context) {
  ReadCall call = ((ReadWait *)context)->call;
  FileHandle *handle = after_wait(L, (ReadWait *)context);
  if (!handle) return fail_read(L, &call, UV_EBADF);
  ssize_t size = slow_file_fill(handle->slow);
  if (size == UV_EAGAIN) return await_bytes(L, &call);
  if (size < 0) return fail_read(L, &call, (int)size);
  return proceed(L, &call, size == 0);
}

static int proceed(lua_State *L, const ReadCall *call, bool ended) {
  const FileHandle *handle = lua_touserdata(L, call->handle);
  int results = try_call(L, handle->slow, call, ended);
  if (results < 0) return await_bytes(L, call);
  return call->finish(L, results);
}

// Begins a call; the handle is at `call->handle`.
static int begin_read(lua_State *L, const ReadCall *call) {
  const FileHandle *handle = lua_touserdata(L, call->handle);
  if (!handle->reads) return fail_read(L, call, UV_EBADF);
  // Also where the bytes may be at hand: a call must not fail only at times.
  if (!can_wait(L)) (void)new_wait(L, call, close_reader);  // raises
  if (handle->slow->reader || handle->slow->turns)
    return await_turn(L, call, false);
  return proceed(L, call, false);
}

// ---- what Lua calls

static int finish_read(lua_State *L, int results) {
  return results;
}

// io.read(...)
int f_io_read(lua_State *L) {
  int last = lua_gettop(L);
  if (!push_default_handle(L, DEFAULT_INPUT)) return call_stock(L);
  ReadCall call = {last + 1, 1, last, finish_read};
  return begin_read(L, &call);
}

// file:read(...)
int f_file_read(lua_State *L) {
  if (!slow_handle(L, 1)) return call_stock(L);
  ReadCall call = {1, 2, lua_gettop(L), finish_read};
  return begin_read(L, &call);
}

// Upvalues of an iterator: handle, whether to close it, formats.
enum { LINES_HANDLE = 1, LINES_CLOSES, LINES_FORMATS };

static int finish_line(lua_State *L, int results) {
  if (lua_toboolean(L, -results)) return results;
  if (results > 1) return luaL_error(L, "%s", lua_tostring(L, -results + 1));
  if (!lua_toboolean(L, lua_upvalueindex(LINES_CLOSES))) return 0;
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(LINES_HANDLE));
  // Opened for reading alone: there is nothing to wait for.
  (void)close_handle(L, lua_touserdata(L, 1), false);
  return 0;
}

static int f_next_line(lua_State *L) {
  const FileHandle *handle = lua_touserdata(L, lua_upvalueindex(LINES_HANDLE));
  if (!handle->stock.closef) return luaL_error(L, "file is already closed");
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(LINES_HANDLE));
  int last = 1;
  while (lua_type(L, lua_upvalueindex(LINES_FORMATS + last - 1)) != LUA_TNONE) {
    luaL_checkstack(L, 2, "too many arguments");
    lua_pushvalue(L, lua_upvalueindex(LINES_FORMATS + last - 1));
    last++;
  }
  ReadCall call = {1, 2, last, finish_line};
  return begin_read(L, &call);
}

int push_lines(lua_State *L, bool closes) {
  enum { MOST_FORMATS = 250 };

  int formats = lua_gettop(L) - 1;
  luaL_argcheck(L, formats <= MOST_FORMATS, MOST_FORMATS + 2,
                "too many arguments");
  lua_pushboolean(L, closes);
  lua_insert(L, 2);  // handle, closes, formats
  lua_pushcclosure(L, f_next_line, formats + 2);
  return 1;
}

// file:lines(...)
int f_file_lines(lua_State *L) {
  if (!slow_handle(L, 1)) return call_stock(L);
  return push_lines(L, false);
}
