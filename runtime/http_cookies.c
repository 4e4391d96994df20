// Cookie jars. libcurl keeps the cookies and decides who gets them; a jar is
// one of its share objects, lent to each request that names it. One thread
// needs no locks.

#include "http_cookies.h"

#include <curl/curl.h>
#include <lauxlib.h>
#include <string.h>

#include "luax.h"
#include "reactor.h"
#include "transfer_pool.h"

static const char TYPE[] = "sbx.http.cookies";

enum {
  COOKIES_MOST = 1000,
  COOKIES_KEPT = 700,  // once there are more than that
  ANSWERS_MOST = 20,   // between two counts; libcurl takes 50 from each
};

typedef struct CookieJar {
  CURLSH *share;     // NULL: closed
  CURL *easy;        // our own way in
  unsigned answers;  // requests since the cookies were counted
} CookieJar;

static struct curl_slist *list_cookies(CookieJar *jar) {
  struct curl_slist *list = NULL;
  (void)curl_easy_getinfo(jar->easy, CURLINFO_COOKIELIST, &list);
  return list;
}

// A server may set new cookies for ever. Which of them go is nobody's right.
static void trim(CookieJar *jar) {
  struct curl_slist *list = list_cookies(jar);
  size_t count = 0;
  for (const struct curl_slist *at = list; at; at = at->next)
    count++;
  if (count > COOKIES_MOST) {
    (void)curl_easy_setopt(jar->easy, CURLOPT_COOKIELIST, "ALL");
    for (const struct curl_slist *at = list; at; at = at->next)
      if (count-- <= COOKIES_KEPT)
        (void)curl_easy_setopt(jar->easy, CURLOPT_COOKIELIST, at->data);
  }
  curl_slist_free_all(list);
}

CURLSH *cookie_jar_share(CookieJar *jar) {
  if (++jar->answers >= ANSWERS_MOST) {
    jar->answers = 0;
    trim(jar);
  }
  return jar->share;
}

struct CookieJar *check_cookie_jar(lua_State *L, int index) {
  return luaL_checkudata(L, index, TYPE);
}

static int gc_cookies(lua_State *L) {
  CookieJar *jar = check_cookie_jar(L, 1);
  if (jar->easy) curl_easy_cleanup(jar->easy);
  // Requests pin the jar that they use, so that it is free by now.
  if (jar->share) (void)curl_share_cleanup(jar->share);
  jar->easy = NULL;
  jar->share = NULL;
  return 0;
}

// lines(): the cookies as lines of a cookie file, see the type annotations
static int f_lines(lua_State *L) {
  CookieJar *jar = check_cookie_jar(L, 1);
  struct curl_slist *list = list_cookies(jar);
  // Lua may raise while it has our list; the box frees it then.
  struct curl_slist **box = lua_newuserdatauv(L, sizeof(*box), 0);
  *box = list;
  luaL_setmetatable(L, "sbx.http.cookies.list");
  lua_newtable(L);
  lua_Integer count = 0;
  for (const struct curl_slist *at = list; at; at = at->next) {
    lua_pushstring(L, at->data);
    lua_rawseti(L, -2, ++count);
  }
  curl_slist_free_all(list);
  *box = NULL;
  return 1;
}

static int gc_list(lua_State *L) {
  struct curl_slist **box = lua_touserdata(L, 1);
  curl_slist_free_all(*box);
  *box = NULL;
  return 0;
}

// add(line): a line of a cookie file; what is none is left out
static int f_add(lua_State *L) {
  CookieJar *jar = check_cookie_jar(L, 1);
  const char *line = luaL_checkstring(L, 2);
  // Other texts are commands to libcurl.
  luaL_argcheck(L, strchr(line, '\t'), 2, "expected a line of a cookie file");
  (void)curl_easy_setopt(jar->easy, CURLOPT_COOKIELIST, line);
  return 0;
}

// clear(): forgets all cookies
static int f_clear(lua_State *L) {
  CookieJar *jar = check_cookie_jar(L, 1);
  (void)curl_easy_setopt(jar->easy, CURLOPT_COOKIELIST, "ALL");
  return 0;
}

int f_cookies(lua_State *L) {
  CookieJar *jar = lua_newuserdatauv(L, sizeof(*jar), 0);
  memset(jar, 0, sizeof(*jar));
  luaL_setmetatable(L, TYPE);
  int status = transfer_pool_open(reactor_of(L));
  if (status != 0) return raise_error(L, status, "cookies");
  jar->share = curl_share_init();
  jar->easy = curl_easy_init();
  if (!jar->share || !jar->easy ||
      curl_share_setopt(jar->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_COOKIE) !=
          CURLSHE_OK ||
      curl_easy_setopt(jar->easy, CURLOPT_SHARE, jar->share) != CURLE_OK)
    return luaL_error(L, "not enough memory");
  return 1;
}

static const luaL_Reg methods[] = {
    {"lines", f_lines},
    {"add",   f_add  },
    {"clear", f_clear},
    {NULL,    NULL   },
};

void open_cookies(lua_State *L) {
  luaL_newmetatable(L, TYPE);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, gc_cookies);
  lua_setfield(L, -2, "__gc");
  luaL_newmetatable(L, "sbx.http.cookies.list");
  lua_pushcfunction(L, gc_list);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 2);
}
