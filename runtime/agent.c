// The program inside a sandbox: runs commands, moves files and relays
// connections for the server at the other end of one socket (agent_protocol.h).
// As pid 1 it also reaps whatever is orphaned, and takes everything with it
// when it ends.
//
//   agent FD [listen|renew] [workdir=PATH] [lifetime=SECONDS] [nproc=N]
//         [nofile=N] [fsize=BYTES]
//
// FD is the socket; 0 stands for two pipes, standard input and output. It ends
// when that does, when told to, or when its lifetime is over, so that a sandbox
// cannot outlive a server that was killed. With `listen`, FD is a listening
// socket: one connection at a time, the newest, and between them the sandbox
// goes on with its commands. With `renew` it does the same on two pipes:
// SIGUSR1 from outside the sandbox tells it that another server speaks now.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

// The longest pause of the loop, and the time for the end of a tree whose
// lifetime is over.
enum { LONGEST_PAUSE_MS = 3600 * 1000, LAST_SECONDS = 10 };

static volatile sig_atomic_t lifetime_over;

// As pid 1, ending is enough. Else the tree is to be ended as well, for which
// there is a while; then it ends in any case.
static void on_lifetime_over(int number, siginfo_t *info, void *context) {
  // The kernel's timer, not `kill -ALRM 1` of whoever is inside.
  if (info->si_code <= 0) return;
  if (getpid() == 1 || lifetime_over) _exit(0);
  lifetime_over = 1;
  alarm(LAST_SECONDS);
}

static void close_others(int control) {
  if (control > 3) syscall(SYS_close_range, 3U, (unsigned)control - 1, 0);
  if (syscall(SYS_close_range, (unsigned)control + 1, ~0U, 0) == 0) return;
  for (int fd = 3; fd < 4096; fd++)
    if (fd != control) close(fd);
}

static bool take_over(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return fd >= 3 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && flags >= 0 &&
         fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

// Closes all other descriptors. Standard input and output, where they are the
// link, move out of the way of what takes their places.
static bool take_control(Agent *agent) {
  if (agent->control >= 3) {
    close_others(agent->control);
    bool taken = take_over(agent->control);
    agent->control_out = agent->control;
    if (agent->listener < 0) return taken;
    agent->listener = agent->control;
    agent->control = agent->control_out = -1;
    return taken;
  }
  close_others(2);
  agent->control = fcntl(0, F_DUPFD_CLOEXEC, 3);
  agent->control_out = fcntl(1, F_DUPFD_CLOEXEC, 3);
  return take_over(agent->control) && take_over(agent->control_out);
}

static bool name_is(const char *option, size_t length, const char *name) {
  return strlen(name) == length && memcmp(option, name, length) == 0;
}

// Makes the folder and those above it, and goes there.
static bool enter_folder(const char *path) {
  char part[PATH_MAX];
  size_t length = strlen(path);
  if (path[0] != '/' || length >= sizeof(part)) return false;
  for (size_t i = 1; i <= length; i++) {
    if (path[i] != '/' && path[i]) continue;
    memcpy(part, path, i);
    part[i] = 0;
    (void)mkdir(part, 0755);  // chdir says what is wrong
  }
  if (chdir(path) == 0) return true;
  fprintf(stderr, "agent: %s: %s\n", path, strerror(errno));
  return false;
}

static bool set_option(Agent *agent, const char *option) {
  char *end;
  const char *value = strchr(option, '=');
  if (strcmp(option, "listen") == 0) {
    agent->listener = agent->control;
    return true;
  }
  if (strcmp(option, "renew") == 0) {
    agent->renewable = true;
    return true;
  }
  if (!value) return false;
  if (strncmp(option, "workdir=", 8) == 0) return enter_folder(value + 1);
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
  if (!take_control(agent)) {
    fprintf(stderr, "agent: cannot use its descriptor: %s\n", strerror(errno));
    return false;
  }
  silence(0, O_RDONLY);
  silence(1, O_WRONLY);
  umask(022);

  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  if (agent->renewable) sigaddset(&blocked, SIGUSR1);
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

int main(int count, char **arguments) {
  Agent agent = {
      .control = count > 1 ? atoi(arguments[1]) : -1,
      .control_out = -1,
      .listener = -1,
      .limits = {RLIM_INFINITY, RLIM_INFINITY, RLIM_INFINITY}
  };
  signal(SIGPIPE, SIG_IGN);
  sigaction(SIGALRM,
            &(struct sigaction){.sa_sigaction = on_lifetime_over,
                                .sa_flags = SA_SIGINFO | SA_RESTART},
            NULL);
  for (int i = 2; i < count; i++) {
    if (set_option(&agent, arguments[i])) continue;
    fprintf(stderr, "agent: bad option '%s'\n", arguments[i]);
    return 2;
  }
  bool usable = agent.control >= (agent.listener < 0 ? 0 : 3);
  if (agent.control == 1 || agent.control == 2) usable = false;
  if (!usable || fcntl(agent.control, F_GETFD) < 0) {
    fprintf(stderr, "agent: the first argument must be an open descriptor\n");
    return 2;
  }
  if (!set_up(&agent)) return 1;

  loop_begin(&agent);
  if (agent.listener < 0) control_hello(&agent);
  // From here on the server hears of trouble through the link.
  silence(2, O_WRONLY);
  while (!agent.ending && !lifetime_over)
    loop_turn(&agent, LONGEST_PAUSE_MS);
  // As pid 1 the kernel does it for us, more thoroughly.
  if (getpid() != 1) tree_kill();
  return 0;
}
