// Looks for the script among the frames of a task.

#include "place.h"

#include <stdio.h>
#include <string.h>

bool place_in(lua_State *co, char place[PLACE_SIZE]) {
  lua_Debug ar;
  for (int level = 0; lua_getstack(co, level, &ar); level++) {
    lua_getinfo(co, "Sl", &ar);
    if (ar.currentline <= 0 || strncmp(ar.source, "@sbx/", 5) == 0) continue;
    (void)snprintf(place, PLACE_SIZE, "%s:%d", ar.short_src, ar.currentline);
    return true;
  }
  return false;
}

bool place_of_task(const Task *task, char place[PLACE_SIZE]) {
  bool found = false;
  // From the outermost coroutine inwards: the last one that knows counts.
  for (lua_State *co = task->co; co; co = coroutine_inner(co))
    if (place_in(co, place)) found = true;
  return found;
}
