// What EXEC and START have in common: a shim, the program below it, and its
// output. Those two embed a Command as their first member.

#ifndef SBX_AGENT_COMMAND_H
#define SBX_AGENT_COMMAND_H

#include "agent.h"

typedef struct Output {
  int fd;     // read end, or -1 at its end
  int place;  // in this turn's poll, or -1
  enum FrameType type;
  uint64_t left;  // bytes that may still be sent
  size_t owed;    // once exited: bytes in the pipe that belong to the command
  bool truncated;
} Output;

typedef enum CommandState { RUNNING, KILLING, EXITED } CommandState;

typedef struct Command {
  Channel channel;
  CommandState state;
  pid_t shim;  // 0 once reaped
  pid_t pid;   // of a START's program, which leads its group; 0 once reaped
  int status;  // the shim's reports; -1 once the last is in
  int place;
  // The program's end of its terminal, or -1. Held open until the exit, so that
  // the terminal stays whatever the program does to its descriptors.
  int terminal;
  Output outputs[2];
  int64_t deadline;  // ms: RUNNING: kill then; else stop waiting then; or 0
  bool timed_out;    // the deadline, not KILL, ended it
  bool held;         // its end waits for another connection, to be told there
  int32_t started;   // the pid that was reported, for good; 0 before
  int32_t exit_code;
  uint8_t flags;
} Command;

// Closes a descriptor and sets it to -1; harmless for -1.
void close_fd(int *fd);

// Makes a pipe; `ours` (0 or 1) says which end does not block. Returns 0 or an
// errno.
int open_pipe(int ends[2], int ours);

// A Command of `size` bytes with nothing open, each output limited to `left`
// bytes; NULL without memory.
void *command_new(Agent *agent, const ChannelKind *kind, uint32_t id,
                  size_t size, uint64_t left);

// Starts the shim for `plan`, whose status and environment are filled in here,
// from `entries` put over the agent's own. Returns 0 or an errno.
int command_launch(Agent *agent, Command *command, ShimPlan *plan,
                   const char *const *entries, size_t count);

// Parts of a ChannelKind. `command_run` may end the channel.
void command_prepare(Agent *agent, Channel *channel);
void command_run(Agent *agent, Channel *channel);
void command_on_kill(Agent *agent, Channel *channel);
// The connection is gone: the command goes on, unheard.
void command_on_lost(Agent *agent, Channel *channel);
// Another connection goes on with it, under that id.
void command_attach(Agent *agent, Command *command, uint32_t id);
void command_on_reaped(Agent *agent, Channel *channel, pid_t pid);
// Closes what is open; the caller frees the channel.
void command_release(Agent *agent, Command *command);

#endif
