// What is done with an SQLite database in a thread: opening, and statements run
// one by one or as a transaction. Knows nothing of Lua; the loop only starts
// it.

#ifndef SBX_SQLITE_WORK_H
#define SBX_SQLITE_WORK_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#define SQL_CACHE 24
#define SQL_MESSAGE 256

// A prepared statement that is kept for the next time.
typedef struct Prepared {
  char *sql;  // a copy, NULL in a free place
  sqlite3_stmt *statement;
  unsigned long used;  // the turn of its last use
} Prepared;

typedef struct Database {
  sqlite3 *handle;
  Prepared prepared[SQL_CACHE];
  unsigned long turn;
  unsigned patience_ms;     // how long another process may hold the file
  const atomic_bool *stop;  // of the work under way, else NULL
} Database;

typedef enum ValueType {
  VALUE_NULL,
  VALUE_INTEGER,
  VALUE_FLOAT,
  VALUE_TEXT,
  VALUE_BLOB,
  VALUE_TYPES
} ValueType;

// A parameter, or a column of a row. Bytes belong to whoever made the value.
typedef struct Value {
  ValueType type;
  size_t length;

  union {
    sqlite3_int64 integer;
    double number;
    const char *bytes;
  } is;
} Value;

typedef struct Statement {
  const char *sql;  // ends with a NUL
  size_t sql_length;
  const Value *values;
  size_t count;
} Statement;

// What a statement has given, as a sequence of records that `sqlite_next`
// reads; in memory of its own.
typedef struct Rows {
  char *bytes;
  size_t size, capacity;
} Rows;

// One piece of work and its outcome. `code` is an extended result code of
// SQLite, SQLITE_OK when all went well.
typedef struct SqlWork {
  Database *database;
  const Statement *statements;
  size_t count;
  bool transaction;  // all of them or none
  const atomic_bool *stop;
  Rows rows;
  int code;
  size_t failed;  // the number of the statement, from 1; 0: none of them
  char message[SQL_MESSAGE];
} SqlWork;

// Opens the file at `path`, which is made for its owner alone where there is
// none. On failure nothing stays open and `message` says why.
int sqlite_open(Database *database, const char *path, bool read_only,
                char *message);

// Runs the statements. A failed or stopped transaction is rolled back, and what
// the rows held by then is to be thrown away.
void sqlite_work(SqlWork *work);

// Closes; twice is harmless. Takes as long as the disk does.
void sqlite_shut(Database *database);

// The name of a result code, such as "SQLITE_BUSY"; static text.
const char *sqlite_code_name(int code);

// A record of Rows.
typedef enum RecordType {
  RECORD_END,      // there is no more
  RECORD_COLUMNS,  // a statement begins: `count` columns, their names follow
  RECORD_ROW,      // a row begins: its values follow, one for each column
  RECORD_VALUE,    // a value, or the name of a column
  RECORD_CHANGES,  // a statement is over: it changed `count` rows
} RecordType;

typedef struct Record {
  RecordType type;
  sqlite3_int64 count;
  Value value;  // its bytes are those of the Rows
} Record;

// Reads the record at `*offset` and moves that on.
Record sqlite_next(const Rows *rows, size_t *offset);

#endif
