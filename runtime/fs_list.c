// Reading a folder.

#define _GNU_SOURCE
#include "fs_list.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// How far the buffer has come.
typedef struct Growing {
  char *bytes;
  size_t size, capacity;
} Growing;

static int append(Growing *growing, char type, const char *name) {
  size_t size = strlen(name) + 2;
  if (growing->capacity - growing->size < size) {
    size_t capacity = growing->capacity * 2 + 4096;
    char *bytes = realloc(growing->bytes, capacity);
    if (bytes == NULL) return -ENOMEM;
    growing->bytes = bytes;
    growing->capacity = capacity;
  }
  char *entry = growing->bytes + growing->size;
  entry[0] = type;
  memcpy(entry + 1, name, size - 1);
  growing->size += size;
  return 0;
}

static char letter_of_mode(mode_t mode) {
  switch (mode & S_IFMT) {
  case S_IFREG:
    return 'f';
  case S_IFDIR:
    return 'd';
  case S_IFLNK:
    return 'l';
  case S_IFIFO:
    return 'p';
  case S_IFSOCK:
    return 's';
  case S_IFCHR:
  case S_IFBLK:
    return 'c';
  default:
    return '?';
  }
}

// The letter for an entry, or 0 when it is gone already.
static char letter_of(int fd, const struct dirent *entry, bool follow) {
  static const char letters[] = {
      [DT_UNKNOWN] = '\0', [DT_REG] = 'f',  [DT_DIR] = 'd', [DT_LNK] = 'l',
      [DT_FIFO] = 'p',     [DT_SOCK] = 's', [DT_CHR] = 'c', [DT_BLK] = 'c',
  };
  struct stat facts;
  char letter = '\0';
  if (entry->d_type < sizeof(letters)) letter = letters[entry->d_type];
  if (letter == '\0') {
    // Some file systems do not say.
    if (fstatat(fd, entry->d_name, &facts, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno == ENOENT ? '\0' : '?';
    }
    letter = letter_of_mode(facts.st_mode);
  }
  if (letter != 'l' || !follow) return letter;
  if (fstatat(fd, entry->d_name, &facts, 0) != 0) return 'l';
  letter = letter_of_mode(facts.st_mode);
  return (char)toupper(letter);
}

static bool is_dots(const char *name) {
  return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int read_all(Growing *growing, size_t *count, DIR *folder, bool follow,
                    const atomic_bool *stop) {
  for (;;) {
    if (atomic_load(stop)) return -ECANCELED;
    errno = 0;
    const struct dirent *entry = readdir(folder);
    if (entry == NULL) return -errno;
    if (is_dots(entry->d_name)) continue;
    char letter = letter_of(dirfd(folder), entry, follow);
    if (letter == '\0') continue;
    int status = append(growing, letter, entry->d_name);
    if (status != 0) return status;
    *count += 1;
  }
}

static int compare(const void *a, const void *b) {
  return strcmp(*(char *const *)a + 1, *(char *const *)b + 1);
}

static int sort_into(FsList *list, const Growing *growing, size_t count) {
  char **entries = malloc((count + 1) * sizeof(*entries));
  if (entries == NULL) return -ENOMEM;
  char *at = growing->bytes;
  for (size_t i = 0; i < count; i++) {
    entries[i] = at;
    at += strlen(at + 1) + 2;
  }
  if (count > 0) qsort(entries, count, sizeof(*entries), compare);
  list->entries = entries;
  list->count = count;
  list->bytes = growing->bytes;
  return 0;
}

int fs_list_read(FsList *list, int fd, bool follow, const atomic_bool *stop) {
  *list = (FsList){0};
  struct stat facts;
  if (fstat(fd, &facts) != 0) return -errno;
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return -errno;
  DIR *folder = fdopendir(copy);
  if (folder == NULL) {
    int status = -errno;
    (void)close(copy);
    return status;
  }
  Growing growing = {0};
  size_t count = 0;
  int status = read_all(&growing, &count, folder, follow, stop);
  (void)closedir(folder);
  if (status == 0) status = sort_into(list, &growing, count);
  if (status != 0) free(growing.bytes);
  list->dev = facts.st_dev;
  list->ino = facts.st_ino;
  return status;
}

void fs_list_free(FsList *list) {
  free(list->entries);
  free(list->bytes);
  *list = (FsList){0};
}

// Opens the part of `*path` up to its last slash that fits, below `base`, and
// moves `*path` behind it.
static int open_part(int base, const char **path) {
  char part[PATH_MAX];
  size_t size = PATH_MAX - 1;
  while (size > 0 && (*path)[size - 1] != '/') {
    size--;
  }
  if (size == 0) return -ENAMETOOLONG;
  memcpy(part, *path, size);
  part[size] = '\0';
  *path += size;
  *path += strspn(*path, "/");
  int fd = openat(base, part, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int fs_open_long(const char *path, int flags) {
  int base = AT_FDCWD;
  while (strlen(path) >= PATH_MAX) {
    int next = open_part(base, &path);
    if (base != AT_FDCWD) (void)close(base);
    if (next < 0) return next;
    base = next;
  }
  int fd = openat(base, path[0] == '\0' ? "." : path, flags | O_CLOEXEC);
  if (fd < 0) fd = -errno;
  if (base != AT_FDCWD) (void)close(base);
  return fd;
}
