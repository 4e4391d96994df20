// The channels of one SSH connection, each a program or a connection inside.

#ifndef SBX_SSH_CHANNEL_H
#define SBX_SSH_CHANNEL_H

#include <libssh/libssh.h>
#include <libssh/server.h>
#include <stdbool.h>

#include "ssh_link.h"

// A new channel for programs; NULL when there are too many.
ssh_channel channel_open(ssh_session session);

// Takes what the peer asks for beside programs: connections to the sandbox's
// own loopback. Returns 1 for all that is to be refused.
int channel_message(ssh_session session, ssh_message message, void *data);

// What the server says about a channel.
void channel_receive(const LinkFrame *frame);

// Moves on what can be moved on. Returns whether there is any channel.
bool channel_pump_all(ssh_session session);

#endif
