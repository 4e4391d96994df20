// The terminal on standard input, while a person edits lines on it.

#ifndef SBX_TERMINAL_H
#define SBX_TERMINAL_H

// Gives the terminal the modes that it had before it was made raw; again is
// harmless. May be called from a signal handler.
void terminal_restore(void);

#endif
