// HTTP requests on the loop: libcurl's multi interface driven by libuv. Knows
// no Lua value. A request waits in its host's queue, is admitted, has its host
// name looked up, goes through libcurl, and ends in exactly one call of
// `on_done`, or in transfer_cancel, after which the loop holds no pointer to
// it.

#ifndef SBX_TRANSFER_H
#define SBX_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "reactor.h"
#include "timer.h"

typedef struct Transfer Transfer;
typedef struct TransferPool TransferPool;

// Bytes that come in at the end and go out at the front.
typedef struct Bytes {
  char *data;
  size_t at;              // what went out
  size_t size, capacity;  // what came in; what there is room for
} Bytes;

// What a script hands over of a body piece by piece, see transfer_feed.
typedef struct Feed {
  Bytes bytes;   // not yet taken by libcurl
  bool active;   // the body comes this way
  bool wanted;   // libcurl has asked for bytes
  bool starved;  // ... and waits for them
  bool ended;    // there is no more, or nobody wants it
} Feed;

// Bytes to be sent: from memory, from a file that is read as it is sent, or fed
// by a script.
typedef struct Source {
  const char *bytes;   // lent until the transfer ends; NULL for the others
  const char *path;    // of a regular file; opened at admission
  Feed feed;           // freed by transfer_free
  int64_t size;        // of a file: known once it is open; -1: unknown
  int64_t offset;      // what libcurl has taken
  int fd;              // the open file, else -1
  Transfer *transfer;  // whose failure a read error becomes
} Source;

// One part of a multipart body.
typedef struct Part {
  const char *name, *filename, *type;  // the last two may be NULL
  Source source;
} Part;

// Why a transfer ended without an answer.
typedef struct Failure {
  const char *kind;  // "timeout", "connect", "tls" ...; NULL: it did not fail
  const char *code;  // "ECONNREFUSED", or NULL
  const char
      *phase;      // "queue", "dns", "connect", "send", "wait", "receive" ...
  bool transient;  // another try may work
  char reason[256];
} Failure;

typedef enum TransferState {
  TRANSFER_NEW,
  TRANSFER_QUEUED,
  TRANSFER_RESOLVING,
  TRANSFER_ACTIVE,
  TRANSFER_OPEN,  // a dial that is connected
  TRANSFER_ENDED,
} TransferState;

// How a connection is secured, beyond the usual. NULL and 0: not at all.
typedef struct Security {
  const char *certificate, *key;  // files, PEM: who we are
  const char *pinned_key;         // a file, or "sha256//...;sha256//..."
  long least;                     // a CURL_SSLVERSION_ constant
} Security;

// Where the time went, in seconds. All but `queue` count from admission.
typedef struct Timing {
  double queue;       // from the call to admission
  double dns;         // the look-up; 0 when the address was known
  double connect;     // the TCP handshake; 0 on a reused connection
  double tls;         // the TLS handshake, likewise
  double first_byte;  // until the first byte of the answer
  double total;
  bool reused;  // an existing connection carried the request
} Timing;

struct Transfer {
  Timer clock;  // first, so that a Timer * is a Transfer *

  // The request. The owner zeroes the block, calls transfer_init, fills this
  // in, and keeps what it points to until the end.
  const char *method;
  const char *url;
  const char *unix_path;   // connect to this socket instead
  const char *save_path;   // the body of a status below 400 goes here
  const char *proxy;       // NULL: as the environment says; "": none
  const char *connect_to;  // "host:port" to connect to in place of the URL's
  const char *ca_file;     // NULL: the usual bundle
  Security security;
  struct CookieJar *jar;  // where cookies come from and go to, or NULL
  const char *cookie;     // "a=b; c=d" to send besides those of the jar
  const char *group;      // requests of a group share a queue of their own
  size_t limit;           // at once for this host and group; 0: the default
  struct curl_slist *headers;  // owned: freed by transfer_free
  bool has_body;
  Source body;
  Part *parts;  // owned; instead of `body`
  size_t part_count;
  double queue_timeout, connect_timeout, timeout, idle_timeout;  // 0: none
  size_t max_body;    // bytes, in memory or saved
  bool redirects;     // statuses that lead elsewhere are not saved
  bool streamed;      // the body waits for transfer_take
  bool at_most_once;  // never let libcurl send it a second time
  bool decode;        // ask for and undo compression
  bool verify;        // the server's certificate
  bool http2;         // over TLS
  bool dial;          // only connect: no request, the bytes are the owner's
  void (*on_done)(Transfer *transfer);
  // Or NULL. The head is whole, bytes have come, or there is room for more. May
  // be inside a callback of libcurl: only notes it.
  void (*on_flow)(Transfer *transfer);
  // Of an open dial: what transfer_watch asked for has come.
  void (*on_ready)(Transfer *transfer, int events);

  // The answer, from on_done on; of a streamed one from `head_final` on.
  long status;
  Bytes head;  // "HTTP/1.1 200 OK\r\nName: value\r\n..." of the last response
  Bytes body_in;
  int64_t received;  // bytes of the body, decoded
  bool saved;        // the body is in `save_path`
  Timing timing;
  Failure failure;
  bool sent;        // false: provably no byte of the request went out
  char *label;      // the URL without user, query and fragment
  char *clean_url;  // the URL without user and password
  bool head_final;  // status, headers and timing are known
  bool reading;     // set by the owner while it waits for the body

  // For transfer*.c.
  TransferPool *pool;
  TransferState state;
  struct Host *host;                      // whose slot this takes or waits for
  struct Name *name;                      // while resolving
  struct Line *line;                      // while active
  struct Socket *socket;                  // of its connection, while active
  Transfer *previous, *next;              // of the pool's live transfers
  Transfer *queue_previous, *queue_next;  // of the host's or the name's queue
  char *scheme, *host_name;
  unsigned port;
  char *dial_name;  // of `connect_to`, else NULL
  unsigned dial_port;
  struct curl_slist *resolve;  // what libcurl shall take for an answer of DNS
  struct curl_slist *connect;  // `connect_to` as libcurl wants it
  curl_mime *mime;
  char error_text[CURL_ERROR_SIZE];
  unsigned attempts;  // requests that libcurl began to send
  int socket_error;   // negated errno of a socket that could not be made
  int save_fd;        // the open temporary file, else -1
  char *save_target, *save_temporary;
  size_t head_bytes, head_lines;  // of the head, later of the trailers
  size_t heads;                   // begun; all but the last are interim
  int64_t stated_length;          // by Content-Length, or -1
  bool head_whole;                // the empty line after the headers has come
  bool sink_chosen;     // status known, the first byte of the body was seen
  bool refused;         // an answer came that ends the sending of a fed body
  bool receive_paused;  // libcurl holds back bytes until the reader catches up
  double submitted_at, admitted_at;  // reactor_now()
  double progress_at;                // when `progress` last changed
  int64_t progress;                  // a sum that changes whenever bytes move
};

// What one host's queue looks like, for people.
typedef struct HostStats {
  const char *key;  // "https://host:443", with " [group]" behind it
  size_t limit, active, queued, connections;
  uint64_t started, failed;
  double p50, p90, p99;  // seconds, of the last 256 that ended with an answer
} HostStats;

// Makes the reactor's pool, unless it has one. Returns 0 or a libuv error.
int transfer_pool_open(Reactor *reactor);

// Ends every transfer without calling on_done, closes every connection and
// handle. To be called before the loop runs dry. Harmless without a pool.
void transfer_pool_close(Reactor *reactor);

// Frees the pool once the loop has run dry. Harmless without a pool.
void transfer_pool_free(Reactor *reactor);

// Closes the connections that no transfer uses; the others are closed when
// they are given back. Harmless without a pool.
void transfer_pool_close_idle(Reactor *reactor);

// Calls `visit` for each host that the pool knows.
void transfer_pool_stats(Reactor *reactor,
                         void (*visit)(void *context, const HostStats *stats),
                         void *context);

// Name look-ups started so far; 0 without a pool.
uint64_t transfer_pool_lookups(const Reactor *reactor);

// Sets the defaults in a zeroed block.
void transfer_init(Transfer *transfer);

// Takes the URL apart. Returns NULL, or what is wrong with it: static text.
const char *transfer_prepare(Transfer *transfer);

// Queues a prepared transfer. Returns 0 or a libuv error; on_done may be called
// before it returns.
int transfer_start(Reactor *reactor, Transfer *transfer);

// Ends a transfer in whatever state, without on_done; closes the connection of
// an open dial. Must not be called from a callback of libcurl. Harmless when it
// has ended or never began.
void transfer_cancel(Transfer *transfer);

// Of a streamed body: from now on the task waits for the peer, which is idle
// when it sends nothing.
void transfer_await_peer(Transfer *transfer);

// A streamed body: how many bytes wait at `body_in.data + body_in.at`, and
// taking some of them, which lets the peer go on. Not from a callback.
size_t transfer_ready(const Transfer *transfer);
void transfer_take(Transfer *transfer, size_t size);

// Hands over more of a body that is fed (a copy is taken), or says that there
// is no more. Returns 0 or UV_ENOMEM. Not from a callback.
int transfer_feed(Transfer *transfer, Source *source, const char *bytes,
                  size_t size);
void transfer_end_feed(Transfer *transfer, Source *source);

// Whether the feed should wait before it hands over more.
bool transfer_feed_full(const Source *source);

// Frees what the transfer owns, cancelling it if need be. Harmless when done
// twice; the block itself stays the caller's.
void transfer_free(Transfer *transfer);

// The bytes of an open dial, through TLS and proxies. They return how many, or
// a libuv error: UV_EAGAIN when the socket is not ready, UV_EBADF once the dial
// has ended. 0 received is the end. After UV_EAGAIN from a send the next one
// must begin with the same bytes at the same place: TLS may hold them already.
ssize_t transfer_receive(Transfer *transfer, char *room, size_t size);
ssize_t transfer_send(Transfer *transfer, const char *bytes, size_t size);

// Watches an open dial's socket for UV_READABLE and UV_WRITABLE (0: nothing)
// and calls on_ready, again and again; a broken socket counts as both. With
// `hold` it keeps the loop alive. TLS may have bytes although the socket has
// none: receive until UV_EAGAIN before watching. Returns 0 or a libuv error.
int transfer_watch(Transfer *transfer, int events, bool hold);

// Ends our side of an open dial. Returns 0 or a libuv error: UV_ENOTSUP over
// TLS, where libcurl offers no such thing.
int transfer_shutdown(Transfer *transfer);

#endif
