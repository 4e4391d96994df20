// The end of the ready queue that the run queue takes tasks from; task_ready
// and task_shuffle stand in task.h.

#ifndef SBX_READY_H
#define SBX_READY_H

#include "task.h"

// Takes out the task to be resumed next. There must be one.
Task *take_ready(Reactor *reactor);

#endif
