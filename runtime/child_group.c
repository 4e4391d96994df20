#define _GNU_SOURCE
#include "child_group.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Whether the process with this id, as text, runs and is in the group.
static bool runs_in(const char *pid, pid_t group) {
  char path[64], text[512];
  (void)snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;  // it has just ended
  ssize_t size = read(fd, text, sizeof(text) - 1);
  (void)close(fd);
  if (size <= 0) return false;
  text[size] = '\0';
  // "pid (name) state parent group ...", where the name may hold anything.
  const char *rest = strrchr(text, ')');
  char state;
  int parent, its_group;
  if (rest == NULL ||
      sscanf(rest, ") %c %d %d", &state, &parent, &its_group) != 3)
    return false;
  return its_group == group && state != 'Z' && state != 'X';
}

bool child_group_runs(pid_t group) {
  if (kill(-group, 0) != 0) return false;
  DIR *directory = opendir("/proc");
  if (directory == NULL) return true;
  bool found = false;
  const struct dirent *entry;
  while (!found && (entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    found = runs_in(entry->d_name, group);
  }
  (void)closedir(directory);
  return found;
}
