// Statements of SQLite, run in a thread.

#include "sqlite_work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEPS_BETWEEN_LOOKS 2000
#define BUSY_PAUSE_MS 5

// Rows

static bool append(Rows *rows, const void *bytes, size_t size) {
  if (size > rows->capacity - rows->size) {
    size_t capacity = rows->capacity * 2 + size + 256;
    char *grown = realloc(rows->bytes, capacity);
    if (grown == NULL) return false;
    rows->bytes = grown;
    rows->capacity = capacity;
  }
  if (size > 0) memcpy(rows->bytes + rows->size, bytes, size);
  rows->size += size;
  return true;
}

static bool append_record(Rows *rows, RecordType type, sqlite3_int64 count) {
  Record record = {.type = type, .count = count};
  return append(rows, &record, sizeof(record));
}

static bool append_value(Rows *rows, Value value) {
  bool has_bytes = value.type == VALUE_TEXT || value.type == VALUE_BLOB;
  const char *bytes = has_bytes ? value.is.bytes : NULL;
  Record record = {.type = RECORD_VALUE, .value = value};
  return append(rows, &record, sizeof(record)) &&
         (!has_bytes || append(rows, bytes, value.length));
}

Record sqlite_next(const Rows *rows, size_t *offset) {
  Record record = {.type = RECORD_END};
  if (*offset >= rows->size) return record;
  memcpy(&record, rows->bytes + *offset, sizeof(record));
  *offset += sizeof(record);
  if (record.type == RECORD_VALUE &&
      (record.value.type == VALUE_TEXT || record.value.type == VALUE_BLOB)) {
    record.value.is.bytes = rows->bytes + *offset;
    *offset += record.value.length;
  }
  return record;
}

// Codes

const char *sqlite_code_name(int code) {
  static const char *const names[] = {
      "SQLITE_OK",        "SQLITE_ERROR",      "SQLITE_INTERNAL",
      "SQLITE_PERM",      "SQLITE_ABORT",      "SQLITE_BUSY",
      "SQLITE_LOCKED",    "SQLITE_NOMEM",      "SQLITE_READONLY",
      "SQLITE_INTERRUPT", "SQLITE_IOERR",      "SQLITE_CORRUPT",
      "SQLITE_NOTFOUND",  "SQLITE_FULL",       "SQLITE_CANTOPEN",
      "SQLITE_PROTOCOL",  "SQLITE_EMPTY",      "SQLITE_SCHEMA",
      "SQLITE_TOOBIG",    "SQLITE_CONSTRAINT", "SQLITE_MISMATCH",
      "SQLITE_MISUSE",    "SQLITE_NOLFS",      "SQLITE_AUTH",
      "SQLITE_FORMAT",    "SQLITE_RANGE",      "SQLITE_NOTADB",
  };
  size_t primary = (size_t)(code & 0xff);
  bool known = primary < sizeof(names) / sizeof(names[0]);
  return known ? names[primary] : "SQLITE_ERROR";
}

static int refuse(SqlWork *work, int code, const char *message) {
  (void)snprintf(work->message, sizeof(work->message), "%s", message);
  return code;
}

static int complain(SqlWork *work, int code) {
  sqlite3 *handle = work->database->handle;
  // What the handle says is about its last failure, which may be another one.
  bool is_last = sqlite3_extended_errcode(handle) == code;
  return refuse(work, code,
                is_last ? sqlite3_errmsg(handle) : sqlite3_errstr(code));
}

// The database

static bool is_stopped(const Database *database) {
  return database->stop != NULL && atomic_load(database->stop);
}

static int on_progress(void *data) {
  return is_stopped(data);
}

// Another process has the file: 1 tries again.
static int on_busy(void *data, int tries) {
  const Database *database = data;
  if (is_stopped(database)) return 0;
  if ((unsigned)tries * BUSY_PAUSE_MS >= database->patience_ms) return 0;
  sqlite3_sleep(BUSY_PAUSE_MS);
  return 1;
}

// SQLite itself would make a file that others may read. One that is there is
// left alone: closing it here would drop the locks that somebody has on it.
static int make_file(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                S_IRUSR | S_IWUSR);
  if (fd >= 0) return close(fd) == 0 ? 0 : errno;
  return errno == EEXIST ? 0 : errno;
}

static int fail_open(Database *database, int code, char *message,
                     const char *text) {
  (void)snprintf(message, SQL_MESSAGE, "%s", text);
  sqlite_shut(database);
  return code;
}

int sqlite_open(Database *database, const char *path, bool read_only,
                char *message) {
  int made = read_only ? 0 : make_file(path);
  if (made != 0)
    return fail_open(database, SQLITE_CANTOPEN, message, strerror(made));
  int flags = read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  int code = sqlite3_open_v2(path, &database->handle,
                             flags | SQLITE_OPEN_FULLMUTEX, NULL);
  sqlite3 *handle = database->handle;
  if (code != SQLITE_OK)
    return fail_open(database, code, message,
                     handle ? sqlite3_errmsg(handle) : sqlite3_errstr(code));
  (void)sqlite3_extended_result_codes(handle, 1);
  (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
  (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
  (void)sqlite3_busy_handler(handle, on_busy, database);
  sqlite3_progress_handler(handle, STEPS_BETWEEN_LOOKS, on_progress, database);
  return SQLITE_OK;
}

static void forget(Prepared *prepared) {
  (void)sqlite3_finalize(prepared->statement);
  free(prepared->sql);
  *prepared = (Prepared){.sql = NULL};
}

void sqlite_shut(Database *database) {
  for (size_t i = 0; i < SQL_CACHE; i++) {
    forget(&database->prepared[i]);
  }
  // It keeps nothing: every statement is finalized above.
  (void)sqlite3_close_v2(database->handle);
  database->handle = NULL;
}

// Statements

static Prepared *find_prepared(Database *database, const Statement *wanted) {
  Prepared *oldest = &database->prepared[0];
  for (size_t i = 0; i < SQL_CACHE; i++) {
    Prepared *prepared = &database->prepared[i];
    if (prepared->sql != NULL && strcmp(prepared->sql, wanted->sql) == 0)
      return prepared;
    if (prepared->used < oldest->used) oldest = prepared;
  }
  forget(oldest);
  return oldest;
}

static bool is_blank(const char *text) {
  return text[strspn(text, " \t\r\n;")] == '\0';
}

// The statement, ready to be given its values. What could not be prepared is
// not kept.
static int prepare(SqlWork *work, const Statement *wanted, Prepared **found) {
  Database *database = work->database;
  Prepared *prepared = find_prepared(database, wanted);
  *found = prepared;
  prepared->used = ++database->turn;
  if (prepared->sql != NULL) return SQLITE_OK;

  const char *tail = "";
  int code = sqlite3_prepare_v3(database->handle, wanted->sql, -1,
                                SQLITE_PREPARE_PERSISTENT, &prepared->statement,
                                &tail);
  if (code != SQLITE_OK) return complain(work, code);
  if (prepared->statement == NULL)
    return refuse(work, SQLITE_MISUSE, "not an SQL statement");
  if (!is_blank(tail)) {
    forget(prepared);
    return refuse(work, SQLITE_MISUSE, "more than one SQL statement");
  }
  prepared->sql = malloc(wanted->sql_length + 1);
  if (prepared->sql == NULL) {
    forget(prepared);
    return refuse(work, SQLITE_NOMEM, "out of memory");
  }
  memcpy(prepared->sql, wanted->sql, wanted->sql_length + 1);
  return SQLITE_OK;
}

// The bytes stay where they are until the statement is reset.
static int bind_value(sqlite3_stmt *statement, int place, const Value *value) {
  switch (value->type) {
  case VALUE_INTEGER:
    return sqlite3_bind_int64(statement, place, value->is.integer);
  case VALUE_FLOAT:
    return sqlite3_bind_double(statement, place, value->is.number);
  case VALUE_TEXT:
    return sqlite3_bind_text64(statement, place, value->is.bytes, value->length,
                               SQLITE_STATIC, SQLITE_UTF8);
  case VALUE_BLOB:
    return sqlite3_bind_blob64(statement, place, value->is.bytes, value->length,
                               SQLITE_STATIC);
  default:
    return sqlite3_bind_null(statement, place);
  }
}

static int bind(SqlWork *work, sqlite3_stmt *statement, const Statement *from) {
  size_t wanted = (size_t)sqlite3_bind_parameter_count(statement);
  if (wanted != from->count) {
    (void)snprintf(work->message, sizeof(work->message),
                   "the statement has %zu parameters, %zu values were given",
                   wanted, from->count);
    return SQLITE_MISUSE;
  }
  for (size_t i = 0; i < wanted; i++) {
    int code = bind_value(statement, (int)i + 1, &from->values[i]);
    if (code != SQLITE_OK) return complain(work, code);
  }
  return SQLITE_OK;
}

static Value column_value(sqlite3_stmt *statement, int column) {
  Value value = {.type = VALUE_NULL};
  switch (sqlite3_column_type(statement, column)) {
  case SQLITE_INTEGER:
    value.type = VALUE_INTEGER;
    value.is.integer = sqlite3_column_int64(statement, column);
    break;
  case SQLITE_FLOAT:
    value.type = VALUE_FLOAT;
    value.is.number = sqlite3_column_double(statement, column);
    break;
  case SQLITE_TEXT:
    value.type = VALUE_TEXT;
    value.is.bytes = (const char *)sqlite3_column_text(statement, column);
    value.length = (size_t)sqlite3_column_bytes(statement, column);
    break;
  case SQLITE_BLOB:
    value.type = VALUE_BLOB;
    value.is.bytes = sqlite3_column_blob(statement, column);
    value.length = (size_t)sqlite3_column_bytes(statement, column);
    break;
  default:
    break;
  }
  return value;
}

static bool keep_columns(Rows *rows, sqlite3_stmt *statement, int columns) {
  if (!append_record(rows, RECORD_COLUMNS, columns)) return false;
  for (int i = 0; i < columns; i++) {
    const char *name = sqlite3_column_name(statement, i);
    if (name == NULL) return false;
    Value value = {.type = VALUE_TEXT, .length = strlen(name)};
    value.is.bytes = name;
    if (!append_value(rows, value)) return false;
  }
  return true;
}

static bool keep_row(Rows *rows, sqlite3_stmt *statement, int columns) {
  if (!append_record(rows, RECORD_ROW, 0)) return false;
  for (int i = 0; i < columns; i++) {
    if (!append_value(rows, column_value(statement, i))) return false;
  }
  return true;
}

static int no_memory(SqlWork *work) {
  return refuse(work, SQLITE_NOMEM, "out of memory for the rows");
}

static int step_all(SqlWork *work, sqlite3_stmt *statement) {
  int columns = sqlite3_column_count(statement);
  if (!keep_columns(&work->rows, statement, columns)) return no_memory(work);
  int code = SQLITE_OK;
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    if (!keep_row(&work->rows, statement, columns)) return no_memory(work);
    if (is_stopped(work->database))
      return refuse(work, SQLITE_INTERRUPT, "interrupted");
  }
  if (code != SQLITE_DONE) return complain(work, code);
  // It tells of the last one that could change rows, whichever that was.
  bool reads = sqlite3_stmt_readonly(statement) != 0;
  int changes = reads ? 0 : sqlite3_changes(work->database->handle);
  if (!append_record(&work->rows, RECORD_CHANGES, changes))
    return no_memory(work);
  return SQLITE_OK;
}

static int run_statement(SqlWork *work, const Statement *wanted) {
  Prepared *prepared = NULL;
  int code = prepare(work, wanted, &prepared);
  if (code != SQLITE_OK) return code;
  code = bind(work, prepared->statement, wanted);
  if (code == SQLITE_OK) code = step_all(work, prepared->statement);
  // Its status is that of the step again.
  (void)sqlite3_reset(prepared->statement);
  (void)sqlite3_clear_bindings(prepared->statement);
  return code;
}

static int run_plain(SqlWork *work, const char *sql) {
  int code = sqlite3_exec(work->database->handle, sql, NULL, NULL, NULL);
  return code == SQLITE_OK ? SQLITE_OK : complain(work, code);
}

static int run_statements(SqlWork *work) {
  for (size_t i = 0; i < work->count; i++) {
    int code = run_statement(work, &work->statements[i]);
    if (code == SQLITE_OK) continue;
    work->failed = i + 1;
    return code;
  }
  return SQLITE_OK;
}

static int run_transaction(SqlWork *work) {
  int code = run_plain(work, "BEGIN IMMEDIATE");
  if (code != SQLITE_OK) return code;
  code = run_statements(work);
  if (code == SQLITE_OK && is_stopped(work->database))
    code = refuse(work, SQLITE_INTERRUPT, "interrupted");
  if (code == SQLITE_OK) code = run_plain(work, "COMMIT");
  return code;
}

void sqlite_work(SqlWork *work) {
  Database *database = work->database;
  database->stop = work->stop;
  work->code = work->transaction ? run_transaction(work) : run_statements(work);
  database->stop = NULL;
  // Whatever was begun and not ended, here or by a statement of the caller's.
  if (work->code != SQLITE_OK && !sqlite3_get_autocommit(database->handle))
    (void)sqlite3_exec(database->handle, "ROLLBACK", NULL, NULL, NULL);
}
