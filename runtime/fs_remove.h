// Removing a folder with all it holds, in any thread.

#ifndef SBX_FS_REMOVE_H
#define SBX_FS_REMOVE_H

#include <stdatomic.h>
#include <stddef.h>

// Where a removal failed.
typedef struct FsFailure {
  const char *verb;  // what was tried: static text
  char path[4096];   // cut short where it is longer
} FsFailure;

// Removes what is at `path`; a link itself and never its target, also when the
// tree is changed meanwhile: it stays on the folders that it opened. However
// deep the tree, it holds two descriptors. A folder that forbids its owner to
// change it is no obstacle. Returns 0, or a negated errno (ECANCELED when
// `stop` became true) with `*failure` filled in.
int fs_remove_tree(const char *path, const atomic_bool *stop,
                   FsFailure *failure);

#endif
