// One request, from its headers to the last byte of its answer. Two sides hold
// it: libmicrohttpd until it is done with it, and whoever took it from
// server_next. Either may let go first. No Lua values here.
//
// libmicrohttpd works on a connection only while it is not suspended, and every
// request is suspended whenever it waits for its handler:
//
//   HEADERS  the peer holds the body back until the handler asks for it
//   BODY     the body arrives; suspended while the reader is behind
//   READY    all has arrived; suspended until there is an answer
//   REPLY    the answer goes out; suspended while a streamed one has no bytes
//   OVER     libmicrohttpd has forgotten it

#ifndef SBX_SERVER_REQUEST_H
#define SBX_SERVER_REQUEST_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server_upload.h"
#include "wait.h"

struct Connection;

typedef enum Stage { HEADERS, BODY, READY, REPLY, OVER } Stage;

typedef struct Request Request;

struct Request {
  unsigned holders;  // libmicrohttpd's side and the handler's
  Stage stage;
  struct Connection *connection;  // NULL once OVER
  struct MHD_Connection *socket;  // the same, as libmicrohttpd calls it
  Request *next, *previous;       // among the server's live ones
  Request *next_queued;           // among those nobody has accepted
  bool suspended;
  bool gone;  // the peer closed, or the connection broke

  char *target;  // as sent: path and query
  char *method;
  char *headers;  // "name\0value\0" for each
  size_t headers_size;
  char remote[48];        // the peer's address, numeric
  bool expects_continue;  // the peer holds its body back until asked
  uint64_t length;        // of the body; UINT64_MAX when not announced

  Upload body;
  bool wants_body;     // the handler asked for it
  bool read_claimed;   // a task is in `read`
  Wait *reader;        // its wait while it is suspended, else NULL
  uint64_t discarded;  // bytes nobody wanted
  uint64_t received;   // of the body, those among them

  struct MHD_Response *response;  // until libmicrohttpd has it
  unsigned status;
  bool answered;      // request_send was called
  bool streamed;      // the answer comes from request_feed
  bool bodiless;      // HEAD, 204, 304: the bytes go nowhere
  bool finished;      // the stream is complete
  bool broken;        // the stream cannot be completed: cut it
  uint64_t promised;  // bytes of the stream; UINT64_MAX if unknown
  uint64_t written;   // of them, until now
  uint64_t sent;      // bytes given for the answer's body
  const char *feed;   // lent by the writer while it waits
  size_t feed_left;
  bool write_claimed;
  Wait *writer;
};

// The callbacks for libmicrohttpd; `cls` is the Server.
void *on_request_line(void *cls, const char *target,
                      struct MHD_Connection *socket);
enum MHD_Result on_request(void *cls, struct MHD_Connection *socket,
                           const char *url, const char *method,
                           const char *version, const char *data, size_t *size,
                           void **context);
void on_request_over(void *cls, struct MHD_Connection *socket, void **context,
                     enum MHD_RequestTerminationCode why);

// Lets libmicrohttpd go on with a suspended request.
void request_resume(Request *request);

// The handler's side lets go. Without an answer the peer gets a 500, or the end
// of a stream that was not finished is cut off.
void request_release(Request *request);

// Starts or goes on with receiving the body, if there is room for more of it.
void request_want_body(Request *request);

// Switches the body to a form; see upload_start_form. UV_ECONNRESET when the
// connection is over.
int request_start_form(Request *request);

// Begins an answer that request_send will give: with these bytes, which are
// copied, or as a stream of `length` bytes (UINT64_MAX: as many as come). A
// begun answer may be begun anew. Returns 0 or UV_ENOMEM.
int request_begin(Request *request, unsigned status, const char *bytes,
                  size_t size);
int request_begin_stream(Request *request, unsigned status, uint64_t length);

// Adds a header to the begun answer. Name and value are clean (no control
// bytes). Returns 0 or UV_EINVAL when libmicrohttpd refuses it.
int request_add_header(Request *request, const char *name, const char *value);

// Gives the begun answer away. What is left of the body is thrown away. Does
// nothing more when the connection is over.
void request_send(Request *request);

// Breaks the connection off in place of an answer, after as many of these
// bytes, as they are, as it takes at once; none of them where it is encrypted.
void request_cut(Request *request, const char *bytes, size_t size);

// Lends `size` bytes to the stream; `request->writer`, set by the caller, is
// settled once they are taken. request_unfeed takes the rest back, after which
// the stream is broken.
void request_feed(Request *request, const char *bytes, size_t size);
void request_unfeed(Request *request);

// Ends the stream; one that is shorter than promised is cut.
void request_finish(Request *request);

#endif
