// Channels: what the peer asks for goes to the server as frames, and what its
// programs write comes back, never more than the peer takes.

#include "ssh_channel.h"

#include <libssh/callbacks.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CHANNELS = 10, MAX_VARIABLES = 16384, PIECE = 32768 };

typedef struct Output {
  unsigned char bytes[LINK_WINDOW];
  size_t start, size;
} Output;

typedef struct Channel {
  ssh_channel channel;  // NULL: it has gone, and the server is still to say so
  struct ssh_channel_callbacks_struct callbacks;
  bool used;
  bool started;      // the server knows it
  bool dialled;      // it is a connection, no program
  bool closed;       // the peer has ended it
  bool input_ended;  // and the server knows
  bool output_ended, output_end_sent;
  bool exited;
  int code;
  bool terminal;
  unsigned cols, rows;
  char term[64];
  size_t variables_size;
  char variables[MAX_VARIABLES];
  size_t credit;  // bytes of input that the server takes
  Output output, errors;
} Channel;

static Channel channels[MAX_CHANNELS];

static int number_of(const Channel *self) {
  return (int)(self - channels);
}

static Channel *unused(void) {
  for (int i = 0; i < MAX_CHANNELS; i++)
    if (!channels[i].used) return &channels[i];
  return NULL;
}

// ------------------------------------------------- what the peer asks for

static unsigned side(int size) {
  return size < 0 ? 0 : size > 65535 ? 65535 : (unsigned)size;
}

static int on_pty(ssh_session session, ssh_channel channel, const char *term,
                  int width, int height, int pixels_x, int pixels_y,
                  void *data) {
  Channel *self = data;
  if (self->started || strlen(term) >= sizeof(self->term)) return -1;
  self->terminal = true;
  self->cols = side(width);
  self->rows = side(height);
  memcpy(self->term, term, strlen(term) + 1);
  return 0;
}

static int on_size(ssh_session session, ssh_channel channel, int width,
                   int height, int pixels_x, int pixels_y, void *data) {
  const Channel *self = data;
  if (!self->terminal || !self->started) return -1;
  unsigned char bytes[4];
  link_put16(bytes, side(width));
  link_put16(bytes + 2, side(height));
  link_send(TO_SIZE, number_of(self), bytes, sizeof(bytes));
  return 0;
}

static int on_variable(ssh_session session, ssh_channel channel,
                       const char *name, const char *value, void *data) {
  Channel *self = data;
  size_t name_size = strlen(name), value_size = strlen(value);
  size_t room = MAX_VARIABLES - self->variables_size;
  if (self->started || name_size + 2 > room ||
      value_size > room - name_size - 2)
    return -1;
  (void)snprintf(self->variables + self->variables_size, room, "%s=%s", name,
                 value);
  self->variables_size += name_size + value_size + 2;
  return 0;
}

static int start(Channel *self, int kind, const char *command) {
  static unsigned char bytes[LINK_MAX];
  size_t term = strlen(self->term) + 1, size = strlen(command) + 1;
  if (self->started) return -1;
  if (5 + term + size + self->variables_size > sizeof(bytes)) return -1;
  bytes[0] = (unsigned char)(kind | (self->terminal ? START_TERMINAL : 0));
  link_put16(bytes + 1, self->cols);
  link_put16(bytes + 3, self->rows);
  memcpy(bytes + 5, self->term, term);
  memcpy(bytes + 5 + term, command, size);
  memcpy(bytes + 5 + term + size, self->variables, self->variables_size);
  self->started = true;
  link_send(TO_START, number_of(self), bytes,
            5 + term + size + self->variables_size);
  return 0;
}

static int on_shell(ssh_session session, ssh_channel channel, void *data) {
  return start(data, START_SHELL, "");
}

static int on_command(ssh_session session, ssh_channel channel,
                      const char *command, void *data) {
  return start(data, START_COMMAND, command);
}

static int on_subsystem(ssh_session session, ssh_channel channel,
                        const char *name, void *data) {
  return strcmp(name, "sftp") == 0 ? start(data, START_SFTP, "") : -1;
}

static void on_signal(ssh_session session, ssh_channel channel,
                      const char *name, void *data) {
  const Channel *self = data;
  if (self->started && strlen(name) < 32)
    link_send(TO_SIGNAL, number_of(self), name, strlen(name));
}

static void on_close(ssh_session session, ssh_channel channel, void *data) {
  ((Channel *)data)->closed = true;
}

static void take(Channel *self, ssh_channel channel) {
  memset(self, 0, sizeof(*self));
  self->used = true;
  self->channel = channel;
  self->credit = LINK_WINDOW;
  self->callbacks = (struct ssh_channel_callbacks_struct){
      .userdata = self,
      .channel_close_function = on_close,
      .channel_signal_function = on_signal,
      .channel_pty_request_function = on_pty,
      .channel_pty_window_change_function = on_size,
      .channel_shell_request_function = on_shell,
      .channel_exec_request_function = on_command,
      .channel_env_request_function = on_variable,
      .channel_subsystem_request_function = on_subsystem,
  };
  ssh_callbacks_init(&self->callbacks);
  (void)ssh_set_channel_callbacks(channel, &self->callbacks);
}

ssh_channel channel_open(ssh_session session) {
  Channel *self = unused();
  ssh_channel channel = self ? ssh_channel_new(session) : NULL;
  if (channel) take(self, channel);
  return channel;
}

static bool is_loopback(const char *host) {
  return host && (strcmp(host, "localhost") == 0 ||
                  strcmp(host, "127.0.0.1") == 0 || strcmp(host, "::1") == 0);
}

int channel_message(ssh_session session, ssh_message message, void *data) {
  const bool *admitted = data;
  Channel *self = unused();
  if (!*admitted || !self ||
      ssh_message_type(message) != SSH_REQUEST_CHANNEL_OPEN ||
      ssh_message_subtype(message) != SSH_CHANNEL_DIRECT_TCPIP)
    return 1;
  int port = ssh_message_channel_request_open_destination_port(message);
  if (!is_loopback(ssh_message_channel_request_open_destination(message)) ||
      port < 1 || port > 65535)
    return 1;
  ssh_channel channel = ssh_message_channel_request_open_reply_accept(message);
  if (!channel) return 1;
  take(self, channel);
  self->started = self->dialled = true;
  unsigned char bytes[4];
  link_put32(bytes, (uint32_t)port);
  link_send(TO_DIAL, number_of(self), bytes, sizeof(bytes));
  return 0;
}

// -------------------------------------------------- what the server says

static void keep(Output *output, const LinkFrame *frame) {
  if (frame->size > LINK_WINDOW - output->size) _exit(1);
  if (output->start + output->size + frame->size > LINK_WINDOW) {
    memmove(output->bytes, output->bytes + output->start, output->size);
    output->start = 0;
  }
  memcpy(output->bytes + output->start + output->size, frame->bytes,
         frame->size);
  output->size += frame->size;
}

void channel_receive(const LinkFrame *frame) {
  if (frame->channel >= MAX_CHANNELS) _exit(1);
  Channel *self = &channels[frame->channel];
  if (!self->used || !self->started) _exit(1);
  switch (frame->type) {
  case FROM_OUTPUT:
    if (self->channel) keep(&self->output, frame);
    break;
  case FROM_ERRORS:
    if (self->channel) keep(&self->errors, frame);
    break;
  case FROM_EOF:
    self->output_ended = true;
    break;
  case FROM_EXIT:
    if (frame->size != 4) _exit(1);
    self->output_ended = self->exited = true;
    self->code = (int)link_get32(frame->bytes);
    break;
  case FROM_TAKEN:
    if (frame->size != 4) _exit(1);
    self->credit += link_get32(frame->bytes);
    break;
  case FROM_FORGOTTEN:
    if (self->channel) _exit(1);
    self->used = false;
    break;
  default:
    _exit(1);
  }
}

// ------------------------------------------------------------ moving on

// Nothing while the socket is full: libssh would keep all of it in memory.
static void pump_output(ssh_session session, Channel *self, Output *output,
                        bool is_errors) {
  while (output->size > 0 &&
         !((unsigned)ssh_get_status(session) & SSH_WRITE_PENDING)) {
    uint32_t size = ssh_channel_window_size(self->channel);
    if (size > PIECE) size = PIECE;
    if (size > output->size) size = (uint32_t)output->size;
    if (size == 0) return;
    const unsigned char *bytes = output->bytes + output->start;
    int count = is_errors ? ssh_channel_write_stderr(self->channel, bytes, size)
                          : ssh_channel_write(self->channel, bytes, size);
    if (count <= 0) return;
    output->start += (size_t)count;
    output->size -= (size_t)count;
    if (output->size == 0) output->start = 0;
    unsigned char taken[4];
    link_put32(taken, (uint32_t)count);
    link_send(TO_TAKEN, number_of(self), taken, sizeof(taken));
  }
}

static void pump_input(Channel *self) {
  static unsigned char bytes[PIECE];
  while (!self->input_ended && !self->closed) {
    size_t room = self->credit < PIECE ? self->credit : PIECE;
    if (room == 0) return;
    int count =
        ssh_channel_read_nonblocking(self->channel, bytes, (uint32_t)room, 0);
    if (count > 0) {
      self->credit -= (size_t)count;
      link_send(TO_INPUT, number_of(self), bytes, (size_t)count);
    } else if (count == SSH_EOF || ssh_channel_is_eof(self->channel)) {
      self->input_ended = true;
      link_send(TO_EOF, number_of(self), NULL, 0);
    } else {
      return;
    }
  }
}

static void end(Channel *self) {
  if (!self->closed) {
    if (!self->output_end_sent) (void)ssh_channel_send_eof(self->channel);
    if (!self->dialled)
      (void)ssh_channel_request_send_exit_status(self->channel, self->code);
  }
  (void)ssh_channel_close(self->channel);
  (void)ssh_remove_channel_callbacks(self->channel, &self->callbacks);
  ssh_channel_free(self->channel);
  self->channel = NULL;
  if (self->started)
    link_send(TO_CLOSED, number_of(self), NULL, 0);
  else
    self->used = false;
}

static void pump(ssh_session session, Channel *self) {
  if (self->started && !self->closed) {
    pump_input(self);
    pump_output(session, self, &self->output, false);
    pump_output(session, self, &self->errors, true);
  }
  bool sent = self->output.size + self->errors.size == 0;
  if (self->closed || (self->exited && sent)) {
    end(self);
  } else if (self->output_ended && sent && !self->output_end_sent) {
    self->output_end_sent = true;
    (void)ssh_channel_send_eof(self->channel);
  }
}

bool channel_pump_all(ssh_session session) {
  bool any = false;
  for (int i = 0; i < MAX_CHANNELS; i++) {
    if (channels[i].channel) pump(session, &channels[i]);
    any = any || channels[i].used;
  }
  return any;
}
