// Terminals, from the sandbox's own /dev/pts.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

void pty_resize(int ours, uint16_t columns, uint16_t rows) {
  struct winsize size = {.ws_row = rows, .ws_col = columns};
  // Tells the program by SIGWINCH when it changes.
  (void)ioctl(ours, TIOCSWINSZ, &size);
}

// As people have it whose programs write UTF-8: a backspace erases a character.
static void prepare_modes(int theirs) {
  struct termios modes;
  if (tcgetattr(theirs, &modes) != 0) return;
  modes.c_iflag |= IUTF8;
  (void)tcsetattr(theirs, TCSANOW, &modes);
}

int pty_open(uint16_t columns, uint16_t rows, int *ours, int *theirs) {
  int unlocked = 0;
  *theirs = -1;
  *ours = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (*ours < 0) return errno;
  if (ioctl(*ours, TIOCSPTLCK, &unlocked) == 0)
    // By way of our end, since a path could lead into another /dev/pts.
    *theirs = ioctl(*ours, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (*theirs < 0) {
    int error = errno;
    close(*ours);
    *ours = -1;
    return error;
  }
  pty_resize(*ours, columns, rows);
  prepare_modes(*theirs);
  return 0;
}

char pty_end_character(int ours) {
  struct termios modes;
  if (tcgetattr(ours, &modes) != 0) return 4;
  return (char)modes.c_cc[VEOF];
}
