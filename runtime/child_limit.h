// How many descriptors may be open: as many as the system lets us have, and in
// our children as many as when we were started. A program that was promised
// 1024 may use select(), or close them one by one.

#ifndef SBX_CHILD_LIMIT_H
#define SBX_CHILD_LIMIT_H

// Raises our soft limit to the hard one. Call once, before any child.
void child_limit_raise(void);

#endif
