// Copying one file, in any thread. Nothing here knows of Lua.

#ifndef SBX_FS_COPY_H
#define SBX_FS_COPY_H

#include <stdatomic.h>
#include <stdbool.h>

typedef struct FsCopy {
  const char *from;
  const char *to;
  const char *temporary;  // a name beside `to` that is free
  bool overwrite;         // an existing `to` is replaced, else it is EEXIST
  bool preserve;          // keep the time of change, and the mode to the bit
} FsCopy;

// Copies a regular file, holes and all, to `temporary` and then gives it its
// name. Follows no link. The mode is the source's, less the umask and without
// set-user-id and the like. Returns 0 or a negated errno (ECANCELED when `stop`
// became true), and then `to` is as it was and `temporary` is gone.
int fs_copy_file(const FsCopy *copy, const atomic_bool *stop);

// Gives the folder `to` what it was not given before it was filled: the mode of
// the folder `from`, and with `preserve` its time of change.
int fs_copy_folder_facts(const char *from, const char *to, bool preserve);

#endif
