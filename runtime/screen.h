// What stands on a terminal beside the output, such as bars or a prompt: its
// owner, a Lua function, takes it away before something is written and puts it
// back before the program waits.

#ifndef SBX_SCREEN_H
#define SBX_SCREEN_H

#include <lua.h>
#include <stddef.h>

struct Screen;

// To be called before anything goes to the standard output (1) or error (2).
// Calls the owner, if that is a terminal. Never raises.
void screen_before_output(lua_State *L, int number);

// To be called with what goes there: the screen knows whether the last line of
// the output is finished.
void screen_note_output(lua_State *L, int number, const char *bytes,
                        size_t size);

// To be called once the tasks that were ready have run: calls the owner if it
// asked for it. Never raises.
void screen_after_turn(lua_State *L);

#endif
