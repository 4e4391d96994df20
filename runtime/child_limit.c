#include "child_limit.h"

#include <pthread.h>
#include <sys/resource.h>

// Read in a child between fork and exec, where only a global can be found.
static struct rlimit original;

// libuv has no place for our own steps in a new child; fork itself has. In the
// parent the limit never changes, so that no other thread can run into it.
static void restore_in_child(void) {
  (void)setrlimit(RLIMIT_NOFILE, &original);
}

void child_limit_raise(void) {
  if (getrlimit(RLIMIT_NOFILE, &original) != 0) return;
  if (original.rlim_cur == original.rlim_max) return;
  if (pthread_atfork(NULL, NULL, restore_in_child) != 0) return;
  struct rlimit raised = original;
  raised.rlim_cur = raised.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &raised);
}
