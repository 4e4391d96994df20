// Commands: a shim and two pipes each, answered when the command has exited and
// its output is in, not when the last background child lets go of the pipes.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.h"

// How long to wait for the end of the output after a command's exit, and for a
// shim that was told to kill its tree.
enum { GRACE_MS = 100, KILL_MS = 5000 };

typedef struct Output {
  int fd;     // read end, or -1 at its end
  int place;  // in this turn's poll, or -1
  enum FrameType type;
  uint64_t left;  // bytes that may still be sent
  size_t owed;    // once exited: bytes in the pipe that belong to the command
  bool truncated;
} Output;

typedef enum ExecState { RUNNING, KILLING, EXITED } ExecState;

typedef struct Exec {
  Channel channel;
  ExecState state;
  pid_t shim;  // 0 once reaped
  int status;  // the shim's report; -1 once it is in
  int place;
  Output outputs[2];
  int64_t deadline;  // ms: RUNNING: kill then; else stop waiting then; or 0
  bool timed_out;    // the deadline, not KILL, ended it
  int32_t exit_code;
  uint8_t flags;
} Exec;

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

// The agent's own environment with `entries` put over it. The array is
// malloced, the strings are borrowed.
static char **merge_environment(const ExecRequest *request) {
  size_t own = 0, count = 0;
  while (environ[own])
    own++;
  char **merged = calloc(own + request->entry_count + 1, sizeof(*merged));
  if (!merged) return NULL;
  for (size_t i = 0; i < own; i++) {
    size_t name = strcspn(environ[i], "=") + 1;
    bool replaced = false;
    for (size_t j = 0; j < request->entry_count && !replaced; j++)
      replaced = strncmp(environ[i], request->entries[j], name) == 0;
    if (!replaced) merged[count++] = environ[i];
  }
  for (size_t j = 0; j < request->entry_count; j++)
    merged[count++] = (char *)request->entries[j];
  return merged;
}

// Makes a pipe whose read end does not block. Returns 0 or an errno.
static int open_pipe(int *read_end, int *write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  *read_end = ends[0];
  *write_end = ends[1];
  return 0;
}

// Opens the three pipes, forks the shim, keeps our ends. Returns 0 or an errno.
static int launch(Agent *agent, Exec *exec, const ExecRequest *request) {
  ShimPlan plan = {
      -1, -1, -1, request->cwd, request->command, NULL, &agent->limits};
  int error = 0;
  plan.environment = merge_environment(request);
  if (!plan.environment) error = ENOMEM;
  if (!error) error = open_pipe(&exec->outputs[0].fd, &plan.out);
  if (!error) error = open_pipe(&exec->outputs[1].fd, &plan.err);
  if (!error) error = open_pipe(&exec->status, &plan.status);
  if (!error) {
    exec->shim = fork();
    if (exec->shim == 0) shim_main(&plan);
    if (exec->shim < 0) error = errno;
  }
  if (exec->shim < 0) exec->shim = 0;
  free(plan.environment);
  close_fd(&plan.out);
  close_fd(&plan.err);
  close_fd(&plan.status);
  return error;
}

static void prepare(Agent *agent, Channel *channel) {
  Exec *exec = (Exec *)channel;
  exec->place = -1;
  if (exec->status >= 0) exec->place = poll_add(agent, exec->status, POLLIN);
  for (int i = 0; i < 2; i++) {
    Output *output = &exec->outputs[i];
    bool ready = output->left == 0 || out_room(agent, channel) > 0;
    output->place = -1;
    if (output->fd >= 0 && ready)
      output->place = poll_add(agent, output->fd, POLLIN);
  }
  if (exec->deadline) wake_by(agent, exec->deadline);
}

static void set_exited(Agent *agent, Exec *exec, int32_t code) {
  exec->state = EXITED;
  exec->exit_code = code;
  exec->deadline = agent->now + GRACE_MS;
  for (int i = 0; i < 2; i++) {
    int waiting = 0;
    if (exec->outputs[i].fd >= 0)
      ioctl(exec->outputs[i].fd, FIONREAD, &waiting);
    exec->outputs[i].owed = (size_t)waiting;
  }
}

static void fail(Agent *agent, Exec *exec, const ShimStatus *status) {
  static const char *const stages[] = {
      [STAGE_FORK] = "start a process",
      [STAGE_CHDIR] = "change to the working directory",
      [STAGE_EXEC] = "run /bin/sh",
  };
  int stage = status->stage;
  if (stage < STAGE_FORK || stage > STAGE_EXEC) stage = STAGE_FORK;
  out_fail(agent, exec->channel.id, status->value, stages[stage], "");
  exec->channel.over = true;
}

static void read_status(Agent *agent, Exec *exec) {
  ShimStatus status;
  ssize_t count = read(exec->status, &status, sizeof(status));
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  close_fd(&exec->status);

  if (count != (ssize_t)sizeof(status)) {
    // Someone inside killed the shim, and most likely the command with it.
    set_exited(agent, exec, 128 + SIGKILL);
  } else if (status.report == SHIM_FAILED) {
    fail(agent, exec, &status);
  } else {
    if (status.report == SHIM_KILLED) exec->flags |= EXIT_KILLED;
    if (status.report == SHIM_KILLED && exec->timed_out)
      exec->flags |= EXIT_TIMED_OUT;
    set_exited(agent, exec, status.value);
  }
}

// Moves what one read gives: to the server, or nowhere past the limit.
static void pump(Agent *agent, Exec *exec, Output *output) {
  static uint8_t scratch[CHUNK];
  if (!poll_events(agent, output->place)) return;
  size_t room = output->left ? out_room(agent, &exec->channel) : CHUNK;
  if (room > output->left && output->left > 0) room = (size_t)output->left;
  uint8_t *at = output->left ? out_reserve(agent, room) : scratch;
  if (room == 0 || !at) return;

  ssize_t count = read(output->fd, at, room);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    close_fd(&output->fd);
    output->owed = 0;
    return;
  }
  size_t size = (size_t)count;
  output->owed = output->owed > size ? output->owed - size : 0;
  if (output->left == 0) {
    output->truncated = true;
    return;
  }
  output->left -= size;
  exec->channel.credit -= (uint32_t)size;
  out_commit(agent, output->type, exec->channel.id, size);
}

static void begin_kill(Agent *agent, Exec *exec) {
  if (exec->state != RUNNING) return;
  exec->state = KILLING;
  exec->deadline = agent->now + KILL_MS;
  if (exec->shim > 0) kill(exec->shim, SIGTERM);
}

static void check_deadline(Agent *agent, Exec *exec) {
  if (!exec->deadline || agent->now < exec->deadline) return;
  if (exec->state == RUNNING) {
    exec->timed_out = true;
    begin_kill(agent, exec);
  } else if (exec->state == KILLING) {
    // Something below the shim does not die; the answer cannot wait for it.
    if (exec->shim > 0) kill(exec->shim, SIGKILL);
    close_fd(&exec->status);
    exec->flags |= EXIT_KILLED;
    if (exec->timed_out) exec->flags |= EXIT_TIMED_OUT;
    set_exited(agent, exec, 128 + SIGKILL);
  }
}

static void answer(Agent *agent, Exec *exec) {
  uint8_t payload[5];
  if (exec->outputs[0].truncated) exec->flags |= EXIT_OUT_TRUNCATED;
  if (exec->outputs[1].truncated) exec->flags |= EXIT_ERR_TRUNCATED;
  put_u32(payload, (uint32_t)exec->exit_code);
  payload[4] = exec->flags;
  out_frame(agent, FRAME_EXIT, exec->channel.id, payload, sizeof(payload));
  exec->channel.over = true;
}

static void run(Agent *agent, Channel *channel) {
  Exec *exec = (Exec *)channel;
  if (poll_events(agent, exec->place)) read_status(agent, exec);
  if (channel->over) return;
  pump(agent, exec, &exec->outputs[0]);
  pump(agent, exec, &exec->outputs[1]);
  check_deadline(agent, exec);
  if (exec->state != EXITED) return;

  bool grace_over = agent->now >= exec->deadline;
  for (int i = 0; i < 2; i++) {
    const Output *output = &exec->outputs[i];
    if (output->fd >= 0 && !(grace_over && output->owed == 0)) {
      // What is owed waits for the server's credit, not for the clock.
      if (grace_over) exec->deadline = 0;
      return;
    }
  }
  answer(agent, exec);
}

static void on_kill(Agent *agent, Channel *channel) {
  Exec *exec = (Exec *)channel;
  // No one reads the output any more, so it must not wait for credit.
  exec->outputs[0].left = exec->outputs[1].left = 0;
  begin_kill(agent, exec);
}

static void destroy(Agent *agent, Channel *channel) {
  Exec *exec = (Exec *)channel;
  agent->exec_count--;
  close_fd(&exec->status);
  for (int i = 0; i < 2; i++)
    if (exec->outputs[i].fd >= 0) orphan_adopt(agent, exec->outputs[i].fd);
  free(exec);
}

static const ChannelKind exec_kind = {prepare, run,     NULL,
                                      NULL,    on_kill, destroy};

void exec_reaped(Agent *agent, pid_t pid) {
  for (Channel *channel = agent->channels; channel; channel = channel->next) {
    Exec *exec = (Exec *)channel;
    if (channel->kind == &exec_kind && exec->shim == pid) exec->shim = 0;
  }
}

void exec_start(Agent *agent, const Frame *frame) {
  ExecRequest request;
  int error = parse_exec(frame, &request);
  if (!error && agent->exec_count >= EXEC_LIMIT) error = EAGAIN;
  Exec *exec = NULL;
  if (!error) {
    exec = channel_new(agent, &exec_kind, frame->id, sizeof(*exec));
    if (!exec) error = ENOMEM;
  }
  if (error) {
    free(request.entries);
    out_fail(agent, frame->id, error, "start a command", "");
    return;
  }

  agent->exec_count++;
  exec->status = exec->place = -1;
  exec->outputs[0] = (Output){-1, -1, FRAME_OUT, request.max_output, 0, false};
  exec->outputs[1] = (Output){-1, -1, FRAME_ERR, request.max_output, 0, false};
  if (request.timeout_ms) exec->deadline = agent->now + request.timeout_ms;
  error = launch(agent, exec, &request);
  free(request.entries);
  if (!error) return;
  out_fail(agent, frame->id, error, "start a command", "");
  exec->channel.over = true;
}
