// Reads the script that goes along with this program, if one does.

#define _GNU_SOURCE
#include "bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGEST = 1 << 30 };

// Changed in the file, by `sbxlua bundle`: no compiler may know what it holds.
static const volatile BundleMark own_mark __attribute__((used)) = {
    .magic = {0x93, 's', 'b', 'x', 'l', 'u', 'a', 0x1e, 'b', 'u', 'n', 'd', 'l',
              'e', 0xe5, '1'},
};

void bundle_mark(BundleMark *mark) {
  const volatile uint8_t *from = (const volatile uint8_t *)&own_mark;
  uint8_t *to = (uint8_t *)mark;
  for (size_t i = 0; i < sizeof(*mark); i++)
    to[i] = from[i];
}

static uint64_t number(const uint8_t bytes[8]) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; i--)
    value = value << 8 | bytes[i];
  return value;
}

bool bundle_is_here(void) {
  BundleMark mark;
  bundle_mark(&mark);
  if (number(mark.size) == 0) return false;
  const char *wish = getenv("SBXLUA_BUNDLE");
  return !wish || strcmp(wish, "ignore") != 0;
}

static int read_all(int fd, char *bytes, size_t size, off_t offset) {
  while (size > 0) {
    ssize_t count = pread(fd, bytes, size, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -errno;
    if (count == 0) return -EBADMSG;
    bytes += count;
    size -= (size_t)count;
    offset += count;
  }
  return 0;
}

int bundle_read(char **bytes, size_t *size) {
  BundleMark mark;
  bundle_mark(&mark);
  uint64_t offset = number(mark.offset);
  *size = (size_t)number(mark.size);
  *bytes = NULL;
  int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  struct stat info;
  int status = fstat(fd, &info) == 0 ? 0 : -errno;
  if (status == 0 && (number(mark.size) > LARGEST || offset > INT64_MAX ||
                      (uint64_t)info.st_size < offset ||
                      (uint64_t)info.st_size - offset < *size))
    status = -EBADMSG;
  if (status == 0) {
    *bytes = malloc(*size + 1);
    status = *bytes ? read_all(fd, *bytes, *size, (off_t)offset) : -ENOMEM;
  }
  (void)close(fd);
  if (status == 0) return 0;
  free(*bytes);
  *bytes = NULL;
  return status;
}
