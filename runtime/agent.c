// The program inside a sandbox: runs commands, moves files and relays
// connections for the server at the other end of one socket (agent_protocol.h).
// As pid 1 it also reaps whatever is orphaned, and takes everything with it
// when it ends.
//
//   agent FD [lifetime=SECONDS] [nproc=N] [nofile=N] [fsize=BYTES]
//
// FD is the socket. It ends when the socket does, when told to, or when its
// lifetime is over, so that a sandbox cannot outlive a server that was killed.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

// A server that stops reading is not listened to either: what it asks for could
// only be answered into memory.
enum { DEAF_WATER = 4 * 1024 * 1024, LONGEST_PAUSE_MS = 3600 * 1000 };

int poll_add(Agent *agent, int fd, short events) {
  if (agent->poll_count == agent->poll_capacity) {
    size_t capacity = agent->poll_capacity ? agent->poll_capacity * 2 : 64;
    struct pollfd *polls =
        realloc(agent->polls, capacity * sizeof(*agent->polls));
    if (!polls) {
      // Asked again next turn; by then there may be memory.
      wake_by(agent, agent->now + 10);
      return -1;
    }
    agent->polls = polls;
    agent->poll_capacity = capacity;
  }
  agent->polls[agent->poll_count] = (struct pollfd){fd, events, 0};
  return (int)agent->poll_count++;
}

short poll_events(const Agent *agent, int place) {
  if (place < 0) return 0;
  return agent->polls[place].revents;
}

void wake_by(Agent *agent, int64_t at) {
  if (at < agent->wake_at) agent->wake_at = at;
}

void *channel_new(Agent *agent, const ChannelKind *kind, uint32_t id,
                  size_t size) {
  if (agent->channel_count >= CHANNEL_LIMIT) return NULL;
  Channel *channel = calloc(1, size);
  if (!channel) return NULL;
  channel->kind = kind;
  channel->id = id;
  channel->credit = WINDOW;
  channel->next = agent->channels;
  agent->channels = channel;
  agent->channel_count++;
  return channel;
}

static int64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static Channel *find_channel(const Agent *agent, uint32_t id) {
  Channel *channel = agent->channels;
  while (channel && channel->id != id)
    channel = channel->next;
  return channel && !channel->over ? channel : NULL;
}

static void add_credit(Channel *channel, const Frame *frame) {
  Cursor cursor = frame_cursor(frame);
  uint32_t more = take_u32(&cursor);
  if (more > CREDIT_LIMIT - channel->credit)
    more = CREDIT_LIMIT - channel->credit;
  channel->credit += more;
}

// Frames for a request that has ended are late, not wrong.
static void pass_on(Agent *agent, const Frame *frame) {
  Channel *channel = find_channel(agent, frame->id);
  if (!channel) return;
  const ChannelKind *kind = channel->kind;
  if (frame->type == FRAME_CREDIT) add_credit(channel, frame);
  if (frame->type == FRAME_DATA && kind->on_data)
    kind->on_data(agent, channel, frame);
  if (frame->type == FRAME_EOF && kind->on_eof) kind->on_eof(agent, channel);
  if (frame->type == FRAME_KILL) kind->on_kill(agent, channel);
}

static void dispatch(Agent *agent, const Frame *frame) {
  switch (frame->type) {
  case FRAME_EXEC:
    exec_start(agent, frame);
    break;
  case FRAME_PUT:
    put_start(agent, frame);
    break;
  case FRAME_GET:
    get_start(agent, frame);
    break;
  case FRAME_STAT:
    stat_answer(agent, frame);
    break;
  case FRAME_DIAL:
    dial_start(agent, frame);
    break;
  case FRAME_SHUTDOWN:
    agent->ending = true;
    break;
  default:
    pass_on(agent, frame);
    break;
  }
}

static void read_control(Agent *agent) {
  size_t room;
  uint8_t *space = frame_space(&agent->reader, &room);
  ssize_t count = -1;
  if (space) count = recv(agent->control, space, room, MSG_DONTWAIT);
  if (space && count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    agent->ending = true;
    return;
  }
  frame_fed(&agent->reader, (size_t)count);

  Frame frame;
  int got;
  while (!agent->ending && (got = frame_next(&agent->reader, &frame)) != 0) {
    if (got < 0)
      agent->ending = true;
    else
      dispatch(agent, &frame);
  }
}

static void reap(Agent *agent) {
  struct signalfd_siginfo info;
  pid_t pid;
  // One signal may stand for many children, so the count says nothing.
  (void)!read(agent->children, &info, sizeof(info));
  while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
    exec_reaped(agent, pid);
}

static void sweep(Agent *agent) {
  Channel **link = &agent->channels;
  while (*link) {
    Channel *channel = *link;
    if (!channel->over) {
      link = &channel->next;
      continue;
    }
    *link = channel->next;
    agent->channel_count--;
    channel->kind->destroy(agent, channel);
  }
}

static void turn(Agent *agent) {
  agent->poll_count = 0;
  agent->wake_at = INT64_MAX;
  short wanted = out_pending(agent) < DEAF_WATER ? POLLIN : 0;
  if (out_pending(agent) > 0) wanted |= POLLOUT;
  int control = poll_add(agent, agent->control, wanted);
  int children = poll_add(agent, agent->children, POLLIN);
  for (Channel *channel = agent->channels; channel; channel = channel->next)
    if (channel->kind->prepare) channel->kind->prepare(agent, channel);
  orphan_prepare(agent);

  int64_t pause = agent->wake_at - milliseconds();
  if (pause < 0) pause = 0;
  if (pause > LONGEST_PAUSE_MS) pause = LONGEST_PAUSE_MS;
  if (poll(agent->polls, agent->poll_count, (int)pause) < 0)
    for (size_t i = 0; i < agent->poll_count; i++)
      agent->polls[i].revents = 0;
  agent->now = milliseconds();

  if (poll_events(agent, children)) reap(agent);
  if (poll_events(agent, control) & ~POLLOUT) read_control(agent);
  for (Channel *channel = agent->channels; channel; channel = channel->next)
    if (!channel->over && channel->kind->run)
      channel->kind->run(agent, channel);
  orphan_run(agent);
  sweep(agent);
  if (!out_flush(agent)) agent->ending = true;
}

static void on_lifetime_over(int number) {
  _exit(0);
}

static void close_others(int control) {
  if (control > 3) syscall(SYS_close_range, 3U, (unsigned)control - 1, 0);
  if (syscall(SYS_close_range, (unsigned)control + 1, ~0U, 0) == 0) return;
  for (int fd = 3; fd < 4096; fd++)
    if (fd != control) close(fd);
}

static bool name_is(const char *option, size_t length, const char *name) {
  return strlen(name) == length && memcmp(option, name, length) == 0;
}

static bool set_option(Agent *agent, const char *option) {
  char *end;
  const char *value = strchr(option, '=');
  if (!value) return false;
  unsigned long long number = strtoull(value + 1, &end, 10);
  if (end == value + 1 || *end) return false;
  size_t name = (size_t)(value - option);
  if (name_is(option, name, "lifetime"))
    alarm(number < 0x7fffffff ? (unsigned)number : 0x7fffffff);
  else if (name_is(option, name, "nproc"))
    agent->limits.processes = (rlim_t)number;
  else if (name_is(option, name, "nofile"))
    agent->limits.files = (rlim_t)number;
  else if (name_is(option, name, "fsize"))
    agent->limits.file_size = (rlim_t)number;
  else
    return false;
  return true;
}

// Puts /dev/null on one of the standard descriptors.
static void silence(int fd, int flags) {
  int null = open("/dev/null", flags | O_CLOEXEC);
  if (null < 0) return;
  dup2(null, fd);
  if (null != fd) close(null);
}

static bool set_up(Agent *agent) {
  close_others(agent->control);
  fcntl(agent->control, F_SETFD, FD_CLOEXEC);
  silence(0, O_RDONLY);
  silence(1, O_WRONLY);
  umask(022);

  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  sigaddset(&blocked, SIGTERM);  // each shim waits for it from the start
  sigprocmask(SIG_SETMASK, &blocked, NULL);
  sigdelset(&blocked, SIGTERM);
  agent->children = signalfd(-1, &blocked, SFD_NONBLOCK | SFD_CLOEXEC);

  int error = agent->children < 0 ? errno : seccomp_install();
  if (error) {
    fprintf(stderr, "agent: cannot start: %s\n", strerror(error));
    return false;
  }
  // No one in the sandbox may look into or trace this process.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (getpid() == 1)
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  else
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  return true;
}

static void say_hello(Agent *agent) {
  uint8_t payload[8];
  put_u32(payload, PROTOCOL_VERSION);
  put_u32(payload + 4, (uint32_t)getpid());
  out_frame(agent, FRAME_HELLO, 0, payload, sizeof(payload));
  // From here on the server hears of trouble through the socket.
  silence(2, O_WRONLY);
}

int main(int count, char **arguments) {
  Agent agent = {
      .control = count > 1 ? atoi(arguments[1]) : -1,
      .limits = {RLIM_INFINITY, RLIM_INFINITY, RLIM_INFINITY}
  };
  signal(SIGPIPE, SIG_IGN);
  signal(SIGALRM, on_lifetime_over);
  for (int i = 2; i < count; i++) {
    if (set_option(&agent, arguments[i])) continue;
    fprintf(stderr, "agent: bad option '%s'\n", arguments[i]);
    return 2;
  }
  if (agent.control < 3 || fcntl(agent.control, F_GETFD) < 0) {
    fprintf(stderr, "agent: the first argument must be an open descriptor\n");
    return 2;
  }
  if (!set_up(&agent)) return 1;

  agent.now = milliseconds();
  say_hello(&agent);
  while (!agent.ending)
    turn(&agent);
  // As pid 1 the kernel does it for us, more thoroughly.
  if (getpid() != 1) tree_kill();
  return 0;
}
