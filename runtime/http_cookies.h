// Cookies that outlive a request; see http_cookies.c.

#ifndef SBX_HTTP_COOKIES_H
#define SBX_HTTP_COOKIES_H

#include <lua.h>

struct CookieJar;

// The jar at `index`, or a plain error.
struct CookieJar *check_cookie_jar(lua_State *L, int index);

// cookies(): a jar with the methods lines, add, clear
int f_cookies(lua_State *L);

// Makes the type known; called once.
void open_cookies(lua_State *L);

#endif
