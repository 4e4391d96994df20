// Reads a request, as strict as the wire: what a caller can get wrong is a
// plain error. lua/sbx/http/ has checked before and says it better.

#define _GNU_SOURCE

#include "http_request.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http_cookies.h"
#include "luax.h"

enum { PARTS_MOST = 100, HEADERS_MOST = 200 };

// Leaves the field's value on the stack, which keeps its bytes alive until the
// request has ended, whatever becomes of the table.
static const char *keep_bytes(lua_State *L, int index, const char *name,
                              size_t *size) {
  int type = lua_getfield(L, index, name);
  if (type == LUA_TNIL) return NULL;
  if (type != LUA_TSTRING)
    luaL_error(L, "%s: expected a string, got a %s", name,
               luaL_typename(L, -1));
  return lua_tolstring(L, -1, size);
}

static const char *keep_text(lua_State *L, int index, const char *name) {
  size_t size = 0;
  const char *text = keep_bytes(L, index, name, &size);
  if (text && strlen(text) != size)
    luaL_error(L, "%s: must not hold a zero byte", name);
  return text;
}

static bool is_token(const char *text) {
  static const char others[] = "!#$%&'*+-.^_`|~";
  for (const char *c = text; *c; c++) {
    bool letter = (*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') ||
                  (*c >= 'a' && *c <= 'z');
    if (!letter && !strchr(others, *c)) return false;
  }
  return *text != '\0';
}

// Refuses what would end the line early and begin another header.
static void check_line(lua_State *L, const char *what, const char *text) {
  for (const char *c = text; c && *c; c++)
    if ((unsigned char)*c < ' ' && *c != '\t')
      luaL_error(L, "%s: must not hold control characters", what);
}

static void append_header(lua_State *L, Transfer *transfer, const char *line) {
  struct curl_slist *grown = curl_slist_append(transfer->headers, line);
  if (!grown) luaL_error(L, "not enough memory");
  transfer->headers = grown;
}

typedef struct Given {
  bool type, agent, encoding;  // headers that the caller has set
} Given;

static void note_given(lua_State *L, Given *given, const char *name) {
  if (strcasecmp(name, "content-length") == 0 ||
      strcasecmp(name, "transfer-encoding") == 0)
    luaL_error(L, "headers: %s follows from the body and cannot be set", name);
  given->type |= strcasecmp(name, "content-type") == 0;
  given->agent |= strcasecmp(name, "user-agent") == 0;
  given->encoding |= strcasecmp(name, "accept-encoding") == 0;
}

// headers: {name, value, name, value, ...}
static void read_headers(lua_State *L, Transfer *transfer) {
  Given given = {0};
  lua_Integer count = 0;
  int type = lua_getfield(L, 1, "headers");
  if (type == LUA_TTABLE)
    count = luaL_len(L, -1);
  else if (type != LUA_TNIL)
    luaL_error(L, "headers: expected a table, got a %s", luaL_typename(L, -1));
  if (count / 2 > HEADERS_MOST)
    luaL_error(L, "headers: more than %d", HEADERS_MOST);
  for (lua_Integer i = 1; i < count; i += 2) {
    lua_geti(L, -1, i);
    lua_geti(L, -2, i + 1);
    size_t size = 0;
    const char *name = lua_tostring(L, -2);
    const char *value = lua_tolstring(L, -1, &size);
    if (!name || !is_token(name)) luaL_error(L, "headers: not a header name");
    if (!value || strlen(value) != size)
      luaL_error(L, "headers: %s: expected text without zero bytes", name);
    check_line(L, name, value);
    note_given(L, &given, name);
    // libcurl takes "Name;" for a header without a value.
    lua_pushfstring(L, size > 0 ? "%s: %s" : "%s;", name, value);
    append_header(L, transfer, lua_tostring(L, -1));
    lua_pop(L, 3);
  }
  append_header(L, transfer, "Expect:");
  if (!given.type && !transfer->parts)
    append_header(L, transfer, "Content-Type:");
  if (!given.agent)
    append_header(L, transfer, "User-Agent: sbxlua/" SBXLUA_VERSION);
  transfer->decode = !given.encoding && field_boolean(L, 1, "decode", true);
}

// The source of the table at `index`: bytes, a file, or `feed`, with the size
// that is to come, or -1.
static void read_source(lua_State *L, int index, Source *source,
                        const char *bytes, const char *path) {
  size_t size = 0;
  source->bytes = keep_bytes(L, index, bytes, &size);
  source->path = keep_text(L, index, path);
  source->size = (int64_t)size;
  lua_getfield(L, index, "feed");
  source->feed.active = !lua_isnil(L, -1);
  if (!source->feed.active) return;
  source->size = luaL_checkinteger(L, -1);
  luaL_argcheck(L, source->size >= -1, 1, "feed: expected a size or -1");
}

// One part: {name=, filename=?, type=?, data= | path= | feed=}
static void read_part(lua_State *L, Transfer *transfer, Part *part) {
  int index = lua_gettop(L);
  luaL_argcheck(L, lua_istable(L, index), 1, "parts: expected tables");
  part->source.transfer = transfer;
  part->name = keep_text(L, index, "name");
  part->filename = keep_text(L, index, "filename");
  part->type = keep_text(L, index, "type");
  check_line(L, "type", part->type);
  if (!part->name) luaL_error(L, "parts: a part has no name");
  Source *source = &part->source;
  read_source(L, index, source, "data", "path");
  int sources = (source->bytes != NULL) + (source->path != NULL) +
                (source->feed.active ? 1 : 0);
  if (sources != 1)
    luaL_error(L, "part '%s': expected data, path or feed", part->name);
}

static void read_parts(lua_State *L, Transfer *transfer) {
  if (lua_getfield(L, 1, "parts") == LUA_TNIL) return;
  luaL_argcheck(L, lua_istable(L, -1), 1, "parts: expected a table");
  int list = lua_gettop(L);
  lua_Integer count = luaL_len(L, list);
  luaL_argcheck(L, count > 0 && count <= PARTS_MOST, 1,
                "parts: expected 1 to 100 of them");
  Part *parts = calloc((size_t)count, sizeof(*parts));
  if (!parts) {
    luaL_error(L, "not enough memory");
    return;
  }
  transfer->parts = parts;
  transfer->part_count = (size_t)count;
  for (lua_Integer i = 0; i < count; i++)
    parts[i].source.fd = -1;
  luaL_checkstack(L, (int)count * 6 + 20, "parts");
  for (lua_Integer i = 0; i < count; i++) {
    lua_geti(L, list, i + 1);
    read_part(L, transfer, &parts[i]);
  }
}

static void read_body(lua_State *L, Transfer *transfer) {
  Source *body = &transfer->body;
  read_source(L, 1, body, "body", "body_path");
  transfer->has_body = body->bytes || body->path || body->feed.active;
  read_parts(L, transfer);
  int bodies = (body->bytes != NULL) + (body->path != NULL) +
               (body->feed.active ? 1 : 0) + (transfer->parts != NULL);
  luaL_argcheck(L, bodies <= 1, 1,
                "expected one of body, body_path, feed and parts");
}

static double field_seconds(lua_State *L, const char *name) {
  double seconds = field_number(L, 1, name, 0);
  if (seconds < 0 || seconds > 1e9)
    luaL_error(L, "%s: expected seconds from 0 to 1000000000", name);
  return seconds;
}

static void read_limits(lua_State *L, Transfer *transfer) {
  transfer->timeout = field_seconds(L, "timeout");
  transfer->connect_timeout = field_seconds(L, "connect_timeout");
  transfer->idle_timeout = field_seconds(L, "idle_timeout");
  transfer->queue_timeout = field_seconds(L, "queue_timeout");
  lua_Integer limit = field_integer(L, 1, "limit", 0);
  lua_Integer most = field_integer(L, 1, "max_body", LUA_MAXINTEGER);
  luaL_argcheck(L, limit >= 0, 1, "limit: expected 0 or more");
  luaL_argcheck(L, most >= 0, 1, "max_body: expected 0 or more");
  transfer->limit = (size_t)limit;
  transfer->max_body = (size_t)most;
}

static void read_target(lua_State *L, Transfer *transfer) {
  transfer->method = keep_text(L, 1, "method");
  transfer->url = keep_text(L, 1, "url");
  transfer->unix_path = keep_text(L, 1, "unix");
  transfer->save_path = keep_text(L, 1, "save");
  transfer->proxy = keep_text(L, 1, "proxy");
  transfer->connect_to = keep_text(L, 1, "connect_to");
  transfer->group = keep_text(L, 1, "group");
  // Longer ones would share the queue of another.
  luaL_argcheck(L, !transfer->group || strlen(transfer->group) <= 200, 1,
                "group: longer than 200 bytes");
  luaL_argcheck(L, transfer->method && is_token(transfer->method), 1,
                "method: expected letters such as GET");
  luaL_argcheck(L, strcmp(transfer->method, "CONNECT") != 0, 1,
                "method: CONNECT is for proxies");
  luaL_argcheck(L, transfer->url, 1, "url: expected a string");
  for (const char *c = transfer->url; *c; c++)
    if ((unsigned char)*c <= ' ' || *c == 0x7f)
      luaL_error(L, "url: must not hold spaces or control characters");
}

static void read_tls(lua_State *L, Transfer *transfer) {
  transfer->verify = field_boolean(L, 1, "verify", true);
  transfer->ca_file = keep_text(L, 1, "ca_file");
  if (lua_getfield(L, 1, "tls") == LUA_TNIL) return;
  luaL_argcheck(L, lua_istable(L, -1), 1, "tls: expected a table");
  int index = lua_gettop(L);
  Security *security = &transfer->security;
  security->certificate = keep_text(L, index, "cert");
  security->key = keep_text(L, index, "key");
  security->pinned_key = keep_text(L, index, "pinned_key");
  if (field_boolean(L, index, "only_1_3", false))
    security->least = CURL_SSLVERSION_TLSv1_3;
}

static void read_cookies(lua_State *L, Transfer *transfer) {
  if (lua_getfield(L, 1, "cookies") == LUA_TNIL) return;
  transfer->jar = check_cookie_jar(L, -1);
  transfer->cookie = keep_text(L, 1, "cookie");
  check_line(L, "cookie", transfer->cookie);
}

void read_request(lua_State *L, Transfer *transfer) {
  luaL_checkstack(L, 60, "request");
  read_target(L, transfer);
  read_body(L, transfer);
  read_headers(L, transfer);
  read_limits(L, transfer);
  read_tls(L, transfer);
  read_cookies(L, transfer);
  transfer->at_most_once = field_boolean(L, 1, "at_most_once", false);
  transfer->http2 = field_boolean(L, 1, "http2", false);
  transfer->redirects = field_boolean(L, 1, "redirects", false);
  const char *problem = transfer_prepare(transfer);
  if (problem) luaL_error(L, "url: %s", problem);
}
