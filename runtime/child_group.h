// The process group of a child that has ended: who of its descendants is left.

#ifndef SBX_CHILD_GROUP_H
#define SBX_CHILD_GROUP_H

#include <stdbool.h>
#include <sys/types.h>

// Whether a process of this group still runs. A zombie, which waits for a
// parent that may never look, does not.
bool child_group_runs(pid_t group);

#endif
