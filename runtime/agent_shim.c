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

// Leaves 0 (/dev/null), 1 and 2 (the command's outputs) and 3 (the status).
static void arrange_descriptors(const ShimPlan *plan) {
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

static _Noreturn void run_command(const ShimPlan *plan) {
  setsid();
  volunteer_for_oom();
  lower_limit(RLIMIT_CORE, 0);
  lower_limit(RLIMIT_NOFILE, plan->limits->files);
  lower_limit(RLIMIT_FSIZE, plan->limits->file_size);
  // On the command alone: the agent must be able to fork when the sandbox is
  // full, if only to run `kill`.
  lower_limit(RLIMIT_NPROC, plan->limits->processes);

  if (plan->cwd[0] && chdir(plan->cwd) != 0) {
    report(SHIM_FAILED, errno, STAGE_CHDIR);
    _exit(127);
  }
  reset_signals();
  char *arguments[] = {"sh", "-c", (char *)plan->command, NULL};
  execve("/bin/sh", arguments, plan->environment);
  report(SHIM_FAILED, errno, STAGE_EXEC);
  _exit(127);
}

static int exit_code(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// The agent blocked both signals before it forked, so none is missed.
static _Noreturn void watch(pid_t command) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGTERM);
  for (;;) {
    int number = sigwaitinfo(&signals, NULL);
    if (number == SIGTERM) {
      tree_kill();
      report(SHIM_KILLED, 128 + SIGKILL, 0);
      _exit(0);
    }
    pid_t pid;
    int status;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
      if (pid != command) continue;
      report(SHIM_EXITED, exit_code(status), 0);
      _exit(0);
    }
  }
}

_Noreturn void shim_main(const ShimPlan *plan) {
  prctl(PR_SET_NAME, "sbx-shim", 0, 0, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  arrange_descriptors(plan);

  pid_t command = fork();
  if (command == 0) run_command(plan);
  if (command < 0) {
    report(SHIM_FAILED, errno, STAGE_FORK);
    _exit(127);
  }
  close(1);
  close(2);
  watch(command);
}
