// Frames over the socket to the server.

#include "ssh_link.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { LINK_FD = 4, HEAD = 6 };

void link_put16(unsigned char *to, unsigned value) {
  to[0] = (unsigned char)(value >> 8 & 0xff);
  to[1] = (unsigned char)(value & 0xff);
}

void link_put32(unsigned char *to, uint32_t value) {
  link_put16(to, value >> 16);
  link_put16(to + 2, value & 0xffff);
}

uint32_t link_get32(const unsigned char *from) {
  return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 |
         (uint32_t)from[2] << 8 | from[3];
}

static void put(const unsigned char *bytes, size_t size) {
  while (size > 0) {
    ssize_t count = write(LINK_FD, bytes, size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) _exit(0);
    bytes += count;
    size -= (size_t)count;
  }
}

static void get(unsigned char *bytes, size_t size) {
  while (size > 0) {
    ssize_t count = read(LINK_FD, bytes, size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) _exit(0);
    bytes += count;
    size -= (size_t)count;
  }
}

void link_send(int type, int channel, const void *bytes, size_t size) {
  unsigned char head[HEAD] = {(unsigned char)type, (unsigned char)channel};
  if (size > LINK_MAX) _exit(1);
  link_put32(head + 2, (uint32_t)size);
  put(head, sizeof(head));
  if (size > 0) put(bytes, size);
}

void link_receive(LinkFrame *frame) {
  unsigned char head[HEAD];
  get(head, sizeof(head));
  frame->type = head[0];
  frame->channel = head[1];
  frame->size = link_get32(head + 2);
  if (frame->size > LINK_MAX) _exit(1);
  get(frame->bytes, frame->size);
}
