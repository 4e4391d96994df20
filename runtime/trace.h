// A trace of the run: tasks and waits, streamed to a file as JSON in the trace
// event format of Chrome. Off unless asked for: then `Reactor.trace` is NULL,
// and each of the places that tell it something tests just that.
//
// The file is whole JSON after every write: the end of the document is written
// behind the events and overwritten by the next ones.

#ifndef SBX_TRACE_H
#define SBX_TRACE_H

#include <lua.h>
#include <stddef.h>

#include "reactor.h"
#include "task.h"

// Begins a trace in the file, which is made anew. `clean` is a reference to the
// Lua function that names go through. Returns 0 or a libuv error; `clean` is
// taken over if it is 0.
int trace_open(lua_State *L, Reactor *reactor, const char *path, int clean);

// Ends it: what has not ended yet ends now. Returns 0, or the first error that
// writing had; what came after that is missing in the file.
int trace_close(lua_State *L, Reactor *reactor);

// Adds one event, an object as JSON text.
void trace_event(Reactor *reactor, const char *json, size_t length);

// Microseconds since the trace began.
double trace_now(const Reactor *reactor);

// Writes out what is at hand, from a signal handler, before the process dies.
void trace_abandon(Reactor *reactor);

void trace_task_begins(Reactor *reactor, const Task *task);
void trace_task_ends(lua_State *L, Reactor *reactor, const Task *task);
void trace_wait_begins(Reactor *reactor, Wait *wait);
void trace_wait_settles(Reactor *reactor, Wait *wait);
void trace_wait_ends(Reactor *reactor, const Wait *wait);

#endif
