// The agent's parts and what they share. It is one thread around one poll():
// nothing in it may wait anywhere else.

#ifndef SBX_AGENT_H
#define SBX_AGENT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "agent_frame.h"
#include "agent_protocol.h"

typedef struct Agent Agent;
typedef struct Channel Channel;

// What a kind of request does in a turn of the loop. All but `prepare` and
// `destroy` may set `over`, after they sent the frame that ends the request.
typedef struct ChannelKind {
  void (*prepare)(Agent *agent, Channel *channel);  // poll_add, wake_by
  void (*run)(Agent *agent, Channel *channel);      // after the poll
  void (*on_data)(Agent *agent, Channel *channel, const Frame *frame);
  void (*on_eof)(Agent *agent, Channel *channel);
  void (*on_kill)(Agent *agent, Channel *channel);
  void (*on_signal)(Agent *agent, Channel *channel, const Frame *frame);
  void (*on_resize)(Agent *agent, Channel *channel, const Frame *frame);
  // The connection is gone but the agent lives on. NULL: so is the request.
  void (*on_lost)(Agent *agent, Channel *channel);
  void (*on_reaped)(Agent *agent, Channel *channel, pid_t pid);
  void (*destroy)(Agent *agent, Channel *channel);  // frees it
} ChannelKind;

// One request of the server; first member of what a kind needs besides.
struct Channel {
  const ChannelKind *kind;
  Channel *next;
  uint32_t id;
  uint32_t credit;  // bulk bytes that the server is ready to take
  bool over;        // ended; destroyed at the end of the turn
  bool detached;    // its connection is gone: of no id, and nothing is said,
                    // unless it is held, and taken up by another connection
};

// What a command may use, as the options of the agent's command line say.
typedef struct Limits {
  rlim_t processes;  // in the whole sandbox; RLIM_INFINITY = no limit of ours
  rlim_t files;      // descriptors of one process
  rlim_t file_size;  // bytes of one file
} Limits;

// Bytes on their way to the server.
typedef struct OutQueue {
  uint8_t *bytes;
  size_t start, end, capacity;
} OutQueue;

struct Agent {
  int control;      // from the server: a socket, or a pipe; or -1
  int control_out;  // to it: the same socket, or another pipe; or -1
  int listener;     // where connections come from; -1: there is just the one
  int in_place, out_place, listener_place;  // in this turn's poll, or -1
  int children;                             // signalfd for SIGCHLD
  FrameReader reader;
  OutQueue out;
  Channel *channels;
  size_t channel_count, exec_count, session_count;
  uint32_t last_key;  // of the newest session that is held
  Limits limits;
  struct pollfd *polls;  // rebuilt each turn
  size_t poll_count, poll_capacity;
  int64_t now;      // ms on the monotonic clock, taken after each poll
  int64_t wake_at;  // ms; when the next poll must end at the latest
  struct OrphanPipe *orphans;  // see agent_orphan.c
  size_t orphan_count;
  bool renewable;    // SIGUSR1 begins anew on the same two pipes
  bool seeking;      // for the mark with which the next server begins
  size_t mark_seen;  // bytes of it
  bool failed;       // out of memory for a frame: the server must hear of it
  bool ending;
};

// agent_loop.c
void loop_begin(Agent *agent);
// Waits for something to happen, at most so long, and does what it asks for.
void loop_turn(Agent *agent, int longest_pause_ms);
// Adds a descriptor to this turn's poll. Returns its place for poll_events.
int poll_add(Agent *agent, int fd, short events);
short poll_events(const Agent *agent, int place);  // 0 for place -1
void wake_by(Agent *agent, int64_t at);

// agent_request.c
// A channel of `size` bytes, zeroed, in the list; NULL without memory.
void *channel_new(Agent *agent, const ChannelKind *kind, uint32_t id,
                  size_t size);
// Does what one frame asks for.
void request_dispatch(Agent *agent, const Frame *frame);
// Ends what depends on the connection that is gone.
void request_lose_all(Agent *agent);

// agent_control.c: the connection to the server, or one after another
void control_prepare(Agent *agent);
void control_read(Agent *agent);   // after the poll, before the channels
void control_flush(Agent *agent);  // at the end of the turn
void control_hello(Agent *agent);
// Forgets the server of before; the next one begins with RENEWAL_MARK.
void control_renew(Agent *agent);

// agent_out.c
// Room for `size` payload bytes of a frame; NULL without memory. Nothing is
// sent until out_commit says how many of them there are.
uint8_t *out_reserve(Agent *agent, size_t size);
void out_commit(Agent *agent, enum FrameType type, uint32_t id, size_t size);
void out_frame(Agent *agent, enum FrameType type, uint32_t id,
               const void *payload, size_t size);
// Ends a request: with a byte count, or with an errno and what was tried.
void out_done(Agent *agent, Channel *channel, uint64_t bytes);
void out_fail(Agent *agent, uint32_t id, int error, const char *what,
              const char *name);
void out_credit(Agent *agent, uint32_t id, size_t bytes);
// Bytes that `channel` may send now, at most CHUNK: what its credit allows, or
// 0 while too much is queued already.
size_t out_room(const Agent *agent, const Channel *channel);
size_t out_pending(const Agent *agent);
// Writes what the socket takes. False once the server is gone.
bool out_flush(Agent *agent);

// agent_exec.c, agent_session.c, agent_file.c, agent_dial.c: start what a frame
// asks for
void exec_start(Agent *agent, const Frame *frame);
void session_start(Agent *agent, const Frame *frame);
// Tells of the sessions that were held for another server; gives one to it.
void session_list(Agent *agent, const Frame *frame);
void session_attach(Agent *agent, const Frame *frame);
void put_start(Agent *agent, const Frame *frame);
void get_start(Agent *agent, const Frame *frame);
void stat_answer(Agent *agent, const Frame *frame);
void dial_start(Agent *agent, const Frame *frame);

// agent_orphan.c: output pipes that outlive their command
void orphan_adopt(Agent *agent, int fd);  // takes the descriptor over
void orphan_prepare(Agent *agent);
void orphan_run(Agent *agent);

// agent_shim.c
enum ShimReport {
  SHIM_STARTED,    // the program runs; another report follows
  SHIM_EXITED,     // by itself
  SHIM_SIGNALLED,  // by a signal
  SHIM_KILLED,     // by us, with all of its tree
  SHIM_FAILED,     // it could not be started
};

typedef struct ShimStatus {
  int32_t report;  // ShimReport
  int32_t value;   // STARTED: pid; FAILED: errno; else exit status
  int32_t stage;   // of SHIM_FAILED: ShimStage
} ShimStatus;

enum ShimStage { STAGE_FORK, STAGE_CHDIR, STAGE_EXEC };

typedef struct ShimPlan {
  int in;               // what the program reads; -1 = /dev/null
  int out, err;         // what it writes to
  int status;           // a pipe for ShimStatus, which command_launch opens
  bool terminal;        // all three are the terminal that it is to control
  bool announce;        // report SHIM_STARTED
  const char *cwd;      // "" = stay
  const char *program;  // a path, or a name to look for in its PATH
  char *const *arguments;
  char **environment;
  const Limits *limits;
} ShimPlan;

_Noreturn void shim_main(const ShimPlan *plan);

// agent_pty.c
// Opens a terminal: `ours` does not block, `theirs` is the program's end.
// Returns 0 or an errno.
int pty_open(uint16_t columns, uint16_t rows, int *ours, int *theirs);
void pty_resize(int ours, uint16_t columns, uint16_t rows);
// What must be typed at its end for the reader to see the end of the file.
char pty_end_character(int ours);

// agent_tree.c
// Ends every descendant of this process, also those that fork meanwhile or
// left their session, and reaps them.
void tree_kill(void);

// agent_seccomp.c
// Takes kernel interfaces away from this process and all its children, for
// good. Returns 0 or an errno.
int seccomp_install(void);

#endif
