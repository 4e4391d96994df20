// The process between the agent and a command. As a subreaper it keeps the
// command's whole tree below itself, so that a timeout can end all of it. When
// the command exits by itself the shim leaves too, and what still runs in the
// background goes to pid 1 and lives on.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

enum { STATUS = 3, OUT_OF_THE_WAY = 10 };

static void report(int kind, int value, int stage) {
  ShimStatus status = {kind, value, stage};
  // Smaller than a pipe's atomic unit and the only thing in it: never blocks.
  (void)!write(STATUS, &status, sizeof(status));
}

// Leaves 0 (/dev/null or the command's input), 1 and 2 (its outputs) and 3 (the
// status).
static void arrange_descriptors(const ShimPlan *plan) {
  int in = plan->in;
  if (in >= 0) in = fcntl(in, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
  if (plan->in >= 0 && (in < 0 || dup2(in, 0) < 0)) _exit(127);
  int out = fcntl(plan->out, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
  int err = fcntl(plan->err, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
  int status = fcntl(plan->status, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
  if (out < 0 || err < 0 || status < 0 || dup2(out, 1) < 0 ||
      dup2(err, 2) < 0 || dup3(status, STATUS, O_CLOEXEC) < 0)
    _exit(127);
  if (syscall(SYS_close_range, 4U, ~0U, 0) == 0) return;
  for (int fd = 4; fd < 4096; fd++)
    close(fd);
}

static void reset_signals(void) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  for (int number = 1; number < NSIG; number++)
    sigaction(number, &standard, NULL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

// By the raw call, since C libraries differ in the type of a resource.
static void lower_limit(int resource, rlim_t value) {
  struct rlimit limit;
  if (syscall(SYS_prlimit64, 0, resource, NULL, &limit) != 0) return;
  if (limit.rlim_max != RLIM_INFINITY && value > limit.rlim_max)
    value = limit.rlim_max;
  limit.rlim_cur = limit.rlim_max = value;
  syscall(SYS_prlimit64, 0, resource, &limit, NULL);
}

// When memory runs out the kernel should take the command, not the agent.
static void volunteer_for_oom(void) {
  // Only a dumpable process owns its files in /proc; execve makes it one
  // anyway.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)!write(fd, "500", 3);
  close(fd);
}

// Never returns. `failed` is told, when it is a descriptor, before the end.
static _Noreturn void give_up(int stage, int failed) {
  report(SHIM_FAILED, errno, stage);
  if (failed >= 0) (void)!write(failed, "", 1);
  _exit(127);
}

static _Noreturn void run_command(const ShimPlan *plan, int failed) {
  setsid();
  if (plan->terminal && ioctl(0, TIOCSCTTY, 0) != 0)
    give_up(STAGE_FORK, failed);
  volunteer_for_oom();
  lower_limit(RLIMIT_CORE, 0);
  lower_limit(RLIMIT_NOFILE, plan->limits->files);
  lower_limit(RLIMIT_FSIZE, plan->limits->file_size);
  // On the command alone: the agent must be able to fork when the sandbox is
  // full, if only to run `kill`.
  lower_limit(RLIMIT_NPROC, plan->limits->processes);

  if (plan->cwd[0] && chdir(plan->cwd) != 0) give_up(STAGE_CHDIR, failed);
  reset_signals();
  // The PATH that it is looked for in is its own.
  environ = plan->environment;
  execvp(plan->program, plan->arguments);
  give_up(STAGE_EXEC, failed);
}

// Waits for the start of the program: `started` ends when it replaces the
// process that was to become it, and says something when that failed.
static void announce(int started, pid_t program) {
  char byte;
  ssize_t count;
  while ((count = read(started, &byte, 1)) < 0 && errno == EINTR) {
  }
  if (count == 0) report(SHIM_STARTED, program, 0);
  close(started);
}

// Reaps what has ended, but for the command: that is left to the agent, which
// then knows for how long the number is the command's.
static void look_after(pid_t command) {
  siginfo_t info;
  for (;;) {
    info.si_pid = 0;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0) return;
    if (info.si_pid == 0) return;
    if (info.si_pid != command) {
      waitpid(info.si_pid, NULL, 0);
      continue;
    }
    if (info.si_code == CLD_EXITED)
      report(SHIM_EXITED, info.si_status, 0);
    else
      report(SHIM_SIGNALLED, 128 + info.si_status, 0);
    _exit(0);
  }
}

// The agent blocked both signals before it forked, so none is missed.
static _Noreturn void watch(pid_t command) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGTERM);
  for (;;) {
    if (sigwaitinfo(&signals, NULL) == SIGTERM) {
      tree_kill();
      report(SHIM_KILLED, 128 + SIGKILL, 0);
      _exit(0);
    }
    look_after(command);
  }
}

_Noreturn void shim_main(const ShimPlan *plan) {
  int start[2] = {-1, -1};
  prctl(PR_SET_NAME, "sbx-shim", 0, 0, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  arrange_descriptors(plan);

  pid_t command = -1;
  if (!plan->announce || pipe2(start, O_CLOEXEC) == 0) command = fork();
  if (command == 0) run_command(plan, start[1]);
  if (command < 0) give_up(STAGE_FORK, -1);
  // Nothing of the program's may seem open because of us.
  for (int fd = 0; fd < STATUS; fd++)
    close(fd);
  if (plan->announce) {
    close(start[1]);
    announce(start[0], command);
  }
  watch(command);
}
