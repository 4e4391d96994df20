// sbx.core.sqlite: databases in files. Everything that touches one runs on a
// thread of libuv's pool, one piece of work at a time for each database; the
// loop goes on meanwhile.

#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fs_job.h"
#include "fs_wait.h"
#include "luax.h"
#include "sqlite_work.h"

#define DATABASE_TYPE "sbx.database"
#define BLOB_TYPE "sbx.blob"
#define MAX_STATEMENTS 1000000
#define DEFAULT_PATIENCE 5.0

enum { DATABASE_PATH = 1 };  // the user value, for messages

// What Lua holds. `database` is closed while its handle is NULL.
typedef struct Holder {
  Database database;
  bool busy;  // a job is under way
} Holder;

typedef struct OpenJob {
  FsJob job;  // first, so that an FsJob * is an OpenJob *
  Holder *holder;
  const char *path;
  bool read_only;
  int code;
  char message[SQL_MESSAGE];
} OpenJob;

typedef struct RunJob {
  FsJob job;
  Holder *holder;
  SqlWork work;
} RunJob;

typedef struct CloseJob {
  FsJob job;
  Holder *holder;
} CloseJob;

// Pushes the path of the database at `index` and returns it.
static const char *push_path(lua_State *L, int index) {
  (void)lua_getiuservalue(L, index, DATABASE_PATH);
  return lua_tostring(L, -1);
}

// Opening

static int run_open(FsJob *job) {
  OpenJob *open = (OpenJob *)job;
  open->code = sqlite_open(&open->holder->database, open->path, open->read_only,
                           open->message);
  return 0;
}

static void over_open(FsJob *job) {
  OpenJob *open = (OpenJob *)job;
  // Cancelled: nobody takes it. Where no thread has begun, nothing is open.
  if (job->wait.settled) sqlite_shut(&open->holder->database);
}

// Stack: path, options, holder, job.
static int end_open(lua_State *L, int status, lua_KContext context) {
  const OpenJob *open = (const OpenJob *)context;
  int result = open->job.wait.status;
  if (result != 0) return raise_error(L, result, "open %s", open->path);
  if (open->code != SQLITE_OK)
    return raise_kind(L, "io", sqlite_code_name(open->code), "open %s: %s",
                      open->path, open->message);
  lua_pushvalue(L, 3);
  return 1;
}

static void check_options(lua_State *L, int index) {
  if (lua_isnoneornil(L, index)) {
    lua_settop(L, index - 1);
    lua_newtable(L);
    return;
  }
  luaL_checktype(L, index, LUA_TTABLE);
}

// open(path, options) → Database. Makes the file where there is none, for its
// owner alone.
static int f_open(lua_State *L) {
  const char *path = fs_check_path(L, 1);
  check_options(L, 2);
  lua_settop(L, 2);
  bool read_only = field_boolean(L, 2, "read_only", false);
  double patience = field_number(L, 2, "patience", DEFAULT_PATIENCE);
  luaL_argcheck(L, patience >= 0 && patience <= 3600, 2,
                "patience: expected 0 to 3600 seconds");

  Holder *holder = lua_newuserdatauv(L, sizeof(*holder), 1);
  *holder = (Holder){.busy = false};
  holder->database.patience_ms = (unsigned)(patience * 1000);
  luaL_setmetatable(L, DATABASE_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, DATABASE_PATH);

  OpenJob *open = fs_job_new(L, sizeof(*open), run_open, "open a database");
  open->job.over = over_open;
  open->holder = holder;
  open->path = path;
  open->read_only = read_only;
  return fs_job_yield(L, &open->job, end_open);
}

static Holder *check_holder(lua_State *L) {
  Holder *holder = luaL_checkudata(L, 1, DATABASE_TYPE);
  if (holder->database.handle == NULL)
    raise_error(L, UV_EBADF, "%s: closed database", push_path(L, 1));
  if (holder->busy) luaL_error(L, "another task is using the database");
  return holder;
}

// Values from Lua. Strings are lent to the thread, so each is also kept in the
// table `anchors`: the caller may change its own meanwhile.

static const char *keep_string(lua_State *L, int anchors, size_t *length) {
  const char *bytes = lua_tolstring(L, -1, length);
  lua_pushvalue(L, -1);
  lua_rawseti(L, anchors, (lua_Integer)lua_rawlen(L, anchors) + 1);
  return bytes;
}

static int bad_value(lua_State *L, const char *problem) {
  return luaL_error(L, "value: %s", problem);
}

// The value on top of the stack, which it pops.
static Value take_value(lua_State *L, int anchors) {
  Value value = {.type = VALUE_NULL};
  int type = lua_type(L, -1);
  if (type == LUA_TSTRING) {
    value.type = VALUE_TEXT;
    value.is.bytes = keep_string(L, anchors, &value.length);
    if (memchr(value.is.bytes, '\0', value.length) != NULL)
      bad_value(L, "text with a NUL byte; give sqlite.blob(bytes)");
  } else if (type == LUA_TNUMBER && lua_isinteger(L, -1)) {
    value.type = VALUE_INTEGER;
    value.is.integer = lua_tointeger(L, -1);
  } else if (type == LUA_TNUMBER) {
    value.type = VALUE_FLOAT;
    value.is.number = lua_tonumber(L, -1);
    if (isnan(value.is.number)) bad_value(L, "not a number");
  } else if (luaL_testudata(L, -1, BLOB_TYPE) != NULL) {
    value.type = VALUE_BLOB;
    (void)lua_getiuservalue(L, -1, 1);
    value.is.bytes = keep_string(L, anchors, &value.length);
    lua_pop(L, 1);
  } else if (!(type == LUA_TLIGHTUSERDATA && lua_touserdata(L, -1) == NULL)) {
    bad_value(L, "expected a number, a string, sqlite.blob() or sqlite.null");
  }
  lua_pop(L, 1);
  return value;
}

// The SQL text on top of the stack, which it pops.
static void take_sql(lua_State *L, int anchors, Statement *statement) {
  if (lua_type(L, -1) != LUA_TSTRING)
    luaL_error(L, "sql: expected a string, got %s", luaL_typename(L, -1));
  statement->sql = keep_string(L, anchors, &statement->sql_length);
  if (strlen(statement->sql) != statement->sql_length)
    luaL_error(L, "sql: holds a NUL byte");
  lua_pop(L, 1);
}

// Values to Lua

static void push_value(lua_State *L, const Value *value) {
  switch (value->type) {
  case VALUE_INTEGER:
    lua_pushinteger(L, (lua_Integer)value->is.integer);
    break;
  case VALUE_FLOAT:
    lua_pushnumber(L, value->is.number);
    break;
  case VALUE_TEXT:
  case VALUE_BLOB:
    lua_pushlstring(L, value->is.bytes, value->length);
    break;
  default:
    lua_pushnil(L);
  }
}

// Pushes a table of the names of `count` columns.
static void push_names(lua_State *L, const Rows *rows, size_t *offset,
                       lua_Integer count) {
  lua_createtable(L, (int)count, 0);
  for (lua_Integer i = 1; i <= count; i++) {
    Record record = sqlite_next(rows, offset);
    push_value(L, &record.value);
    lua_rawseti(L, -2, i);
  }
}

// Pushes a row; the names are on top of the stack.
static void push_row(lua_State *L, const Rows *rows, size_t *offset,
                     lua_Integer count) {
  lua_createtable(L, 0, (int)count);
  for (lua_Integer i = 1; i <= count; i++) {
    Record record = sqlite_next(rows, offset);
    (void)lua_rawgeti(L, -2, i);
    push_value(L, &record.value);
    lua_rawset(L, -3);
  }
}

// Pushes what the statement at `*offset` gave: an array of rows, and `changes`.
static void push_result(lua_State *L, const Rows *rows, size_t *offset) {
  Record record = sqlite_next(rows, offset);
  lua_Integer columns = (lua_Integer)record.count;
  lua_newtable(L);
  push_names(L, rows, offset, columns);
  // result, names
  lua_Integer count = 0;
  record = sqlite_next(rows, offset);
  while (record.type == RECORD_ROW) {
    push_row(L, rows, offset, columns);
    lua_rawseti(L, -3, ++count);
    record = sqlite_next(rows, offset);
  }
  lua_pop(L, 1);
  lua_pushinteger(L, (lua_Integer)record.count);
  lua_setfield(L, -2, "changes");
}

// Running

static int run_work(FsJob *job) {
  RunJob *run = (RunJob *)job;
  sqlite_work(&run->work);
  return 0;
}

static void over_run(FsJob *job) {
  RunJob *run = (RunJob *)job;
  run->holder->busy = false;
  if (!job->wait.settled) return;
  free(run->work.rows.bytes);  // cancelled: nobody reads them
  run->work.rows.bytes = NULL;
}

// Owns the rows while tables are made of them, which may fail for want of
// memory.
typedef struct RowsKeeper {
  char *bytes;
} RowsKeeper;

#define KEEPER_TYPE "sbx.rows"

static int gc_keeper(lua_State *L) {
  RowsKeeper *keeper = luaL_checkudata(L, 1, KEEPER_TYPE);
  free(keeper->bytes);
  keeper->bytes = NULL;
  return 0;
}

static int raise_work(lua_State *L, const SqlWork *work) {
  const char *path = push_path(L, 1);
  const char *name = sqlite_code_name(work->code);
  if (work->failed > 0 && work->transaction)
    return raise_kind(L, "io", name, "database %s: statement %d: %s", path,
                      (int)work->failed, work->message);
  return raise_kind(L, "io", name, "database %s: %s", path, work->message);
}

// Stack: holder, …, keeper, job.
static int end_run(lua_State *L, int status, lua_KContext context) {
  RunJob *run = (RunJob *)context;
  SqlWork *work = &run->work;
  int result = run->job.wait.status;
  if (result != 0) return raise_error(L, result, "database");
  RowsKeeper *keeper = luaL_checkudata(L, -2, KEEPER_TYPE);
  keeper->bytes = work->rows.bytes;
  if (work->code != SQLITE_OK) return raise_work(L, work);

  size_t offset = 0;
  if (!work->transaction) {
    push_result(L, &work->rows, &offset);
  } else {
    lua_createtable(L, (int)work->count, 0);
    for (size_t i = 1; i <= work->count; i++) {
      push_result(L, &work->rows, &offset);
      lua_rawseti(L, -2, (lua_Integer)i);
    }
  }
  free(keeper->bytes);  // now, not when it is collected
  keeper->bytes = NULL;
  return 1;
}

// `statements` is in a userdata on the stack, with what they point to.
static int start_run(lua_State *L, Holder *holder, const Statement *statements,
                     size_t count, bool transaction) {
  RowsKeeper *keeper = lua_newuserdatauv(L, sizeof(*keeper), 0);
  keeper->bytes = NULL;
  luaL_setmetatable(L, KEEPER_TYPE);
  RunJob *run = fs_job_new(L, sizeof(*run), run_work, "a database");
  run->job.over = over_run;
  run->holder = holder;
  run->work.database = &holder->database;
  run->work.statements = statements;
  run->work.count = count;
  run->work.transaction = transaction;
  run->work.stop = &run->job.stop;
  holder->busy = true;
  return fs_job_yield(L, &run->job, end_run);
}

// database:run(sql, ...) → the rows, and `changes`
static int f_run(lua_State *L) {
  Holder *holder = check_holder(L);
  int count = lua_gettop(L) - 2;
  luaL_argcheck(L, count >= 0, 2, "expected a string");
  lua_createtable(L, count + 1, 0);
  int anchors = lua_gettop(L);
  size_t size = sizeof(Statement) + (size_t)count * sizeof(Value);
  Statement *statement = lua_newuserdatauv(L, size, 0);
  Value *values = (Value *)(statement + 1);
  statement->values = values;
  statement->count = (size_t)count;
  lua_pushvalue(L, 2);
  take_sql(L, anchors, statement);
  for (int i = 0; i < count; i++) {
    lua_pushvalue(L, 3 + i);
    values[i] = take_value(L, anchors);
  }
  return start_run(L, holder, statement, 1, false);
}

// How many values all statements have together.
static size_t count_values(lua_State *L, int list, size_t count) {
  size_t total = 0;
  for (size_t i = 1; i <= count; i++) {
    if (lua_rawgeti(L, list, (lua_Integer)i) != LUA_TTABLE)
      luaL_error(L, "statement %d: expected a table {sql, ...}", (int)i);
    size_t length = lua_rawlen(L, -1);
    total += length > 0 ? length - 1 : 0;
    lua_pop(L, 1);
  }
  return total;
}

// The statement on top of the stack, which it pops; its values go to `values`.
static void take_statement(lua_State *L, int anchors, Statement *statement,
                           Value *values) {
  size_t length = lua_rawlen(L, -1);
  (void)lua_rawgeti(L, -1, 1);
  take_sql(L, anchors, statement);
  statement->values = values;
  statement->count = length - 1;
  for (size_t i = 0; i < statement->count; i++) {
    (void)lua_rawgeti(L, -1, (lua_Integer)i + 2);
    values[i] = take_value(L, anchors);
  }
  lua_pop(L, 1);
}

// database:transaction(statements) → what each has given. Each is {sql, ...}.
static int f_transaction(lua_State *L) {
  Holder *holder = check_holder(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  size_t count = lua_rawlen(L, 2);
  luaL_argcheck(L, count <= MAX_STATEMENTS, 2, "too many statements");
  size_t values_count = count_values(L, 2, count);
  lua_createtable(L, (int)count, 0);
  size_t size = (count + 1) * sizeof(Statement) + values_count * sizeof(Value);
  Statement *statements = lua_newuserdatauv(L, size, 0);
  Value *values = (Value *)(statements + count + 1);
  for (size_t i = 0; i < count; i++) {
    (void)lua_rawgeti(L, 2, (lua_Integer)i + 1);
    take_statement(L, 3, &statements[i], values);
    values += statements[i].count;
  }
  return start_run(L, holder, statements, count, true);
}

// Closing

static int run_close(FsJob *job) {
  sqlite_shut(&((CloseJob *)job)->holder->database);
  return 0;
}

static void over_close(FsJob *job) {
  ((CloseJob *)job)->holder->busy = false;
}

static int end_close(lua_State *L, int status, lua_KContext context) {
  return 0;
}

// database:close(), also as __close. Waits until the file is let go of, also in
// a cancelled task. Twice is harmless.
static int f_close(lua_State *L) {
  Holder *holder = luaL_checkudata(L, 1, DATABASE_TYPE);
  if (holder->database.handle == NULL) return 0;
  if (holder->busy) return luaL_error(L, "another task is using the database");
  lua_settop(L, 1);
  CloseJob *job =
      fs_job_new_shielded(L, sizeof(*job), run_close, "close a database");
  job->job.over = over_close;
  job->holder = holder;
  holder->busy = true;
  return fs_job_yield(L, &job->job, end_close);
}

// No job can be under way: it would hold the database on a stack.
static int gc_database(lua_State *L) {
  Holder *holder = luaL_checkudata(L, 1, DATABASE_TYPE);
  sqlite_shut(&holder->database);
  return 0;
}

// blob(bytes) → a value for a statement
static int f_blob(lua_State *L) {
  luaL_checktype(L, 1, LUA_TSTRING);
  lua_settop(L, 1);
  (void)lua_newuserdatauv(L, 0, 1);
  luaL_setmetatable(L, BLOB_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  return 1;
}

static const luaL_Reg methods[] = {
    {"run",         f_run        },
    {"transaction", f_transaction},
    {"close",       f_close      },
    {NULL,          NULL         },
};

static const luaL_Reg functions[] = {
    {"open", f_open},
    {"blob", f_blob},
    {NULL,   NULL  },
};

int luaopen_sbx_core_sqlite(lua_State *L) {
  (void)luaL_newmetatable(L, BLOB_TYPE);
  (void)luaL_newmetatable(L, KEEPER_TYPE);
  lua_pushcfunction(L, gc_keeper);
  lua_setfield(L, -2, "__gc");
  (void)luaL_newmetatable(L, DATABASE_TYPE);
  lua_pushcfunction(L, gc_database);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, f_close);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 3);
  luaL_newlib(L, functions);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  lua_pushstring(L, sqlite3_libversion());
  lua_setfield(L, -2, "version");
  return 1;
}
