// Reading a request from a table; see http_request.c.

#ifndef SBX_HTTP_REQUEST_H
#define SBX_HTTP_REQUEST_H

#include <lua.h>

#include "transfer.h"

// Fills `transfer`, which transfer_init has made, from the table at index 1:
//
//   method, url, headers = {name, value, name, value, ...}
//   body | body_path | feed = size or -1 | parts = {{name=, filename=?, type=?,
//   data= | path= | feed= size or -1}, ...}
//   save, unix, proxy, connect_to, group, limit, at_most_once, http2, decode
//   timeout, connect_timeout, idle_timeout, queue_timeout (seconds, 0: none)
//   max_body (bytes), redirects (a status that leads on is not saved)
//   verify, ca_file, tls = {cert=, key=, pinned_key=, only_1_3=}
//   cookies = a jar, cookie = text
//
// Leaves values on the stack above those that were there: the transfer points
// into them. Raises plain errors.
void read_request(lua_State *L, Transfer *transfer);

#endif
