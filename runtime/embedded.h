// What the build puts into the binary: the Lua library, the pages and the
// sandbox agent. The tables are written by runtime/build/embed.c.

#ifndef SBX_EMBEDDED_H
#define SBX_EMBEDDED_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct EmbeddedFile {
  const char *name;            // as `require` says it: "sbx.fs"; of a file
                               // that is no module its path: "sbx/a/b.css"
  const unsigned char *bytes;  // a zero follows them
  size_t size;
  const unsigned char *code;  // of a module, compiled
  size_t code_size;           // 0 of what is no module
} EmbeddedFile;

// Every module of lua/sbx, the files of the web page and the pages of docs, in
// the order of strcmp. The name of an init.lua is its folder's.
extern const EmbeddedFile embedded_files[];
extern const size_t embedded_count;

// The release of Lua that compiled the modules.
extern const char embedded_release[];

// The static program that runs inside a local sandbox, an ELF file.
extern const unsigned char embedded_agent[];
extern const size_t embedded_agent_size;

// The program that speaks SSH for the local server, an ELF file; empty where
// the build had no libssh.
extern const unsigned char embedded_ssh[];
extern const size_t embedded_ssh_size;

// Both look into the folder SBXLUA_LUA first, where that is set, so that the
// library can be changed without a build.

// Pushes the bytes of the file `name`, of a module its source; false, and
// nothing pushed, where there is none.
bool embedded_push(lua_State *L, const char *name);

// Pushes the module `name` as a function and returns LUA_OK, or pushes a
// message and returns another status. Sets `*found` to false, and pushes
// nothing, where there is no such module. `chunk` is the chunk's name.
int embedded_load(lua_State *L, const char *name, const char *chunk,
                  bool *found);

#endif
