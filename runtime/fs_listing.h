// A Lua object over what a folder held: entries are taken one by one, so that a
// large folder is no long step.

#ifndef SBX_FS_LISTING_H
#define SBX_FS_LISTING_H

#include <lua.h>

#include "fs_list.h"

// Pushes an empty Listing. The list in it is to be filled once, perhaps by a
// thread while the userdata is on a stack; it belongs to the userdata.
FsList *fs_listing_push(lua_State *L);

#endif
