// The end of the ready queue that the run queue takes tasks from; task_ready
// and task_shuffle stand in task.h.

#ifndef SBX_READY_H
#define SBX_READY_H

#include "task.h"

static inline bool any_ready(const Reactor *reactor) {
  return reactor->ready_first || reactor->bag_count > 0;
}

// Takes out the task to be resumed next. There must be one.
Task *take_ready(Reactor *reactor);

// Makes room for so many tasks to be ready at once, in a random order: nothing
// can fail then when they are. Raises where there is no memory.
void ready_reserve(lua_State *L, size_t tasks);

#endif
