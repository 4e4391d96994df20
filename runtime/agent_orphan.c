// Output pipes whose command has been answered but which a background child
// still holds. They are emptied at leisure: closed, the child would die of
// SIGPIPE at its next line; left alone, it would hang once the pipe is full.

#define _GNU_SOURCE

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

// A child that floods its output is slowed down to ROUND_BYTES per PAUSE_MS.
enum { ORPHAN_LIMIT = 256, ROUND_BYTES = 256 * 1024, PAUSE_MS = 50 };

typedef struct OrphanPipe {
  int fd;
  int place;            // in this turn's poll, or -1
  int64_t quiet_until;  // ms; not read before
} OrphanPipe;

static void drop(Agent *agent, size_t index) {
  close(agent->orphans[index].fd);
  agent->orphan_count--;
  memmove(&agent->orphans[index], &agent->orphans[index + 1],
          (agent->orphan_count - index) * sizeof(OrphanPipe));
}

void orphan_adopt(Agent *agent, int fd) {
  if (!agent->orphans)
    agent->orphans = calloc(ORPHAN_LIMIT, sizeof(OrphanPipe));
  if (!agent->orphans) {
    close(fd);
    return;
  }
  if (agent->orphan_count == ORPHAN_LIMIT) drop(agent, 0);
  agent->orphans[agent->orphan_count++] = (OrphanPipe){fd, -1, 0};
}

void orphan_prepare(Agent *agent) {
  for (size_t i = 0; i < agent->orphan_count; i++) {
    OrphanPipe *orphan = &agent->orphans[i];
    orphan->place = -1;
    if (orphan->quiet_until > agent->now)
      wake_by(agent, orphan->quiet_until);
    else
      orphan->place = poll_add(agent, orphan->fd, POLLIN);
  }
}

// Returns false at the end of the pipe.
static bool empty_pipe(int fd) {
  static char scratch[CHUNK];
  for (size_t total = 0; total < ROUND_BYTES;) {
    ssize_t count = read(fd, scratch, sizeof(scratch));
    if (count <= 0) return count < 0 && (errno == EAGAIN || errno == EINTR);
    total += (size_t)count;
  }
  return true;
}

void orphan_run(Agent *agent) {
  for (size_t i = agent->orphan_count; i-- > 0;) {
    OrphanPipe *orphan = &agent->orphans[i];
    if (!poll_events(agent, orphan->place)) continue;
    orphan->place = -1;
    orphan->quiet_until = agent->now + PAUSE_MS;
    if (!empty_pipe(orphan->fd)) drop(agent, i);
  }
}
