// A program of its own, for the local server: speaks SSH with one peer on a
// socket, and with the server, which knows the sessions and runs what is asked
// for, in frames. A process for each connection, because what peers send before
// they have proved anything goes through much code.
//
//   ssh key   writes a new host key to standard output
//   ssh       fd 3: the peer, fd 4: the server, fd 5: the host key
//
// It is no part of sbxlua itself, so that other runs do not load libssh.

#include <grp.h>
#include <libssh/callbacks.h>
#include <libssh/server.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "ssh_channel.h"
#include "ssh_link.h"

enum {
  PEER_FD = 3,
  LINK_FD = 4,
  KEY_FD = 5,
  MAX_KEY = 16384,
  MAX_TRIES = 20,
  LOGIN_SECONDS = 30,
  IDLE_SECONDS = 600,  // without any channel
  TICK_MS = 1000,
  NOBODY = 65534,
};

static bool admitted;

static int write_key(void) {
  ssh_key key = NULL;
  char *text = NULL;
  if (ssh_pki_generate(SSH_KEYTYPE_ED25519, 0, &key) != SSH_OK ||
      ssh_pki_export_privkey_base64(key, NULL, NULL, NULL, &text) != SSH_OK)
    return 1;
  bool failed = fputs(text, stdout) < 0 || fflush(stdout) != 0;
  ssh_string_free_char(text);
  ssh_key_free(key);
  return failed;
}

// ------------------------------------------------------------- logging in

static bool is_known(const char *user, ssh_key key, bool verified) {
  static LinkFrame frame;
  char bytes[512 + MAX_KEY];
  char *text = NULL;
  if (ssh_pki_export_pubkey_base64(key, &text) != SSH_OK) return false;
  size_t user_size = strlen(user) + 1, size = strlen(text);
  bool sent = user_size <= 256 && size <= MAX_KEY;
  if (sent) {
    bytes[0] = (char)verified;
    memcpy(bytes + 1, user, user_size);
    memcpy(bytes + 1 + user_size, text, size + 1);
    link_send(TO_ASK, 0, bytes, 1 + user_size + size);
    link_receive(&frame);
  }
  ssh_string_free_char(text);
  return sent && frame.type == FROM_ANSWER && frame.size == 1 &&
         frame.bytes[0] == 1;
}

static int on_key(ssh_session session, const char *user, ssh_key key,
                  char state, void *data) {
  static int tries;
  if (admitted || ++tries > MAX_TRIES) _exit(0);
  if (state != SSH_PUBLICKEY_STATE_NONE && state != SSH_PUBLICKEY_STATE_VALID)
    return SSH_AUTH_DENIED;
  bool verified = state == SSH_PUBLICKEY_STATE_VALID;
  if (!is_known(user, key, verified)) return SSH_AUTH_DENIED;
  if (verified) {
    admitted = true;
    alarm(0);
  }
  return SSH_AUTH_SUCCESS;
}

static ssh_channel on_session(ssh_session session, void *data) {
  return admitted ? channel_open(session) : NULL;
}

// ------------------------------------------------------------ a connection

static int on_link(int fd, int events, void *data) {
  static LinkFrame frame;
  link_receive(&frame);
  channel_receive(&frame);
  return 0;
}

static bool read_key(ssh_bind bind) {
  char text[MAX_KEY];
  size_t size = 0;
  ssize_t count;
  while (size < sizeof(text) - 1 &&
         (count = read(KEY_FD, text + size, sizeof(text) - 1 - size)) > 0)
    size += (size_t)count;
  text[size] = '\0';
  ssh_key key = NULL;
  int status = ssh_pki_import_privkey_base64(text, NULL, NULL, NULL, &key);
  explicit_bzero(text, sizeof(text));
  (void)close(KEY_FD);
  return status == SSH_OK &&
         ssh_bind_options_set(bind, SSH_BIND_OPTIONS_IMPORT_KEY, key) == SSH_OK;
}

// What a peer that has broken in here could use.
static void confine(void) {
  const struct rlimit none = {0, 0}, few = {64, 64};
  (void)setrlimit(RLIMIT_CORE, &none);
  (void)setrlimit(RLIMIT_FSIZE, &none);
  (void)setrlimit(RLIMIT_NOFILE, &few);
  if (geteuid() == 0 && setgroups(0, NULL) == 0 && setgid(NOBODY) == 0)
    (void)!setuid(NOBODY);
  (void)setrlimit(RLIMIT_NPROC, &none);
  (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static void serve(ssh_session session) {
  ssh_event event = ssh_event_new();
  if (!event || ssh_event_add_session(event, session) != SSH_OK ||
      ssh_event_add_fd(event, LINK_FD, POLLIN, on_link, NULL) != SSH_OK)
    return;
  ssh_set_blocking(session, 0);
  time_t busy = time(NULL);
  while (ssh_is_connected(session)) {
    if (ssh_event_dopoll(event, TICK_MS) == SSH_ERROR) return;
    if (channel_pump_all(session)) busy = time(NULL);
    if (admitted && time(NULL) - busy > IDLE_SECONDS) return;
  }
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "key") == 0) return write_key();
  alarm(LOGIN_SECONDS);
  const bool no = false;
  ssh_bind bind = ssh_bind_new();
  ssh_session session = ssh_new();
  if (!bind || !session) return 1;
  (void)ssh_bind_options_set(bind, SSH_BIND_OPTIONS_PROCESS_CONFIG, &no);
  if (!read_key(bind)) return 1;
  confine();

  struct ssh_server_callbacks_struct callbacks = {
      .auth_pubkey_function = on_key,
      .channel_open_request_session_function = on_session,
  };
  ssh_callbacks_init(&callbacks);
  if (ssh_bind_accept_fd(bind, session, PEER_FD) != SSH_OK) return 1;
  (void)ssh_set_server_callbacks(session, &callbacks);
  ssh_set_auth_methods(session, SSH_AUTH_METHOD_PUBLICKEY);
  ssh_set_message_callback(session, channel_message, &admitted);
  if (ssh_handle_key_exchange(session) != SSH_OK) _exit(0);
  serve(session);
  _exit(0);
}
