// The entries of one folder, sorted by the bytes of their names.

#ifndef SBX_FS_LIST_H
#define SBX_FS_LIST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

// An entry is one character for its type and then its name. Types: 'f' file,
// 'd' directory, 'l' symbolic link, 'p' FIFO, 's' socket, 'c' device, '?'; a
// capital letter is the type of what a link leads to.
typedef struct FsList {
  char **entries;
  size_t count;
  char *bytes;  // what the entries point into
  dev_t dev;    // of the folder itself
  ino_t ino;
} FsList;

// Reads the folder open as `fd`, which stays the caller's. With `follow` it
// looks at where links lead. Returns 0 or a negated errno, with nothing to
// free; that is ECANCELED when `stop` became true.
int fs_list_read(FsList *list, int fd, bool follow, const atomic_bool *stop);

// Frees what the list holds and leaves it empty; again is harmless.
void fs_list_free(FsList *list);

// Opens a path of any length, also one beyond what the kernel takes at once, as
// `open` does, close-on-exec. Returns a descriptor or a negated errno.
int fs_open_long(const char *path, int flags);

#endif
