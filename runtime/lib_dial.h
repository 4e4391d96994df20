// The userdata of a dial, for the bindings that make one and take one over.

#ifndef SBX_LIB_DIAL_H
#define SBX_LIB_DIAL_H

#include <lua.h>

#include "dial.h"

// The slot of the dial at `index`: NULL in it once it is closed or taken over.
// Raises a plain error when there is no dial at `index`.
Dial **check_dial(lua_State *L, int index);

#endif
