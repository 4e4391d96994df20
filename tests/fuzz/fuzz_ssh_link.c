// libFuzzer over what the SSH helper does between its peer and the server: both
// say anything in any order. The peer is played by stand-ins for libssh, the
// server by the bytes of the input. The helper may end itself, but it keeps its
// word: windows are kept, no number is used again before the server has
// forgotten it, and all that it says is whole.
//
// An input is a list of records `u8 action, u8 channel and flags, u8 size,
// bytes`.

#include <errno.h>
#include <libssh/callbacks.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ssize_t fuzz_read(int fd, void *bytes, size_t size);
static ssize_t fuzz_write(int fd, const void *bytes, size_t size);
static _Noreturn void fuzz_exit(int status);

// The helper itself, whose one socket and end are the fuzzer's.
#define read fuzz_read
#define write fuzz_write
#define _exit fuzz_exit  // NOLINT(bugprone-reserved-identifier)
// NOLINTBEGIN(bugprone-suspicious-include)
#include "../../runtime/ssh_channel.c"
#include "../../runtime/ssh_link.c"
// NOLINTEND(bugprone-suspicious-include)
#undef read
#undef write
#undef _exit

// -------------------------------------------------------------- the server

typedef struct Told {
  bool known;   // from TO_START or TO_DIAL to FROM_FORGOTTEN
  bool closed;  // TO_CLOSED was said
  bool ended;   // TO_EOF was said
  bool terminal;
  uint64_t input, credit;  // bytes said, and allowed
  uint64_t output, taken;  // bytes given, and said to have gone out
} Told;

enum { MAX_HEARD = 1 << 20 };

static Told told[256];
static uint8_t heard[MAX_HEARD];  // what the helper says
static size_t heard_size;
static const uint8_t *words;  // what the server says and was not read yet
static size_t words_size;
static size_t portion;  // most bytes of one read or write
static jmp_buf ended;

_Noreturn void fuzz_exit(int status) {
  longjmp(ended, 1);
}

ssize_t fuzz_read(int fd, void *bytes, size_t size) {
  if (size > portion) size = portion;
  if (size > words_size) size = words_size;
  memcpy(bytes, words, size);
  words += size;
  words_size -= size;
  return (ssize_t)size;
}

static void check_start(const uint8_t *bytes, size_t size) {
  size_t strings = 0;
  if (size < 7 || bytes[size - 1] != '\0') abort();
  if ((bytes[0] & ~START_TERMINAL) > START_SFTP) abort();
  for (size_t i = 5; i < size; i++)
    strings += bytes[i] == '\0';
  if (strings < 2) abort();
}

static void check_frame(int type, int channel, const uint8_t *bytes,
                        size_t size) {
  Told *self = &told[channel];
  bool begins = type == TO_START || type == TO_DIAL;
  if (channel >= MAX_CHANNELS || self->known == begins || self->closed) abort();
  if (begins) {
    *self = (Told){.known = true, .credit = LINK_WINDOW};
    if (type == TO_START) {
      check_start(bytes, size);
      self->terminal = bytes[0] & START_TERMINAL;
    } else if (size != 4 || link_get32(bytes) < 1 ||
               link_get32(bytes) > 65535) {
      abort();
    }
    return;
  }
  switch (type) {
  case TO_INPUT:
    self->input += size;
    if (size == 0 || self->ended || self->input > self->credit) abort();
    break;
  case TO_EOF:
    if (size != 0 || self->ended) abort();
    self->ended = true;
    break;
  case TO_SIZE:
    if (size != 4 || !self->terminal) abort();
    break;
  case TO_SIGNAL:
    if (size >= 32) abort();
    break;
  case TO_TAKEN:
    if (size != 4) abort();
    self->taken += link_get32(bytes);
    if (self->taken > self->output) abort();
    break;
  case TO_CLOSED:
    if (size != 0) abort();
    self->closed = true;
    break;
  default:
    abort();
  }
}

ssize_t fuzz_write(int fd, const void *bytes, size_t size) {
  if (size > portion) size = portion;
  if (heard_size + size > MAX_HEARD) abort();
  memcpy(heard + heard_size, bytes, size);
  heard_size += size;
  size_t at = 0;
  while (heard_size - at >= HEAD) {
    size_t length = link_get32(heard + at + 2);
    if (length > LINK_MAX) abort();
    if (heard_size - at - HEAD < length) break;
    check_frame(heard[at], heard[at + 1], heard + at + HEAD, length);
    at += HEAD + length;
  }
  memmove(heard, heard + at, heard_size - at);
  heard_size -= at;
  return (ssize_t)size;
}

// What is true for the server, once the helper has not given up on it.
static void note_said(const LinkFrame *frame) {
  Told *self = &told[frame->channel];
  if (frame->type == FROM_TAKEN) self->credit += link_get32(frame->bytes);
  if (frame->type == FROM_OUTPUT || frame->type == FROM_ERRORS)
    self->output += frame->size;
  if (frame->type == FROM_FORGOTTEN) {
    if (!self->closed) abort();
    *self = (Told){0};
  }
}

// ---------------------------------------------------------------- the peer

// A channel of libssh, on the heap so that a use of a freed one is seen.
struct ssh_channel_struct {
  ssh_channel_callbacks callbacks;
  size_t waiting;  // bytes that the peer has sent
  bool is_eof, eof_sent, status_sent, closed;
  uint32_t window;
};

struct ssh_message_struct {
  int type, subtype, port;
  const char *host;
};

static ssh_channel peers[MAX_CHANNELS];  // those that live
static bool is_full;                     // the peer's socket

static void remember(ssh_channel channel) {
  for (int i = 0; i < MAX_CHANNELS; i++) {
    if (peers[i]) continue;
    peers[i] = channel;
    return;
  }
  abort();  // more than may be open
}

ssh_channel ssh_channel_new(ssh_session session) {
  ssh_channel channel = calloc(1, sizeof(*channel));
  if (!channel) abort();
  channel->window = 1000;
  remember(channel);
  return channel;
}

int ssh_set_channel_callbacks(ssh_channel channel, ssh_channel_callbacks cb) {
  channel->callbacks = cb;
  return SSH_OK;
}

int ssh_remove_channel_callbacks(ssh_channel channel,
                                 ssh_channel_callbacks cb) {
  if (channel->callbacks != cb) abort();
  channel->callbacks = NULL;
  return SSH_OK;
}

uint32_t ssh_channel_window_size(ssh_channel channel) {
  return channel->window;
}

static int peer_write(ssh_channel channel, const void *data, uint32_t len) {
  volatile uint8_t sum = 0;
  if (channel->closed || len > channel->window) abort();
  if (channel->eof_sent) return SSH_ERROR;
  for (uint32_t i = 0; i < len; i++)
    sum = (uint8_t)(sum + ((const uint8_t *)data)[i]);
  channel->window -= len;
  if (sum == 0xee) is_full = true;
  return (int)len;
}

int ssh_channel_write(ssh_channel channel, const void *data, uint32_t len) {
  return peer_write(channel, data, len);
}

int ssh_channel_write_stderr(ssh_channel channel, const void *data,
                             uint32_t len) {
  return peer_write(channel, data, len);
}

int ssh_channel_read_nonblocking(ssh_channel channel, void *dest,
                                 uint32_t count, int is_stderr) {
  if (channel->closed) return SSH_ERROR;
  if (channel->waiting == 0) return channel->is_eof ? SSH_EOF : 0;
  if (count > channel->waiting) count = (uint32_t)channel->waiting;
  memset(dest, 'i', count);
  channel->waiting -= count;
  return (int)count;
}

int ssh_channel_is_eof(ssh_channel channel) {
  return channel->waiting == 0 && channel->is_eof;
}

int ssh_channel_send_eof(ssh_channel channel) {
  if (channel->eof_sent || channel->closed) abort();
  channel->eof_sent = true;
  return SSH_OK;
}

int ssh_channel_request_send_exit_status(ssh_channel channel, int status) {
  if (channel->status_sent || channel->closed) abort();
  channel->status_sent = true;
  return SSH_OK;
}

int ssh_channel_close(ssh_channel channel) {
  channel->closed = true;
  return SSH_OK;
}

void ssh_channel_free(ssh_channel channel) {
  if (channel->callbacks) abort();
  for (int i = 0; i < MAX_CHANNELS; i++)
    if (peers[i] == channel) peers[i] = NULL;
  free(channel);
}

int ssh_get_status(ssh_session session) {
  return is_full ? SSH_WRITE_PENDING : 0;
}

int ssh_message_type(ssh_message message) {
  return message->type;
}

int ssh_message_subtype(ssh_message message) {
  return message->subtype;
}

int ssh_message_channel_request_open_destination_port(ssh_message message) {
  return message->port;
}

const char *ssh_message_channel_request_open_destination(ssh_message message) {
  return message->host;
}

ssh_channel ssh_message_channel_request_open_reply_accept(ssh_message message) {
  return ssh_channel_new(NULL);
}

// ----------------------------------------------------------------- actions

enum {
  ACT_WORDS,  // bytes of the server, as they are
  ACT_FRAME,  // a frame of the server, the first byte being its letter
  ACT_BULK,   // the same, 512 bytes for each that the second one says
  ACT_OPEN,
  ACT_DIAL,
  ACT_PTY,
  ACT_SIZE,
  ACT_VARIABLE,
  ACT_VARIABLES,  // large ones
  ACT_SHELL,
  ACT_COMMAND,
  ACT_SUBSYSTEM,
  ACT_SIGNAL,
  ACT_INPUT,
  ACT_EOF,
  ACT_CLOSE,
  ACT_WINDOW,
  ACT_FULL,
  ACT_PUMP,
  ACTIONS,
};

typedef struct Record {
  int action;
  int channel;
  size_t size;
  const uint8_t *bytes;
  char text[257];  // the bytes up to the first NUL
  unsigned number;
} Record;

static void hear(const uint8_t *bytes, size_t size) {
  static LinkFrame frame;
  words = bytes;
  words_size = size;
  while (words_size > 0) {
    link_receive(&frame);
    channel_receive(&frame);
    note_said(&frame);
  }
}

static void hear_frame(const Record *record, bool bulk) {
  static uint8_t bytes[HEAD + 2 * LINK_MAX];
  if (record->size == 0) return;
  size_t length =
      bulk ? (size_t)(record->number & 0xff) << 9 : record->size - 1;
  memset(bytes + HEAD, 'b', length);
  memcpy(bytes + HEAD, record->bytes + 1,
         length < record->size - 1 ? length : record->size - 1);
  bytes[0] = record->bytes[0];
  bytes[1] = (uint8_t)record->channel;
  link_put32(bytes + 2, (uint32_t)length);
  hear(bytes, HEAD + length);
}

static void dial(const Record *record) {
  static const bool yes = true;
  struct ssh_message_struct message = {
      SSH_REQUEST_CHANNEL_OPEN, SSH_CHANNEL_DIRECT_TCPIP,
      (int)record->number - 100, record->channel & 1 ? "::1" : record->text};
  channel_message(NULL, &message, (void *)&yes);
}

// What the peer asks for on a channel that it has.
static void ask(const Record *record, ssh_channel channel) {
  ssh_channel_callbacks on = channel->callbacks;
  void *self = on->userdata;
  static char large[9000];
  int number = (int)record->number;
  switch (record->action) {
  case ACT_PTY:
    on->channel_pty_request_function(NULL, channel, record->text, number,
                                     -number, 0, 0, self);
    break;
  case ACT_SIZE:
    on->channel_pty_window_change_function(NULL, channel, number, number << 4,
                                           0, 0, self);
    break;
  case ACT_VARIABLE:
    on->channel_env_request_function(NULL, channel, record->text, record->text,
                                     self);
    break;
  case ACT_VARIABLES:
    memset(large, 'v', sizeof(large) - 1);
    large[record->number % sizeof(large)] = '\0';
    on->channel_env_request_function(NULL, channel, record->text, large, self);
    large[record->number % sizeof(large)] = 'v';
    break;
  case ACT_SHELL:
    on->channel_shell_request_function(NULL, channel, self);
    break;
  case ACT_COMMAND:
    on->channel_exec_request_function(NULL, channel, record->text, self);
    break;
  case ACT_SUBSYSTEM:
    on->channel_subsystem_request_function(
        NULL, channel, record->size & 1 ? "sftp" : record->text, self);
    break;
  case ACT_SIGNAL:
    on->channel_signal_function(NULL, channel, record->text, self);
    break;
  case ACT_INPUT:
    channel->waiting += (size_t)number * 16;
    break;
  case ACT_EOF:
    channel->is_eof = true;
    break;
  case ACT_CLOSE:
    on->channel_close_function(NULL, channel, self);
    break;
  case ACT_WINDOW:
    channel->window += (uint32_t)number;
    break;
  default:
    break;
  }
}

static void act(const Record *record) {
  ssh_channel channel = peers[record->channel % MAX_CHANNELS];
  switch (record->action) {
  case ACT_WORDS:
    hear(record->bytes, record->size);
    break;
  case ACT_FRAME:
  case ACT_BULK:
    hear_frame(record, record->action == ACT_BULK);
    break;
  case ACT_OPEN:
    (void)channel_open(NULL);
    break;
  case ACT_DIAL:
    dial(record);
    break;
  case ACT_FULL:
    is_full = record->channel & 1;
    break;
  case ACT_PUMP:
    (void)channel_pump_all(NULL);
    break;
  default:
    if (channel) ask(record, channel);
    break;
  }
}

static size_t take_record(const uint8_t *data, size_t size, Record *record) {
  if (size < 3) return 0;
  record->action = data[0] % ACTIONS;
  record->channel = data[1];
  record->size = size - 3 < data[2] ? size - 3 : data[2];
  record->bytes = data + 3;
  memcpy(record->text, record->bytes, record->size);
  record->text[record->size] = '\0';
  record->number = record->size > 1
                       ? (unsigned)record->bytes[0] << 8 | record->bytes[1]
                       : (unsigned)data[2];
  return 3 + record->size;
}

static void clean_up(void) {
  for (int i = 0; i < MAX_CHANNELS; i++) {
    if (peers[i]) peers[i]->callbacks = NULL;
    if (peers[i]) ssh_channel_free(peers[i]);
    channels[i].used = false;
    channels[i].channel = NULL;
  }
}

// The first byte says into which portions reads and writes are cut.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Record record;
  if (size == 0) return 0;
  memset(told, 0, sizeof(told));
  heard_size = words_size = 0;
  is_full = false;
  portion = data[0] & 1 ? (size_t)data[0] + 1 : LINK_MAX;
  data++;
  size--;
  if (setjmp(ended) == 0) {
    for (size_t used; (used = take_record(data, size, &record)) > 0;) {
      data += used;
      size -= used;
      act(&record);
    }
    (void)channel_pump_all(NULL);
    if (heard_size > 0) abort();
  }
  clean_up();
  return 0;
}
