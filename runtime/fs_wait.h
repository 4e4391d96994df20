// A wait for one of libuv's file requests, and what the bindings for paths and
// for open files have in common.

#ifndef SBX_FS_WAIT_H
#define SBX_FS_WAIT_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "wait.h"

// An open file; the userdata of lib_file.c.
typedef struct File {
  int fd;            // -1 once closed
  bool busy;         // an operation is under way
  int64_t position;  // of the next read or write; -1 where the kernel keeps it
} File;

typedef struct FsWait {
  Wait wait;
  uv_fs_t request;
  File *file;      // whose operation this is, or that open fills, else NULL
  ssize_t result;  // of the request, once it is through
  bool through;    // the request's callback came
  bool advances;   // the file's position moves by the result
  char data[];     // room for a read
} FsWait;

// Step "new". `room` is how many bytes `data` holds.
FsWait *fs_wait_new(lua_State *L, size_t room, const char *what);

// Step "settle": the callback to give to every request. A descriptor or a
// temporary file or folder that nobody takes any more is undone here.
void fs_on_done(uv_fs_t *request);

// Suspends on a request whose start returned `status`. `end` must call
// uv_fs_req_cleanup.
int fs_wait_suspend(lua_State *L, FsWait *op, int status, lua_KFunction end);

// Raises the failure of an operation on the path that is argument 1, or on two
// paths, arguments 1 and 2.
int fs_raise_path(lua_State *L, FsWait *op);
int fs_raise_two_paths(lua_State *L, FsWait *op);

// Arguments: a path that is not empty, permission bits.
const char *fs_check_path(lua_State *L, int index);
int fs_check_mode(lua_State *L, int index);

// Pushes {type, size, mode, mtime, uid, gid}; mtime in seconds since 1970.
void fs_push_facts(lua_State *L, const uv_stat_t *stat);

#endif
