// The outcome of a transfer as Lua values; for lib_http.c.

#ifndef SBX_HTTP_ANSWER_H
#define SBX_HTTP_ANSWER_H

#include <lua.h>

#include "transfer.h"

// Pushes the table {status=, reason=, headers=, ...} of an answer.
void push_answer(lua_State *L, const Transfer *transfer);

// Pushes where the time went.
void push_timing(lua_State *L, const Timing *timing);

// Pushes the error object of a transfer that has failed.
void push_failure(lua_State *L, const Transfer *transfer);

#endif
