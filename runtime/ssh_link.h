// The frames between the server and sshd-like helper processes, one for each
// connection. The same in lua/sbx/server/ssh/link.lua.
//
// A frame is a letter, the number of a channel, the size of what follows as
// four bytes, the first being the highest, and that.

#ifndef SBX_SSH_LINK_H
#define SBX_SSH_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  LINK_MAX = 65536,      // bytes of a frame
  LINK_WINDOW = 131072,  // bytes on their way, each way, of a channel
};

// From here to the server.
enum {
  TO_ASK = 'A',     // is this the key? verified (1 byte), user, NUL, base64
  TO_START = 'S',   // kind (1), cols (2), rows (2), term, NUL, command, NUL,
                    // then NAME=value, NUL ...
  TO_DIAL = 'D',    // port (4)
  TO_INPUT = 'I',   // bytes
  TO_EOF = 'E',     // no more of them
  TO_SIZE = 'R',    // cols (2), rows (2)
  TO_SIGNAL = 'K',  // its name
  TO_TAKEN = 'W',   // bytes of output that went out (4)
  TO_CLOSED = 'C',  // the channel has ended
};

// From the server.
enum {
  FROM_ANSWER = 'a',    // 1: it is the key (1)
  FROM_OUTPUT = 'o',    // bytes
  FROM_ERRORS = 'e',    // bytes, of standard error
  FROM_EOF = 'f',       // no more of them
  FROM_EXIT = 'x',      // its exit code (4); the channel is to be closed
  FROM_TAKEN = 'w',     // bytes of input that were used (4)
  FROM_FORGOTTEN = 'z'  // after TO_CLOSED: its number may be used again
};

// What TO_START starts.
enum { START_SHELL, START_COMMAND, START_SFTP, START_TERMINAL = 16 };

typedef struct LinkFrame {
  unsigned char type;
  unsigned char channel;
  size_t size;
  unsigned char bytes[LINK_MAX];
} LinkFrame;

void link_put16(unsigned char *to, unsigned value);
void link_put32(unsigned char *to, uint32_t value);
uint32_t link_get32(const unsigned char *from);

// Both wait, and end the process when the server has gone.
void link_send(int type, int channel, const void *bytes, size_t size);
void link_receive(LinkFrame *frame);

#endif
