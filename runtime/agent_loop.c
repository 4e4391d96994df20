// The loop: what all requests wait for, in one poll().

#define _GNU_SOURCE

#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

int poll_add(Agent *agent, int fd, short events) {
  if (agent->poll_count == agent->poll_capacity) {
    size_t capacity = agent->poll_capacity ? agent->poll_capacity * 2 : 64;
    struct pollfd *polls =
        realloc(agent->polls, capacity * sizeof(*agent->polls));
    if (!polls) {
      // Asked again next turn; by then there may be memory.
      wake_by(agent, agent->now + 10);
      return -1;
    }
    agent->polls = polls;
    agent->poll_capacity = capacity;
  }
  agent->polls[agent->poll_count] = (struct pollfd){fd, events, 0};
  return (int)agent->poll_count++;
}

short poll_events(const Agent *agent, int place) {
  if (place < 0) return 0;
  return agent->polls[place].revents;
}

void wake_by(Agent *agent, int64_t at) {
  if (at < agent->wake_at) agent->wake_at = at;
}

static int64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void loop_begin(Agent *agent) {
  agent->now = milliseconds();
}

static void reap(Agent *agent) {
  struct signalfd_siginfo info = {0};
  pid_t pid;
  // One signal may stand for many children, so the count says nothing.
  (void)!read(agent->children, &info, sizeof(info));
  // Whoever is inside has a pid here.
  if (info.ssi_signo == SIGUSR1 && info.ssi_code == SI_USER &&
      info.ssi_pid == 0)
    control_renew(agent);
  while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
    for (Channel *channel = agent->channels; channel; channel = channel->next)
      if (channel->kind->on_reaped)
        channel->kind->on_reaped(agent, channel, pid);
}

static void sweep(Agent *agent) {
  Channel **link = &agent->channels;
  while (*link) {
    Channel *channel = *link;
    if (!channel->over) {
      link = &channel->next;
      continue;
    }
    *link = channel->next;
    agent->channel_count--;
    channel->kind->destroy(agent, channel);
  }
}

void loop_turn(Agent *agent, int longest_pause_ms) {
  agent->poll_count = 0;
  agent->wake_at = INT64_MAX;
  control_prepare(agent);
  int children = poll_add(agent, agent->children, POLLIN);
  for (Channel *channel = agent->channels; channel; channel = channel->next)
    if (channel->kind->prepare) channel->kind->prepare(agent, channel);
  orphan_prepare(agent);

  int64_t pause = agent->wake_at - milliseconds();
  if (pause < 0) pause = 0;
  if (pause > longest_pause_ms) pause = longest_pause_ms;
  if (poll(agent->polls, agent->poll_count, (int)pause) < 0)
    for (size_t i = 0; i < agent->poll_count; i++)
      agent->polls[i].revents = 0;
  agent->now = milliseconds();

  if (poll_events(agent, children)) reap(agent);
  control_read(agent);
  for (Channel *channel = agent->channels; channel; channel = channel->next)
    if (!channel->over && channel->kind->run)
      channel->kind->run(agent, channel);
  orphan_run(agent);
  sweep(agent);
  control_flush(agent);
}
