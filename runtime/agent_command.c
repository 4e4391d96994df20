// The life of a command: answered when it has exited and its output is in, not
// when the last background child lets go of the pipes.

#define _GNU_SOURCE

#include "agent_command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// How long to wait for the end of the output after a command's exit, and for a
// shim that was told to kill its tree; and the most that the kernel holds of a
// terminal's output.
enum { GRACE_MS = 100, KILL_MS = 5000, TERMINAL_HOLDS = 128 * 1024 };

void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

int open_pipe(int ends[2], int ours) {
  if (pipe2(ends, O_CLOEXEC) != 0) {
    int error = errno;
    ends[0] = ends[1] = -1;
    return error;
  }
  fcntl(ends[ours], F_SETFL, O_NONBLOCK);
  return 0;
}

void *command_new(Agent *agent, const ChannelKind *kind, uint32_t id,
                  size_t size, uint64_t left) {
  Command *command = channel_new(agent, kind, id, size);
  if (!command) return NULL;
  command->status = command->place = command->terminal = -1;
  command->outputs[0] = (Output){-1, -1, FRAME_OUT, left, 0, false};
  command->outputs[1] = (Output){-1, -1, FRAME_ERR, left, 0, false};
  return command;
}

// The agent's own environment with `entries` put over it. The array is
// malloced, the strings are borrowed.
static char **merge_environment(const char *const *entries, size_t given) {
  size_t own = 0, count = 0;
  while (environ[own])
    own++;
  char **merged = calloc(own + given + 1, sizeof(*merged));
  if (!merged) return NULL;
  for (size_t i = 0; i < own; i++) {
    size_t name = strcspn(environ[i], "=") + 1;
    bool replaced = false;
    for (size_t j = 0; j < given && !replaced; j++)
      replaced = strncmp(environ[i], entries[j], name) == 0;
    if (!replaced) merged[count++] = environ[i];
  }
  for (size_t j = 0; j < given; j++)
    merged[count++] = (char *)entries[j];
  return merged;
}

int command_launch(Agent *agent, Command *command, ShimPlan *plan,
                   const char *const *entries, size_t count) {
  int status[2];
  int error = open_pipe(status, 0);
  if (error) return error;
  command->status = status[0];
  plan->status = status[1];
  plan->limits = &agent->limits;
  plan->environment = merge_environment(entries, count);
  pid_t shim = -1;
  if (plan->environment) {
    shim = fork();
    if (shim == 0) shim_main(plan);
    if (shim < 0) error = errno;
  } else {
    error = ENOMEM;
  }
  if (shim > 0) command->shim = shim;
  free(plan->environment);
  close_fd(&plan->status);
  return error;
}

void command_prepare(Agent *agent, Channel *channel) {
  Command *command = (Command *)channel;
  command->place = -1;
  if (command->status >= 0)
    command->place = poll_add(agent, command->status, POLLIN);
  for (int i = 0; i < 2; i++) {
    Output *output = &command->outputs[i];
    bool ready = output->left == 0 || out_room(agent, channel) > 0;
    output->place = -1;
    if (output->fd >= 0 && ready)
      output->place = poll_add(agent, output->fd, POLLIN);
  }
  if (command->deadline)
    wake_by(agent, command->deadline);
  else if (command->state == EXITED && !(channel->detached && command->held))
    wake_by(agent, agent->now + GRACE_MS);
}

static void set_exited(Agent *agent, Command *command, int32_t code) {
  bool terminal = command->terminal >= 0;
  command->state = EXITED;
  command->exit_code = code;
  command->deadline = agent->now + GRACE_MS;
  close_fd(&command->terminal);
  for (int i = 0; i < 2; i++) {
    int waiting = 0;
    if (command->outputs[i].fd >= 0)
      ioctl(command->outputs[i].fd, FIONREAD, &waiting);
    // A terminal does not count what is on its way through the kernel.
    command->outputs[i].owed = terminal ? TERMINAL_HOLDS : (size_t)waiting;
  }
}

static void fail(Agent *agent, Command *command, const ShimStatus *status) {
  static const char *const stages[] = {
      [STAGE_FORK] = "start a process",
      [STAGE_CHDIR] = "change to the working directory",
      [STAGE_EXEC] = "run the program",
  };
  int stage = status->stage;
  if (stage < STAGE_FORK || stage > STAGE_EXEC) stage = STAGE_FORK;
  command->channel.over = true;
  if (command->channel.detached) return;
  out_fail(agent, command->channel.id, status->value, stages[stage], "");
}

static void tell_started(Agent *agent, const Command *command) {
  uint8_t payload[4];
  if (command->channel.detached) return;
  put_u32(payload, (uint32_t)command->started);
  out_frame(agent, FRAME_STARTED, command->channel.id, payload,
            sizeof(payload));
}

static void read_status(Agent *agent, Command *command) {
  ShimStatus status;
  ssize_t count = read(command->status, &status, sizeof(status));
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count == (ssize_t)sizeof(status) && status.report == SHIM_STARTED) {
    command->pid = command->started = status.value;
    tell_started(agent, command);
    return;
  }
  close_fd(&command->status);

  if (count != (ssize_t)sizeof(status)) {
    // Someone inside killed the shim, and most likely the command with it.
    command->flags |= EXIT_SIGNALLED;
    set_exited(agent, command, 128 + SIGKILL);
  } else if (status.report == SHIM_FAILED) {
    fail(agent, command, &status);
  } else {
    if (status.report != SHIM_EXITED) command->flags |= EXIT_SIGNALLED;
    if (status.report == SHIM_KILLED) command->flags |= EXIT_KILLED;
    if (status.report == SHIM_KILLED && command->timed_out)
      command->flags |= EXIT_TIMED_OUT;
    set_exited(agent, command, status.value);
  }
}

// Moves what one read gives: to the server, or nowhere past the limit.
static void pump(Agent *agent, Command *command, Output *output) {
  static uint8_t scratch[CHUNK];
  if (!poll_events(agent, output->place)) return;
  size_t room = output->left ? out_room(agent, &command->channel) : CHUNK;
  if (room > output->left && output->left > 0) room = (size_t)output->left;
  uint8_t *at = output->left ? out_reserve(agent, room) : scratch;
  if (room == 0 || !at) return;

  ssize_t count = read(output->fd, at, room);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    // A terminal that nobody has open any more says EIO.
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
  command->channel.credit -= (uint32_t)size;
  out_commit(agent, output->type, command->channel.id, size);
}

static void begin_kill(Agent *agent, Command *command) {
  if (command->state != RUNNING) return;
  command->state = KILLING;
  command->deadline = agent->now + KILL_MS;
  if (command->shim > 0) kill(command->shim, SIGTERM);
}

static void check_deadline(Agent *agent, Command *command) {
  if (!command->deadline || agent->now < command->deadline) return;
  if (command->state == RUNNING) {
    command->timed_out = true;
    begin_kill(agent, command);
  } else if (command->state == KILLING) {
    // Something below the shim does not die; the answer cannot wait for it.
    if (command->shim > 0) kill(command->shim, SIGKILL);
    close_fd(&command->status);
    command->flags |= EXIT_KILLED | EXIT_SIGNALLED;
    if (command->timed_out) command->flags |= EXIT_TIMED_OUT;
    set_exited(agent, command, 128 + SIGKILL);
  }
}

static void answer(Agent *agent, Command *command) {
  uint8_t payload[5];
  if (command->channel.detached && command->held) {
    command->deadline = 0;
    return;
  }
  command->channel.over = true;
  if (command->channel.detached) return;
  if (command->outputs[0].truncated) command->flags |= EXIT_OUT_TRUNCATED;
  if (command->outputs[1].truncated) command->flags |= EXIT_ERR_TRUNCATED;
  put_u32(payload, (uint32_t)command->exit_code);
  payload[4] = command->flags;
  out_frame(agent, FRAME_EXIT, command->channel.id, payload, sizeof(payload));
}

// Whether nothing of the command is left to be read, once the grace is over.
static bool emptied(const Agent *agent, const Output *output) {
  if (output->fd < 0 || output->owed == 0) return true;
  // What a terminal owes is a guess; but when asked, it had nothing.
  return output->place >= 0 && !poll_events(agent, output->place);
}

void command_run(Agent *agent, Channel *channel) {
  Command *command = (Command *)channel;
  if (poll_events(agent, command->place)) read_status(agent, command);
  if (channel->over) return;
  pump(agent, command, &command->outputs[0]);
  pump(agent, command, &command->outputs[1]);
  check_deadline(agent, command);
  if (command->state != EXITED) return;

  bool grace_over = agent->now >= command->deadline;
  for (int i = 0; i < 2; i++) {
    const Output *output = &command->outputs[i];
    if (output->fd >= 0 && !(grace_over && emptied(agent, output))) {
      // What is owed waits for the server's credit, not for the clock.
      if (grace_over) command->deadline = 0;
      return;
    }
  }
  answer(agent, command);
}

void command_on_kill(Agent *agent, Channel *channel) {
  Command *command = (Command *)channel;
  // No one reads the output any more, so it must not wait for credit.
  command->outputs[0].left = command->outputs[1].left = 0;
  begin_kill(agent, command);
}

void command_on_lost(Agent *agent, Channel *channel) {
  Command *command = (Command *)channel;
  command->outputs[0].left = command->outputs[1].left = 0;
}

void command_attach(Agent *agent, Command *command, uint32_t id) {
  Channel *channel = &command->channel;
  channel->id = id;
  channel->detached = false;
  channel->credit = WINDOW;
  // Of one that is being killed nobody wants to read.
  if (command->state != KILLING)
    command->outputs[0].left = command->outputs[1].left = UINT64_MAX;
  if (command->started) tell_started(agent, command);
}

void command_on_reaped(Agent *agent, Channel *channel, pid_t pid) {
  Command *command = (Command *)channel;
  if (command->shim == pid) command->shim = 0;
  if (command->pid == pid) command->pid = 0;
}

void command_release(Agent *agent, Command *command) {
  close_fd(&command->status);
  close_fd(&command->terminal);
  for (int i = 0; i < 2; i++)
    if (command->outputs[i].fd >= 0)
      orphan_adopt(agent, command->outputs[i].fd);
}
