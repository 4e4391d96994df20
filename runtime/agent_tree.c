// Ends everything below a process. Process groups do not do: a daemon leaves
// its group. A subreaper inherits every orphan, so "below" stays complete.

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

// More processes than this are dealt with in several rounds.
enum { LIST_LIMIT = 8192, STOP_ROUNDS = 200 };

typedef struct Process {
  pid_t pid, parent;
  char state;  // as in /proc/PID/stat; T = stopped, Z = dead
  bool ours;
} Process;

static bool read_process(const char *name, Process *process) {
  char path[64], text[512];
  strcpy(path, "/proc/");
  strncat(path, name, 20);
  strcat(path, "/stat");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t count = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (count <= 0) return false;
  text[count] = 0;

  // "12 (any (name) here) S 1 ...": the name may hold anything.
  const char *rest = strrchr(text, ')');
  if (!rest || strlen(rest) < 5) return false;
  process->pid = (pid_t)strtol(name, NULL, 10);
  process->state = rest[2];
  process->parent = (pid_t)strtol(rest + 4, NULL, 10);
  process->ours = false;
  return true;
}

static size_t list_processes(Process *list) {
  DIR *directory = opendir("/proc");
  if (!directory) return 0;
  size_t count = 0;
  const struct dirent *entry;
  while (count < LIST_LIMIT && (entry = readdir(directory))) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    if (read_process(entry->d_name, &list[count])) count++;
  }
  closedir(directory);
  return count;
}

static int compare(const void *a, const void *b) {
  pid_t left = ((const Process *)a)->pid, right = ((const Process *)b)->pid;
  return (left > right) - (left < right);
}

static void mark_descendants(Process *list, size_t count) {
  pid_t self = getpid();
  bool changed = true;
  qsort(list, count, sizeof(*list), compare);
  while (changed) {
    changed = false;
    for (size_t i = 0; i < count; i++) {
      if (list[i].ours) continue;
      Process key = {.pid = list[i].parent};
      const Process *parent =
          bsearch(&key, list, count, sizeof(*list), compare);
      if (list[i].parent != self && !(parent && parent->ours)) continue;
      list[i].ours = changed = true;
    }
  }
}

// Sends `number` to all descendants. Returns how many of them were running.
static size_t signal_descendants(int number) {
  static Process list[LIST_LIMIT];
  size_t count = list_processes(list);
  size_t running = 0;
  mark_descendants(list, count);
  for (size_t i = 0; i < count; i++) {
    if (!list[i].ours || list[i].state == 'Z' || list[i].state == 'X') continue;
    if (list[i].state != 'T') running++;
    kill(list[i].pid, number);
  }
  return running;
}

static bool have_children(void) {
  pid_t pid;
  while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
  }
  return pid == 0;
}

void tree_kill(void) {
  const struct timespec pause = {0, 1000000};
  while (have_children()) {
    // Stopped processes keep their places under the process limit, so that even
    // a fork bomb runs out of them; then all can be killed at rest.
    for (int i = 0; i < STOP_ROUNDS && signal_descendants(SIGSTOP) > 0; i++) {
    }
    signal_descendants(SIGKILL);
    if (have_children()) nanosleep(&pause, NULL);
  }
}
