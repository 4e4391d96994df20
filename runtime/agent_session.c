// START: a program that one talks to while it runs, over pipes or a terminal.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_command.h"

typedef struct Session {
  Command command;
  int input;  // -1: none, or it reads no more
  int place;  // in this turn's poll, or -1
  bool terminal;
  bool eof;        // the server sends no more
  bool line_open;  // the terminal has been sent a part of a line
  uint8_t flags;   // of StartFlag
  uint32_t key;    // of one that is held
  char *note;      // its server's, for the next one; NULL: it is not held
  uint8_t *bytes;  // WINDOW bytes or NULL, [start, end) wait for the program
  size_t start, end;
} Session;

static void close_input(Session *session) {
  close_fd(&session->input);
  free(session->bytes);
  session->bytes = NULL;
  session->start = session->end = 0;
}

static void go_deaf(Agent *agent, Session *session) {
  const Channel *channel = &session->command.channel;
  close_input(session);
  if (!channel->detached && !session->eof)
    out_frame(agent, FRAME_DEAF, channel->id, NULL, 0);
}

// A terminal's end is typed: once for the line that is open, once more for the
// end of the file.
static void end_input(Session *session) {
  if (session->terminal) {
    char ends[2];
    memset(ends, pty_end_character(session->input), sizeof(ends));
    // A terminal that takes no more has nobody who reads.
    (void)!write(session->input, ends, session->line_open ? 2 : 1);
  }
  close_input(session);
}

static void write_input(Agent *agent, Session *session) {
  while (session->start < session->end) {
    ssize_t count = write(session->input, session->bytes + session->start,
                          session->end - session->start);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      go_deaf(agent, session);
      return;
    }
    session->start += (size_t)count;
    uint8_t last = session->bytes[session->start - 1];
    session->line_open = last != '\n' && last != '\r';
    if (!session->command.channel.detached)
      out_credit(agent, session->command.channel.id, (size_t)count);
  }
  free(session->bytes);
  session->bytes = NULL;
  session->start = session->end = 0;
  if (session->eof) end_input(session);
}

static void prepare(Agent *agent, Channel *channel) {
  Session *session = (Session *)channel;
  command_prepare(agent, channel);
  session->place = -1;
  if (session->input < 0) return;
  bool waiting = session->start < session->end;
  // Of an idle pipe only its end is of interest, which is always reported.
  if (waiting || !session->terminal)
    session->place = poll_add(agent, session->input, waiting ? POLLOUT : 0);
}

static void run(Agent *agent, Channel *channel) {
  Session *session = (Session *)channel;
  short events = poll_events(agent, session->place);
  if (session->input >= 0 && events) {
    if (events & POLLERR)
      go_deaf(agent, session);
    else
      write_input(agent, session);
  }
  command_run(agent, channel);
}

static void on_data(Agent *agent, Channel *channel, const Frame *frame) {
  Session *session = (Session *)channel;
  if (session->input < 0 || session->eof) return;  // late
  if (!session->bytes) session->bytes = malloc(WINDOW);
  if (!session->bytes) {
    go_deaf(agent, session);
    return;
  }
  if (WINDOW - session->end < frame->size) {
    memmove(session->bytes, session->bytes + session->start,
            session->end - session->start);
    session->end -= session->start;
    session->start = 0;
  }
  if (WINDOW - session->end < frame->size) {
    // More than it had credit for.
    command_on_kill(agent, channel);
    return;
  }
  memcpy(session->bytes + session->end, frame->payload, frame->size);
  session->end += frame->size;
  write_input(agent, session);
}

static void on_eof(Agent *agent, Channel *channel) {
  Session *session = (Session *)channel;
  if (session->input < 0 || session->eof) return;
  session->eof = true;
  write_input(agent, session);
}

static void on_signal(Agent *agent, Channel *channel, const Frame *frame) {
  const Command *command = (const Command *)channel;
  Cursor cursor = frame_cursor(frame);
  int number = take_u8(&cursor);
  if (!cursor_ended(&cursor) || number == 0 || number >= NSIG) return;
  // The number is the program's until we have waited for it; while its tree is
  // killed, the shim does that.
  if (command->pid > 1 && command->state == RUNNING)
    (void)kill(-command->pid, number);
}

static void on_resize(Agent *agent, Channel *channel, const Frame *frame) {
  const Session *session = (const Session *)channel;
  Cursor cursor = frame_cursor(frame);
  uint16_t columns = take_u16(&cursor);
  uint16_t rows = take_u16(&cursor);
  if (!cursor_ended(&cursor) || !session->terminal) return;
  int ours = session->command.outputs[0].fd;
  if (ours >= 0) pty_resize(ours, columns, rows);
}

// The output is thrown away, the program goes on. One that is held keeps its
// input too. Else that ends, and a terminal is hung up, as when its window is
// closed.
static void on_lost(Agent *agent, Channel *channel) {
  Session *session = (Session *)channel;
  command_on_lost(agent, channel);
  if (session->note) return;
  if (session->terminal) {
    close_input(session);
    close_fd(&session->command.terminal);
    close_fd(&session->command.outputs[0].fd);
  } else {
    on_eof(agent, channel);
  }
}

static void destroy(Agent *agent, Channel *channel) {
  Session *session = (Session *)channel;
  agent->session_count--;
  close_input(session);
  free(session->note);
  command_release(agent, &session->command);
  free(session);
}

static const ChannelKind session_kind = {.prepare = prepare,
                                         .run = run,
                                         .on_data = on_data,
                                         .on_eof = on_eof,
                                         .on_kill = command_on_kill,
                                         .on_signal = on_signal,
                                         .on_resize = on_resize,
                                         .on_lost = on_lost,
                                         .on_reaped = command_on_reaped,
                                         .destroy = destroy};

// What the program gets is closed here after the start; -1 where there is none.
typedef struct Ends {
  int in, out, err;
} Ends;

static int open_pipes(Session *session, bool with_input, Ends *theirs) {
  int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
  int error = with_input ? open_pipe(in, 1) : 0;
  if (!error) error = open_pipe(out, 0);
  if (!error) error = open_pipe(err, 0);
  session->input = in[1];
  session->command.outputs[0].fd = out[0];
  session->command.outputs[1].fd = err[0];
  *theirs = (Ends){in[0], out[1], err[1]};
  return error;
}

static int open_terminal(Session *session, const StartRequest *request) {
  Command *command = &session->command;
  int *ours = &command->outputs[0].fd;
  int error =
      pty_open(request->columns, request->rows, ours, &command->terminal);
  if (error) return error;
  session->terminal = true;
  session->input = fcntl(*ours, F_DUPFD_CLOEXEC, 3);
  return session->input < 0 ? errno : 0;
}

static int launch(Agent *agent, Session *session, const StartRequest *request) {
  Ends theirs = {-1, -1, -1};
  bool terminal = request->flags & START_TERMINAL;
  int error = terminal
                  ? open_terminal(session, request)
                  : open_pipes(session, request->flags & START_INPUT, &theirs);
  int end = session->command.terminal;
  if (!error) {
    ShimPlan plan = {.in = terminal ? end : theirs.in,
                     .out = terminal ? end : theirs.out,
                     .err = terminal ? end : theirs.err,
                     .terminal = terminal,
                     .announce = true,
                     .cwd = request->cwd,
                     .program = request->arguments[0],
                     .arguments = (char *const *)request->arguments};
    error = command_launch(agent, &session->command, &plan, request->entries,
                           request->entry_count);
  }
  close_fd(&theirs.in);
  close_fd(&theirs.out);
  close_fd(&theirs.err);
  return error;
}

static int hold(Agent *agent, Session *session, const char *note) {
  session->note = strdup(note);
  if (!session->note) return ENOMEM;
  session->key = ++agent->last_key;
  session->command.held = true;
  return 0;
}

void session_start(Agent *agent, const Frame *frame) {
  StartRequest request;
  Session *session = NULL;
  int error = parse_start(frame, &request);
  if (!error && agent->session_count >= SESSION_LIMIT) error = EAGAIN;
  if (!error) {
    session = command_new(agent, &session_kind, frame->id, sizeof(*session),
                          UINT64_MAX);
    if (!session) error = ENOMEM;
  }
  if (session) {
    agent->session_count++;
    session->input = session->place = -1;
    session->flags = request.flags;
    if (request.note) error = hold(agent, session, request.note);
    if (!error) error = launch(agent, session, &request);
    if (error) session->command.channel.over = true;
  }
  start_request_free(&request);
  if (error) out_fail(agent, frame->id, error, "start a program", "");
}

// A session that waits for a server, from `channel` on; NULL without one.
static Session *next_waiting(Channel *channel) {
  while (channel && (channel->kind != &session_kind || channel->over ||
                     !channel->detached || !((Session *)channel)->note))
    channel = channel->next;
  return (Session *)channel;
}

static void tell_held(Agent *agent, uint32_t id, const Session *session) {
  size_t length = strlen(session->note);
  uint8_t *at = out_reserve(agent, 13 + length + 1);
  if (!at) return;
  put_u32(at, session->key);
  put_u32(at + 4, (uint32_t)session->command.started);
  at[8] = session->flags;
  put_u32(at + 9, (uint32_t)length);
  memcpy(at + 13, session->note, length + 1);
  out_commit(agent, FRAME_HOLDS, id, 13 + length + 1);
}

void session_list(Agent *agent, const Frame *frame) {
  uint8_t count[8];
  uint64_t told = 0;
  Session *session = next_waiting(agent->channels);
  for (; session; session = next_waiting(session->command.channel.next)) {
    tell_held(agent, frame->id, session);
    told++;
  }
  put_u64(count, told);
  out_frame(agent, FRAME_DONE, frame->id, count, sizeof(count));
}

void session_attach(Agent *agent, const Frame *frame) {
  Cursor cursor = frame_cursor(frame);
  uint32_t key = take_u32(&cursor);
  Session *session = next_waiting(agent->channels);
  while (session && session->key != key)
    session = next_waiting(session->command.channel.next);
  if (!cursor_ended(&cursor) || !session) {
    out_fail(agent, frame->id, ESRCH, "take up a program", "");
    return;
  }
  command_attach(agent, &session->command, frame->id);
  if (session->input >= 0)
    out_credit(agent, frame->id, WINDOW - (session->end - session->start));
  else if (session->flags & (START_INPUT | START_TERMINAL) && !session->eof)
    go_deaf(agent, session);
}
