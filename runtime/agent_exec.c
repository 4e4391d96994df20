// EXEC: a shell command with bounded output and an end in time.

#include <errno.h>
#include <stdlib.h>

#include "agent_command.h"

static void destroy(Agent *agent, Channel *channel) {
  agent->exec_count--;
  command_release(agent, (Command *)channel);
  free(channel);
}

static const ChannelKind exec_kind = {.prepare = command_prepare,
                                      .run = command_run,
                                      .on_kill = command_on_kill,
                                      .on_lost = command_on_lost,
                                      .on_reaped = command_on_reaped,
                                      .destroy = destroy};

static int launch(Agent *agent, Command *command, const ExecRequest *request) {
  char *arguments[] = {"sh", "-c", (char *)request->command, NULL};
  int out[2] = {-1, -1}, err[2] = {-1, -1};
  int error = open_pipe(out, 0);
  if (!error) error = open_pipe(err, 0);
  command->outputs[0].fd = out[0];
  command->outputs[1].fd = err[0];
  if (!error) {
    ShimPlan plan = {.in = -1,
                     .out = out[1],
                     .err = err[1],
                     .cwd = request->cwd,
                     .program = "/bin/sh",
                     .arguments = arguments};
    error = command_launch(agent, command, &plan, request->entries,
                           request->entry_count);
  }
  close_fd(&out[1]);
  close_fd(&err[1]);
  return error;
}

void exec_start(Agent *agent, const Frame *frame) {
  ExecRequest request;
  int error = parse_exec(frame, &request);
  if (!error && agent->exec_count >= EXEC_LIMIT) error = EAGAIN;
  Command *command = NULL;
  if (!error) {
    command = command_new(agent, &exec_kind, frame->id, sizeof(*command),
                          request.max_output);
    if (!command) error = ENOMEM;
  }
  if (command) {
    agent->exec_count++;
    if (request.timeout_ms) command->deadline = agent->now + request.timeout_ms;
    error = launch(agent, command, &request);
    if (error) command->channel.over = true;
  }
  free(request.entries);
  if (error) out_fail(agent, frame->id, error, "start a command", "");
}
