// libFuzzer over what the agent does with requests: any frames in any order,
// with the real loop, pipes, terminals and children. Every request must be
// ended once, nothing may be said of one after that, and no more may be sent
// than was allowed. Nothing of this machine is touched: programs, files and
// ports are played by the stand-ins below.
//
// An input is a list of records `u8 type, u8 id and flags, u8 size, bytes`,
// which become frames; type 0 sends its bytes as they are, RENEW lets another
// server begin and MARK is that server's first word. An input that ends in
// PIPES talks over two pipes and not over a socket.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *count, char ***arguments);

enum { IDS = 8, FORKS = 6, PEERS = 64 };

enum { RENEW = 0xff, MARK = 0xfe, PIPES = 'p' };  // of an input

// ------------------------------------------------------------------ stand-ins

static size_t forks;  // of this input
static int peers[PEERS];
static size_t peer_count;

// Shim and program in one: what it does, the first letter of its program says.
_Noreturn void shim_main(const ShimPlan *plan) {
  ShimStatus status = {SHIM_STARTED, getpid(), 0};
  static char bytes[70000];
  for (int number = 1; number < NSIG; number++)
    signal(number, SIG_DFL);
  signal(SIGPIPE, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  for (int fd = 3; fd < 1024; fd++)
    if (fd != plan->in && fd != plan->out && fd != plan->err &&
        fd != plan->status)
      close(fd);
  setsid();
  alarm(5);
  const char *word = plan->announce ? plan->program : plan->arguments[2];
  if (word[0] == 'f') {
    status = (ShimStatus){SHIM_FAILED, ENOENT, word[1]};
    (void)!write(plan->status, &status, sizeof(status));
    _exit(0);
  }
  if (plan->announce && word[0] != 'q')
    (void)!write(plan->status, &status, sizeof(status));
  if (word[0] == 'o') (void)!write(plan->out, bytes, sizeof(bytes));
  if (word[0] == 'e') (void)!write(plan->err, bytes, 100);
  if (word[0] == 'c' && plan->in >= 0)
    for (ssize_t n; (n = read(plan->in, bytes, sizeof(bytes))) > 0;)
      (void)!write(plan->out, bytes, (size_t)n);
  if (word[0] == 's') pause();
  status = (ShimStatus){SHIM_EXITED, word[0], 0};
  (void)!write(plan->status, &status, sizeof(status));
  _exit(0);
}

void put_start(Agent *agent, const Frame *frame) {
  out_fail(agent, frame->id, EROFS, "write ", "");
}

void get_start(Agent *agent, const Frame *frame) {
  out_fail(agent, frame->id, ENOENT, "read ", "");
}

void stat_answer(Agent *agent, const Frame *frame) {
  out_fail(agent, frame->id, ENOENT, "look at ", "");
}

// The peers of the agent's connections: even ports have a server that sends,
// and reads or does not.
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int connect(int fd, const struct sockaddr *address, socklen_t size) {
  unsigned port = (unsigned char)address->sa_data[1];
  int pair[2];
  if (port & 1 || peer_count == PEERS) {
    errno = ECONNREFUSED;
    return -1;
  }
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0) return -1;
  dup2(pair[0], fd);
  close(pair[0]);
  (void)!write(pair[1], "hello", port & 2 ? 5 : 0);
  if (port & 4) shutdown(pair[1], SHUT_WR);
  peers[peer_count++] = pair[1];
  return 0;
}

// --------------------------------------------------------------------- checks

typedef struct Request {
  bool asked, ended;
  uint64_t allowed, got;
} Request;

static Request requests[IDS];
static FrameReader answers;
static bool out_of_step;  // after bytes as they are, nobody knows who asks what
static bool unheard;      // the agent hears nothing before the server's mark
static size_t mark_seen;  // of the agent's mark, which comes before all else
static bool seeking;      // it is still to come
static bool greeted;      // and HELLO after it

static void check_answer(const Frame *frame) {
  if (!greeted && frame->type != FRAME_HELLO) abort();
  greeted = true;
  if (frame->type == FRAME_HELLO || out_of_step) return;
  if (frame->id >= IDS) abort();
  Request *request = &requests[frame->id];
  if (!request->asked || request->ended) abort();
  switch (frame->type) {
  case FRAME_OUT:
  case FRAME_ERR:
  case FRAME_DATA:
    request->got += frame->size;
    if (frame->size == 0 || request->got > request->allowed) abort();
    break;
  case FRAME_EXIT:
  case FRAME_STATED:
  case FRAME_DONE:
  case FRAME_FAIL:
    request->ended = true;
    break;
  default:  // STARTED and others that more follows
    if (frame->type < FRAME_DATA) abort();
    break;
  }
}

// Takes the agent's mark out of what it sent; returns how much follows.
static size_t after_mark(uint8_t *bytes, size_t count) {
  const uint8_t *mark = (const uint8_t *)RENEWAL_MARK;
  for (size_t i = 0; i < count; i++) {
    if (bytes[i] != mark[mark_seen]) mark_seen = 0;
    if (bytes[i] != mark[mark_seen]) continue;
    if (++mark_seen < sizeof(RENEWAL_MARK) - 1) continue;
    seeking = false;
    memmove(bytes, bytes + i + 1, count - i - 1);
    return count - i - 1;
  }
  return 0;
}

static void read_answers(int server) {
  for (;;) {
    size_t room;
    uint8_t *space = frame_space(&answers, &room);
    ssize_t count = space ? read(server, space, room) : -1;
    if (count <= 0) return;
    size_t fresh = (size_t)count;
    if (seeking) fresh = after_mark(space, fresh);
    frame_fed(&answers, fresh);
    Frame frame;
    int got;
    while ((got = frame_next(&answers, &frame)) > 0)
      check_answer(&frame);
    if (got < 0) abort();
  }
}

// --------------------------------------------------------------------- inputs

// Everything that is not about another request may be one.
static bool is_request(uint8_t type) {
  switch (type) {
  case FRAME_DATA:
  case FRAME_EOF:
  case FRAME_CREDIT:
  case FRAME_KILL:
  case FRAME_RESIZE:
  case FRAME_SIGNAL:
    return false;
  default:
    return true;
  }
}

// Whether the server of the real world would send this: it uses no id twice.
static bool note_request(uint8_t type, uint8_t id, const uint8_t *bytes,
                         size_t size) {
  if (type == FRAME_SHUTDOWN) return false;
  if (unheard) return true;
  Request *request = &requests[id];
  if (is_request(type)) {
    if (id == 0 || request->asked) return false;
    if ((type == FRAME_EXEC || type == FRAME_START) && ++forks > FORKS)
      return false;
    request->asked = true;
    request->allowed = WINDOW;
  } else if (type == FRAME_CREDIT && size >= 4) {
    request->allowed += (uint64_t)bytes[0] << 24 | (uint64_t)bytes[1] << 16 |
                        (uint64_t)bytes[2] << 8 | bytes[3];
  }
  return true;
}

// Another server begins: what this one has asked for is nobody's any more, and
// of what was on its way nothing is to be understood.
static void renew(Agent *agent, int from) {
  read_answers(from);
  frame_reader_free(&answers);
  memset(requests, 0, sizeof(requests));
  mark_seen = 0;
  seeking = unheard = true;
  out_of_step = greeted = false;
  control_renew(agent);
}

// Whatever the server before has left, it is heard from here on.
static void send_mark(int server) {
  ssize_t size = sizeof(RENEWAL_MARK) - 1;
  if (write(server, RENEWAL_MARK, (size_t)size) != size || !unheard)
    out_of_step = true;
  unheard = false;
}

// Sends one record; returns the bytes that it took.
static size_t send_record(int server, const uint8_t *data, size_t size) {
  static uint8_t frame[FRAME_HEADER + CHUNK];
  if (size < 3) return size;
  size_t count = size - 3 < data[2] ? size - 3 : data[2];
  uint8_t type = data[0], id = data[1] % IDS;
  if (type == MARK) {
    send_mark(server);
    return 3 + count;
  }
  if (type == 0) {
    out_of_step = true;
    (void)!write(server, data + 3, count);
    return 3 + count;
  }
  // A high bit in the second byte makes much of little.
  size_t length = data[1] & 0x80 && type == FRAME_DATA ? CHUNK : count;
  memset(frame + FRAME_HEADER, 'x', length);
  memcpy(frame + FRAME_HEADER, data + 3, count);
  if (!note_request(type, id, data + 3, count)) return 3 + count;
  put_u32(frame, (uint32_t)(FRAME_HEADER - 4 + length));
  frame[4] = type;
  put_u32(frame + 5, id);
  (void)!write(server, frame, FRAME_HEADER + length);
  return 3 + count;
}

typedef struct Server {
  int to, from;  // the agent
} Server;

// As if it listened and its server went: what does not go on ends, and the rest
// is killed.
static void clean_up(Agent *agent, const Server *server) {
  int out = agent->control_out;
  bool pipes = server->from != server->to;
  // A new child may have it open still: a pipe ends once that has closed it.
  shutdown(server->to, SHUT_RDWR);
  close(server->to);
  if (pipes) close(server->from);
  agent->ending = false;
  agent->listener = open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (int i = 0; i < 5000 && agent->control >= 0; i++) {
    loop_turn(agent, 0);
    if (pipes && agent->control >= 0) usleep(1000);
  }
  if (agent->control >= 0) abort();
  close(agent->listener);
  agent->listener = -1;
  if (pipes) close(out);
  if (forks) tree_kill();
  for (Channel *channel = agent->channels; channel; channel = channel->next)
    channel->over = true;
  loop_turn(agent, 0);
  if (agent->channels || agent->channel_count) abort();
  if (agent->exec_count || agent->session_count) abort();
  // Their last writers are dead, so each is at its end once it is looked at.
  for (int i = 0; i < 100 && agent->orphan_count; i++) {
    agent->now += 1000;
    loop_turn(agent, 0);
  }
  if (agent->orphan_count) abort();
  free(agent->orphans);
  free(agent->polls);
  frame_reader_free(&agent->reader);
  free(agent->out.bytes);
  frame_reader_free(&answers);
  while (peer_count > 0)
    close(peers[--peer_count]);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
  sigset_t blocked;
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  sigaddset(&blocked, SIGTERM);  // or the fuzzer's handler answers in a child
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  return 0;
}

static void open_socket(Agent *agent, Server *server) {
  int pair[2];
  int kind = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  if (socketpair(AF_UNIX, kind, 0, pair) != 0) abort();
  agent->control = agent->control_out = pair[0];
  server->to = server->from = pair[1];
}

static void open_pipes(Agent *agent, Server *server) {
  int requests_pipe[2], answers_pipe[2];
  if (pipe2(requests_pipe, O_NONBLOCK | O_CLOEXEC) != 0) abort();
  if (pipe2(answers_pipe, O_NONBLOCK | O_CLOEXEC) != 0) abort();
  agent->control = requests_pipe[0];
  agent->control_out = answers_pipe[1];
  server->to = requests_pipe[1];
  server->from = answers_pipe[0];
}

static void start(Agent *agent, Server *server, bool pipes) {
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  *agent = (Agent){
      .listener = -1,
      .children = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC),
      .limits = {RLIM_INFINITY, RLIM_INFINITY, RLIM_INFINITY}
  };
  if (pipes)
    open_pipes(agent, server);
  else
    open_socket(agent, server);
  memset(requests, 0, sizeof(requests));
  forks = 0;
  out_of_step = unheard = seeking = greeted = false;
  loop_begin(agent);
  control_hello(agent);
}

// One turn of the agent, and what comes of it.
static void turn(Agent *agent, const Server *server, int longest_pause_ms) {
  loop_turn(agent, longest_pause_ms);
  // The mark may have been among bytes that were sent as they are.
  if (unheard && !agent->seeking) {
    unheard = false;
    out_of_step = true;
  }
  read_answers(server->from);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Agent agent;
  Server server;
  start(&agent, &server, size > 0 && data[size - 1] == PIPES);
  for (size_t at = 0; at < size && !agent.ending;) {
    if (data[at] == RENEW) {
      renew(&agent, server.from);
      at++;
    } else {
      at += send_record(server.to, data + at, size - at);
    }
    turn(&agent, &server, 0);
  }
  // Children get a moment to say something.
  for (int i = 0; i < 20 && forks && agent.channels && !agent.ending; i++)
    turn(&agent, &server, 1);
  clean_up(&agent, &server);
  close(agent.children);
  return 0;
}
