// What the build puts into the binary as plain bytes: the Lua library and the
// sandbox agent. The tables are written by runtime/embed.cmake.

#ifndef SBX_EMBEDDED_H
#define SBX_EMBEDDED_H

#include <stddef.h>

typedef struct EmbeddedFile {
  const char *name;            // as `require` says it: "sbx.fs"
  const unsigned char *bytes;  // not terminated by a zero
  size_t size;
} EmbeddedFile;

// Every module of lua/sbx, ended by an entry whose name is NULL. The name of
// an init.lua is its folder's.
extern const EmbeddedFile embedded_lua[];

// The static program that runs inside a local sandbox, an ELF file.
extern const unsigned char embedded_agent[];
extern const size_t embedded_agent_size;

#endif
