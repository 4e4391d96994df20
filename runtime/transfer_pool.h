// What the files of the HTTP transfer share among themselves. `transfer.h` is
// the contract with everything else.

#ifndef SBX_TRANSFER_POOL_H
#define SBX_TRANSFER_POOL_H

#include <sys/types.h>

#include "transfer.h"

enum {
  DEFAULT_HOST_LIMIT = 128,  // in flight for one host
  SHARD_CAPACITY = 256,      // in flight in one multi handle
  SHARD_CONNECTIONS = 512,   // kept open by one multi handle
  RECORDS_KEPT = 1024,       // hosts, and names, remembered while idle
  LOOKUP_THREADS = 32,
  LATENCY_SAMPLES = 256,
};

// An easy handle. It stays with its shard, whose connections it has warmed.
typedef struct Line {
  CURL *easy;
  struct Shard *shard;
  Transfer *transfer;  // while in use
  struct Line *next;   // in the shard's free list
} Line;

// A multi handle. libcurl 7.88 walks all connections of one twice for each
// request, so that many small ones in one thread are faster than one large.
typedef struct Shard {
  Timer timer;  // first; libcurl's wish to be called
  TransferPool *pool;
  CURLM *multi;
  Line *free;
  size_t in_flight;
  bool http2;    // HTTP/1.1 must not find an HTTP/2 connection in its pool
  bool dials;    // an open dial must not count as an idle connection
  bool retired;  // takes no more transfers; goes when the last has ended
  struct Shard *next;
} Shard;

// A file descriptor that libcurl wants watched.
typedef struct Socket {
  uv_poll_t poll;  // first
  Shard *shard;
  struct Host *host;  // of a connection, for the statistics
  int fd;
  int mask;        // what libuv watches for
  Transfer *user;  // of HTTP/1: whose connection it is, NULL while it is idle
  Transfer *dial;  // whose connection it is once libcurl has let go of it
  bool wanted;     // libcurl waits for events
  bool ours;       // we opened it, so we are told when it is closed
  bool fresh;      // ... unless it never became a connection: see is_closed
  dev_t device;
  ino_t inode;  // of the open socket, whose number may be given away
} Socket;

// The queue of one origin.
typedef struct Host {
  struct Host *next;  // in the bucket
  char *key;
  size_t limit, active, queued, connections;
  Transfer *first, *last;
  uint64_t started, failed;
  float latencies[LATENCY_SAMPLES];
  size_t latency_count;
  bool admitting;  // host_admit is on the stack
  bool listed;     // in the pool's list of hosts with freed slots
  struct Host *next_freed;
} Host;

// A host name and its addresses.
typedef struct Name {
  struct Name *next;  // in the bucket
  char *text;
  char *addresses;  // "127.0.0.1,[::1]", or NULL
  double expires_at;
  Transfer *first, *last;  // waiting for the answer
  bool busy;               // a look-up is running or queued
  struct Name *next_queued;
} Name;

struct TransferPool {
  Reactor *reactor;
  Timer admission;  // fires when slots were freed by cancellation
  Host *freed;
  Shard *shards;
  Socket **sockets;  // by file descriptor
  size_t socket_capacity;
  Transfer *live;
  size_t refusals;   // live transfers that are `refused`, until seen to
  Transfer *broken;  // failed inside a callback of libcurl, by queue_next
  Host *hosts[256];
  size_t host_count;
  Name *names[256];
  size_t name_count;
  Name *queued_first, *queued_last;  // names that wait for a thread
  size_t threads;                    // running look-ups
  size_t resolving;                  // transfers that wait for one
  uint64_t lookups;
  struct Mailbox *mailbox;  // where threads leave their answers
  const char *ca_file;      // the bundle, or NULL: libcurl's own defaults
  bool closing;
};

// transfer.c

// Notes why a transfer fails; the first reason stays. `code` and `phase` must
// be static text or NULL.
void transfer_fail(Transfer *transfer, const char *kind, const char *code,
                   const char *phase, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

// Takes the transfer out of wherever it is, files included.
void transfer_detach(Transfer *transfer);

// Ends it: what it holds is released, on_done is called.
void transfer_finish(Transfer *transfer);

// Goes on with an admitted transfer; called by its host.
void transfer_begin(Transfer *transfer);

// Hands it to libcurl; called when the address is known.
void transfer_launch(Transfer *transfer);

// transfer_host.c

Host *host_find(TransferPool *pool, const Transfer *transfer);
void host_enqueue(Transfer *transfer);
void host_dequeue(Transfer *transfer);
void host_admit(Host *host);

// Gives a slot back. Freed by an end, it goes to the next in line at once;
// freed by a cancellation, in the next turn of the loop, because the next in
// line is likely to be cancelled as well.
void host_release(Transfer *transfer, bool now);
void host_note_latency(Host *host, double seconds);
void hosts_free(TransferPool *pool);
void on_admission(Timer *timer);

// transfer_name.c

int names_open(TransferPool *pool);
void names_close(TransferPool *pool);
void names_free(TransferPool *pool);
bool name_needs_lookup(const Transfer *transfer);

// Returns 0 with the addresses set, or queues the transfer and returns
// UV_EAGAIN; else a libuv error.
int name_resolve(Transfer *transfer);
void name_dequeue(Transfer *transfer);

// Forgets what is known, after a connection could not be made.
void name_forget(const Transfer *transfer);

// transfer_shard.c

Line *line_take(const Transfer *transfer);
int line_start(Line *line, Transfer *transfer);
void line_stop(Transfer *transfer);
void shard_settle(Shard *shard);
void shards_close_idle(TransferPool *pool);

// transfer_socket.c: callbacks of libcurl. The context is a Shard, a Line and a
// TransferPool, in this order.

int on_socket(CURL *easy, curl_socket_t fd, int what, void *context,
              void *unused);
curl_socket_t on_open_socket(void *context, curlsocktype purpose,
                             struct curl_sockaddr *address);
int on_close_socket(void *context, curl_socket_t fd);

// The transfer has no more to do with its connection, which may be kept.
void socket_release(Transfer *transfer);

// Lets go of every descriptor, closed or not.
void sockets_close(TransferPool *pool);

// transfer_setup.c

CURLcode setup_easy(Transfer *transfer, Line *line);
const char *setup_ca_file(void);

// transfer_body.c

// Opens the files to send and the file to save to. Returns 0, or -1 with the
// failure noted.
int body_open(Transfer *transfer);
void body_close(Transfer *transfer);
int body_commit(Transfer *transfer);

// Callbacks of libcurl. The context is a Source for the first two, a Transfer
// for the others.
size_t on_read(char *buffer, size_t size, size_t count, void *context);
int on_seek(void *context, curl_off_t offset, int origin);
size_t on_write(char *data, size_t size, size_t count, void *context);

// transfer_head.c: another one, with a Transfer.

size_t on_header(char *data, size_t size, size_t count, void *context);

// transfer_flow.c

int bytes_append(Bytes *bytes, const char *data, size_t size);

// Whether bytes of a fed body have gone, which are not there a second time.
bool feeds_consumed(const Transfer *transfer);
size_t flow_read(Source *source, char *buffer, size_t room);
size_t flow_write(Transfer *transfer, const char *data, size_t size);
void flow_notify(Transfer *transfer);

// Notes that the peer has refused what is still being sent, and sees to all of
// whom that was noted; the second not from a callback.
void flow_refuse(Transfer *transfer);
void flows_end_refused(TransferPool *pool);

// transfer_error.c

void transfer_explain(Transfer *transfer, CURLcode code);
void read_timing(Transfer *transfer);

// http_cookies.c

CURLSH *cookie_jar_share(struct CookieJar *jar);

#endif
