// Removing a tree.
//
// The stack of folders that are being emptied holds their lists of entries, not
// descriptors: only the innermost one is open, and the way back up is "..",
// which must be the folder that we came from.

#define _GNU_SOURCE
#include "fs_remove.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs_list.h"

typedef struct Level {
  FsList list;
  size_t next;  // the entry to remove next
} Level;

typedef struct Removal {
  const char *path;
  Level *levels;  // from `path` down
  size_t depth, capacity;
  int fd;  // the innermost folder, -1 before the first
  const atomic_bool *stop;
  FsFailure *failure;
} Removal;

static const int OPEN_FOLDER =
    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;

static void append_path(FsFailure *failure, size_t *size, const char *text) {
  size_t room = sizeof(failure->path) - *size;
  int wanted = snprintf(failure->path + *size, room, "%s", text);
  if (wanted > 0) *size += (size_t)wanted < room ? (size_t)wanted : room - 1;
}

// Notes what failed: `verb` on the entry that the innermost level is at, or on
// that level's own folder. Returns `status`.
static int fail(Removal *removal, int status, const char *verb) {
  FsFailure *failure = removal->failure;
  size_t size = 0;
  failure->verb = verb;
  append_path(failure, &size, removal->path);
  for (size_t i = 0; i < removal->depth; i++) {
    const Level *level = &removal->levels[i];
    if (level->next >= level->list.count) break;
    append_path(failure, &size, "/");
    append_path(failure, &size, level->list.entries[level->next] + 1);
  }
  return status;
}

// Reads the folder open as `fd` and makes it the innermost one. `fd` is taken
// over, also in failure.
static int enter(Removal *removal, int fd) {
  // What forbids its owner to change it; if it is not ours, nothing helps.
  struct stat facts;
  if (fstat(fd, &facts) == 0 && (facts.st_mode & 0700) != 0700) {
    (void)fchmod(fd, (facts.st_mode & 07777) | 0700);
  }
  if (removal->depth == removal->capacity) {
    size_t capacity = removal->capacity * 2 + 16;
    Level *levels = realloc(removal->levels, capacity * sizeof(*levels));
    if (levels == NULL) {
      (void)close(fd);
      return -ENOMEM;
    }
    removal->levels = levels;
    removal->capacity = capacity;
  }
  Level *level = &removal->levels[removal->depth];
  level->next = 0;
  int status = fs_list_read(&level->list, fd, false, removal->stop);
  if (status != 0) {
    (void)close(fd);
    return status;
  }
  removal->depth++;
  if (removal->fd >= 0) (void)close(removal->fd);
  removal->fd = fd;
  return 0;
}

// Opens the folder `name`. Returns a descriptor or a negated errno.
static int open_child(const Removal *removal, const char *name) {
  int fd = openat(removal->fd, name, OPEN_FOLDER);
  if (fd < 0 && errno == EACCES) {
    (void)fchmodat(removal->fd, name, 0700, AT_SYMLINK_NOFOLLOW);
    fd = openat(removal->fd, name, OPEN_FOLDER);
  }
  return fd < 0 ? -errno : fd;
}

// Removes the entry that the level is at, or enters it. What somebody else
// removed is as good as removed.
static int remove_entry(Removal *removal, Level *level) {
  char *entry = level->list.entries[level->next];
  if (entry[0] == 'd') {
    int fd = open_child(removal, entry + 1);
    if (fd >= 0) {
      int status = enter(removal, fd);
      return status == 0 ? 0 : fail(removal, status, "list");
    }
    // No folder any more: remove it as what it is now.
    if (fd != -ENOENT && fd != -ENOTDIR && fd != -ELOOP) {
      return fail(removal, fd, "open");
    }
    entry[0] = '?';
  }
  if (unlinkat(removal->fd, entry + 1, 0) != 0 && errno != ENOENT) {
    if (errno != EISDIR) return fail(removal, -errno, "unlink");
    entry[0] = 'd';  // it has become one; look again
    return 0;
  }
  level->next++;
  return 0;
}

// Goes back up from the innermost folder, which is empty now, and removes it.
static int leave(Removal *removal) {
  fs_list_free(&removal->levels[--removal->depth].list);
  Level *level = &removal->levels[removal->depth - 1];
  int fd = openat(removal->fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return fail(removal, -errno, "rmdir");
  (void)close(removal->fd);
  removal->fd = fd;
  struct stat facts;
  if (fstat(fd, &facts) != 0) return fail(removal, -errno, "rmdir");
  if (facts.st_dev != level->list.dev || facts.st_ino != level->list.ino) {
    return fail(removal, -EBUSY, "rmdir");  // it was moved elsewhere meanwhile
  }
  const char *name = level->list.entries[level->next] + 1;
  if (unlinkat(fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT) {
    return fail(removal, -errno, "rmdir");
  }
  level->next++;
  return 0;
}

static int empty_folder(Removal *removal) {
  for (;;) {
    if (atomic_load(removal->stop)) return -ECANCELED;
    Level *level = &removal->levels[removal->depth - 1];
    int status = 0;
    if (level->next < level->list.count) {
      status = remove_entry(removal, level);
    } else if (removal->depth > 1) {
      status = leave(removal);
    } else {
      return 0;
    }
    if (status != 0) return status;
  }
}

static int remove_folder(Removal *removal) {
  int fd = fs_open_long(removal->path, OPEN_FOLDER);
  if (fd == -EACCES) {
    (void)fchmodat(AT_FDCWD, removal->path, 0700, AT_SYMLINK_NOFOLLOW);
    fd = fs_open_long(removal->path, OPEN_FOLDER);
  }
  if (fd < 0) return fail(removal, fd, "open");
  int status = enter(removal, fd);
  if (status != 0) return fail(removal, status, "list");
  status = empty_folder(removal);
  if (status != 0) return status;
  removal->depth--;
  fs_list_free(&removal->levels[0].list);
  return rmdir(removal->path) == 0 ? 0 : fail(removal, -errno, "rmdir");
}

int fs_remove_tree(const char *path, const atomic_bool *stop,
                   FsFailure *failure) {
  Removal removal = {.path = path, .fd = -1, .stop = stop, .failure = failure};
  struct stat facts;
  if (lstat(path, &facts) != 0) return fail(&removal, -errno, "stat");
  if (!S_ISDIR(facts.st_mode)) {
    return unlink(path) == 0 ? 0 : fail(&removal, -errno, "unlink");
  }
  int status = remove_folder(&removal);
  while (removal.depth > 0) {
    fs_list_free(&removal.levels[--removal.depth].list);
  }
  free(removal.levels);
  if (removal.fd >= 0) (void)close(removal.fd);
  return status;
}
