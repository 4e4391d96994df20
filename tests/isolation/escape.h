// Attempts to get out of a sandbox, by name.

#ifndef SBX_TEST_ESCAPE_H
#define SBX_TEST_ESCAPE_H

#include <stddef.h>

typedef struct NamedAttempt {
  const char *name;
  int (*attempt)(void);  // 0 when it got what it should not, else an errno
  int denial;            // an errno that says no here, besides the usual ones
} NamedAttempt;

extern const NamedAttempt attempts[];
extern const size_t attempt_count;

#endif
