// The HTTP listener: a libmicrohttpd daemon that runs on our loop and nowhere
// else. Its epoll descriptor and its next deadline are watched; MHD_run is
// called from the loop only, never from within one of its own callbacks.

#ifndef SBX_SERVER_H
#define SBX_SERVER_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "server_request.h"
#include "wait.h"

typedef struct Server {
  uv_poll_t poll;    // of the daemon's epoll descriptor
  uv_timer_t timer;  // the daemon's next deadline
  uv_idle_t soon;    // active while the daemon has work at once
  uv_timer_t heads;  // looks for heads that take too long
  unsigned handles;  // of the four above, open or closing
  uv_loop_t *loop;
  struct MHD_Daemon *daemon;
  size_t max_header;               // bytes
  uint64_t head_ms;                // for a head in all
  struct Connection *connections;  // all of them
  int port;                        // the one in use
  bool closing;
  bool freed;             // a connection ended in this turn
  Request *live;          // all that libmicrohttpd holds
  Request *first, *last;  // the queue of those nobody has accepted
  bool accept_claimed;    // a task is in `accept`
  Wait *acceptor;         // its wait while it is suspended, else NULL
} Server;

// A connection of a peer; lives from its accept until its socket is closed.
typedef struct Connection {
  uv_poll_t poll;  // sees the peer go
  Server *server;
  struct Connection *next, *previous;  // among the server's
  struct MHD_Connection *socket;
  Request *request;  // the one being served, else NULL
  int fd;            // of its socket, or -1
  uint64_t head_by;  // loop time by which a head must be here; 0: none is due
  bool watching;     // `poll` is open
  bool peer_closed;  // it will send no more
} Connection;

typedef struct ServerOptions {
  const char *host;          // numeric address, or "localhost"
  int port;                  // 0: any free one
  size_t max_header;         // bytes of a request's line and headers
  unsigned max_connections;  // more wait in the kernel's queue
  unsigned max_per_peer;     // of them from one address; 0: no limit of its own
  uint64_t head_ms;          // for a request's line and headers in all
  const char *tls_cert;      // PEM text, or NULL for plain HTTP
  const char *tls_key;       // the same; not encrypted
} ServerOptions;

// Binds, listens and starts. Returns 0 or a libuv error; UV_EINVAL when the
// host is not an address, UV_EPROTO when TLS cannot be had with this
// certificate and key.
int server_open(Server **out, uv_loop_t *loop, const ServerOptions *options);

// Closes the socket and every connection at once, after sending what can be
// sent without waiting. Those who wait are settled with an error. The memory
// goes when the loop has let go of the handles.
void server_close(Server *server);

// The oldest request that nobody has accepted, or NULL. The caller becomes its
// holder: see request_release.
Request *server_next(Server *server);

// For server_request.c: runs the daemon in the next turn of the loop. Without a
// thread of its own it does not notice by itself that a connection was resumed.
void server_schedule(Server *server);

// For server_request.c: the head of the connection's request has come in, or
// the rest of its body; its answer is over and another one may follow; it was
// answered before the whole body came, of which the rest may take a while.
void server_head_came(Connection *connection);
void server_head_due(Connection *connection);
void server_rest_due(Connection *connection);

// For server_request.c: takes a new request into the queue.
void server_enqueue(Server *server, Request *request);

// For server_request.c: takes it out again, if it is still in there.
bool server_unqueue(Server *server, Request *request);

#endif
