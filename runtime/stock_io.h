// The `io` library and `print` of stock Lua, for files that may keep a reader
// or a writer waiting. Their handles have the stock type, and what is said of
// them in the manual holds; a call that would block suspends its task instead.
// All other files stay with the stock functions.

#ifndef SBX_STOCK_IO_H
#define SBX_STOCK_IO_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "reactor.h"
#include "slow_file.h"

typedef struct FileHandle {
  luaL_Stream stock;  // first: what C code of others may look at
  const void *mark;   // tells ours from theirs
  SlowFile *slow;     // NULL once let go
  size_t buffer;      // bytes that a write may hold back
  int number;         // of a standard file, else -1
  bool by_line;       // but not beyond the end of a line
  bool reads, writes;
} FileHandle;

enum { HANDLE_CLOSER = 1, HANDLE_USER_VALUES = 1 };

#define DEFAULT_INPUT "_IO_input"
#define DEFAULT_OUTPUT "_IO_output"

// ---- stock_install.c

// Replaces the functions of `io`, the methods of its handles, `print` and
// `os.exit`.
void stock_io_install(lua_State *L);

// Pushes the handle of the standard file `number` and returns it; pushes
// nothing and returns NULL unless that is slow.
FileHandle *push_standard_handle(lua_State *L, int number);

// ---- stock_file.c

int f_io_close(lua_State *L);
int f_io_input(lua_State *L);
int f_io_lines(lua_State *L);
int f_io_open(lua_State *L);
int f_io_output(lua_State *L);
int f_file_close(lua_State *L);
int f_file_seek(lua_State *L);
int f_file_setvbuf(lua_State *L);
int close_variable(lua_State *L);
int gc_handle(lua_State *L);

// The `close` of a standard file: refuses.
int push_no_close(lua_State *L);

// The open slow handle at `index`, or NULL for anything else.
FileHandle *slow_handle(lua_State *L, int index);

// Pushes the default file `key` and returns its handle; pushes nothing and
// returns NULL unless that is an open slow one.
FileHandle *push_default_handle(lua_State *L, const char *key);

// The value on top if that is an open slow handle; else pops it.
FileHandle *keep_if_slow(lua_State *L);

// Pushes a handle in its closed state, with the buffering of a pipe.
FileHandle *push_closed_handle(lua_State *L, int number, const char *mode);

// Opens a handle on `stream`, which it then owns. Returns 0 or UV_ENOMEM.
int open_handle(Reactor *reactor, FileHandle *handle, FILE *stream);

// Whether opening or using the file can take for ever.
bool is_slow_kind(const struct stat *info);
bool is_slow_path(const char *path);

// Goes on with the stock function that the running one replaces, in its frame:
// messages name it as ever.
int call_stock(lua_State *L);

// Whether the running function may suspend its task.
bool can_wait(lua_State *L);

// Closes the handle at index 1; the results are those of `close`. Waits until
// what was written is through. `failed`: because of an error.
int close_handle(lua_State *L, FileHandle *handle, bool failed);

// Ends waits for a file that is being closed.
void abandon_reads(SlowFile *file);

// ---- stock_exit.c

int f_os_exit(lua_State *L);

// ---- stock_read.c

int f_io_read(lua_State *L);
int f_file_read(lua_State *L);
int f_file_lines(lua_State *L);

// Pushes the iterator of `lines` over the handle at index 1, with the formats
// above it. It closes the file at its end if `closes`.
int push_lines(lua_State *L, bool closes);

// ---- stock_write.c

int f_io_write(lua_State *L);
int f_file_write(lua_State *L);
int f_io_flush(lua_State *L);
int f_file_flush(lua_State *L);
int f_print(lua_State *L);

// Writes to the standard output (1) or error (2) like print: raises an error
// object. Where it cannot wait it blocks.
int stock_write(lua_State *L, int number, const char *bytes, size_t size);

// Suspends until the file has handed over all but `keep` bytes; blocks where
// the VM cannot suspend. Then `end` is called with the wait's status in
// `context`; with 0 for a context when there was no wait, and the stack as it
// was. Otherwise the wait lies on top of it.
int await_output(lua_State *L, SlowFile *file, size_t keep, lua_KFunction end);

#endif
