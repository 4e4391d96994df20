// Where a script is: "file.lua:12", for reports.

#ifndef SBX_PLACE_H
#define SBX_PLACE_H

#include <lua.h>
#include <stdbool.h>

#include "task.h"

enum { PLACE_SIZE = 96 };

// The innermost line of the script that the coroutine is in; frames of the
// library and of C do not count. False when there is none.
bool place_in(lua_State *co, char place[PLACE_SIZE]);

// The same over all coroutines of a task, from the innermost one outwards.
bool place_of_task(const Task *task, char place[PLACE_SIZE]);

#endif
