// What a transfer brought back, as Lua values.

#define _GNU_SOURCE

#include "http_answer.h"

#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "luax.h"

static void push_lower(lua_State *L, const char *text, size_t size) {
  char lower[64];
  luaL_Buffer buffer;
  bool small = size <= sizeof(lower);
  char *place = small ? lower : luaL_buffinitsize(L, &buffer, size);
  for (size_t i = 0; i < size; i++)
    place[i] =
        (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
  if (small)
    lua_pushlstring(L, lower, size);
  else
    luaL_pushresultsize(&buffer, size);
}

// Adds the value on top of the stack to the list of cookies below the headers,
// making it when it is the first.
static void add_cookie(lua_State *L, int answer) {
  if (lua_getfield(L, answer, "set_cookies") == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, answer, "set_cookies");
  }
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  lua_pop(L, 1);
}

// Stores the line "Name: value" in the table at `headers`.
static void push_header(lua_State *L, int answer, int headers, const char *line,
                        const char *end) {
  const char *colon = memchr(line, ':', (size_t)(end - line));
  if (!colon || colon == line) return;
  const char *value = colon + 1;
  while (value < end && (*value == ' ' || *value == '\t'))
    value++;
  while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
    end--;
  push_lower(L, line, (size_t)(colon - line));       // name
  lua_pushlstring(L, value, (size_t)(end - value));  // name, value
  if (strcmp(lua_tostring(L, -2), "set-cookie") == 0) add_cookie(L, answer);
  lua_pushvalue(L, -2);
  if (lua_rawget(L, headers) == LUA_TSTRING) {  // name, value, earlier
    lua_insert(L, -2);
    lua_pushliteral(L, ", ");
    lua_insert(L, -2);
    lua_concat(L, 3);
  } else {
    lua_pop(L, 1);
  }
  lua_rawset(L, headers);
}

// Sets `reason` and `headers` of the answer.
static void push_head(lua_State *L, int answer, const Bytes *head) {
  lua_createtable(L, 0, 8);
  int headers = lua_gettop(L);
  const char *line = head->data, *stop = line ? line + head->size : NULL;
  for (bool first = true; line < stop; first = false) {
    const char *end = memchr(line, '\n', (size_t)(stop - line));
    const char *next = end ? end + 1 : stop;
    if (!end) end = stop;
    if (end > line && end[-1] == '\r') end--;
    if (first) {
      const char *space = memchr(line, ' ', (size_t)(end - line));
      size_t skip = 5;  // " 200 "
      if (space && (size_t)(end - space) > skip)
        lua_pushlstring(L, space + skip, (size_t)(end - space) - skip);
      else
        lua_pushliteral(L, "");
      lua_setfield(L, answer, "reason");
    } else {
      push_header(L, answer, headers, line, end);
    }
    line = next;
  }
  lua_setfield(L, answer, "headers");
}

// Seconds from now that a Retry-After header asks for: a number, or a date.
static void push_retry_after(lua_State *L, int answer) {
  lua_getfield(L, answer, "headers");
  if (lua_getfield(L, -1, "retry-after") == LUA_TSTRING) {
    const char *text = lua_tostring(L, -1);
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0') {
      time_t date = curl_getdate(text, NULL);
      seconds = date == -1 ? -1 : fmax(difftime(date, time(NULL)), 0);
    }
    if (seconds >= 0 && seconds <= 1e9) {
      lua_pushnumber(L, seconds);
      lua_setfield(L, answer, "retry_after");
    }
  }
  lua_pop(L, 2);
}

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

void push_timing(lua_State *L, const Timing *timing) {
  lua_createtable(L, 0, 7);
  set_number(L, "queue", timing->queue);
  set_number(L, "dns", timing->dns);
  set_number(L, "connect", timing->connect);
  set_number(L, "tls", timing->tls);
  set_number(L, "first_byte", timing->first_byte);
  set_number(L, "total", timing->total);
  lua_pushboolean(L, timing->reused);
  lua_setfield(L, -2, "reused");
}

static void push_body(lua_State *L, int answer, const Transfer *transfer) {
  if (transfer->saved)
    lua_pushstring(L, transfer->save_path);
  else
    lua_pushlstring(L, transfer->body_in.data ? transfer->body_in.data : "",
                    transfer->body_in.size);
  lua_setfield(L, answer, transfer->saved ? "saved" : "body");
  lua_pushinteger(L, transfer->received);
  lua_setfield(L, answer, "size");
}

void push_answer(lua_State *L, const Transfer *transfer) {
  lua_createtable(L, 0, 10);
  int answer = lua_gettop(L);
  lua_pushinteger(L, transfer->status);
  lua_setfield(L, answer, "status");
  push_head(L, answer, &transfer->head);
  push_retry_after(L, answer);
  if (!transfer->streamed) push_body(L, answer, transfer);
  lua_pushstring(L, transfer->clean_url);
  lua_setfield(L, answer, "url");
  lua_pushstring(L, transfer->label);
  lua_setfield(L, answer, "label");
  push_timing(L, &transfer->timing);
  lua_setfield(L, answer, "timing");
}

static void set_text(lua_State *L, const char *name, const char *value) {
  if (!value) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

void push_failure(lua_State *L, const Transfer *transfer) {
  const Failure *failure = &transfer->failure;
  lua_createtable(L, 0, 10);
  set_text(L, "kind", failure->kind);
  set_text(L, "code", failure->code);
  set_text(L, "phase", failure->phase);
  set_text(L, "op", "http");
  set_text(L, "method", transfer->method);
  set_text(L, "url", transfer->label);
  if (transfer->unix_path)
    lua_pushfstring(L, "%s %s (socket %s): %s", transfer->method,
                    transfer->label, transfer->unix_path, failure->reason);
  else
    lua_pushfstring(L, "%s %s: %s", transfer->method, transfer->label,
                    failure->reason);
  lua_setfield(L, -2, "message");
  lua_pushboolean(L, transfer->sent);
  lua_setfield(L, -2, "sent");
  bool repeatable = !transfer->sent || !transfer->at_most_once;
  lua_pushboolean(L, failure->transient && repeatable);
  lua_setfield(L, -2, "retryable");
  luaL_setmetatable(L, ERROR_TYPE);
}
