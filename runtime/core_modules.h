// Every binding in this folder: a lib_NAME.c appears here as "sbx.core.NAME",
// opened by luaopen_sbx_core_NAME. The table is written by CMakeLists.txt.

#ifndef SBX_CORE_MODULES_H
#define SBX_CORE_MODULES_H

#include <lauxlib.h>

// Ended by an entry whose name is NULL.
extern const luaL_Reg core_modules[];

#endif
