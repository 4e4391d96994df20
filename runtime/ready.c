// The tasks that are ready to run: a list, first come first served. A test may
// have them run in a random order instead, to find what depends on the order:
// then they are in a bag, from which each is as likely as any other to be taken
// next.

#include "ready.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdlib.h>

// ---- the list

static void append(Reactor *reactor, Task *task) {
  task->next = NULL;
  if (reactor->ready_last)
    reactor->ready_last->next = task;
  else
    reactor->ready_first = task;
  reactor->ready_last = task;
}

static Task *take_first(Reactor *reactor) {
  Task *task = reactor->ready_first;
  reactor->ready_first = task->next;
  if (!reactor->ready_first) reactor->ready_last = NULL;
  return task;
}

// ---- the bag

// xorshift64*
static uint64_t draw(Reactor *reactor) {
  uint64_t x = reactor->shuffle;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  reactor->shuffle = x;
  return x * 0x2545f4914f6cdd1dU;
}

static Task *take_any(Reactor *reactor) {
  // The upper bits are the better ones; the bias of so few tasks is nothing.
  size_t i = (size_t)((draw(reactor) >> 32) % reactor->bag_count);
  Task *task = reactor->bag[i];
  reactor->bag[i] = reactor->bag[--reactor->bag_count];
  return task;
}

void ready_reserve(lua_State *L, size_t tasks) {
  Reactor *reactor = reactor_of(L);
  if (tasks <= reactor->bag_capacity) return;
  size_t capacity = tasks * 2;
  Task **bag = realloc(reactor->bag, capacity * sizeof(Task *));
  if (!bag) luaL_error(L, "not enough memory for so many tasks");
  reactor->bag = bag;
  reactor->bag_capacity = capacity;
}

// ---- both

void task_ready(Task *task) {
  Reactor *reactor = task->reactor;
  if (reactor->shuffle == 0) {
    append(reactor, task);
    return;
  }
  assert(reactor->bag_count < reactor->bag_capacity);
  reactor->bag[reactor->bag_count++] = task;
}

Task *take_ready(Reactor *reactor) {
  return reactor->shuffle == 0 ? take_first(reactor) : take_any(reactor);
}

// Neighbouring seeds must give unrelated orders, and no seed the state 0
// (splitmix64).
static uint64_t spread(uint64_t seed) {
  uint64_t x = seed + 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  x ^= x >> 31;
  return x ? x : 1;
}

void task_shuffle(lua_State *L, bool shuffled, uint64_t seed) {
  Reactor *reactor = reactor_of(L);
  if (shuffled) ready_reserve(L, reactor->live_tasks);
  // What is ready already goes over.
  Task *first = NULL, **last = &first;
  while (any_ready(reactor)) {
    *last = take_ready(reactor);
    last = &(*last)->next;
  }
  *last = NULL;
  reactor->shuffle = shuffled ? spread(seed) : 0;
  while (first) {
    Task *task = first;
    first = task->next;
    task_ready(task);
  }
}
