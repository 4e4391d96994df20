// The tasks that are ready to run: a list, first come first served. A test may
// have them run in a random order instead, to find what depends on the order:
// then they form a pairing heap by random ranks, so that each of them is as
// likely as any other to be the next.

#include "ready.h"

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

// ---- the heap: `below` leads to a task's children, `next` along them

// xorshift64*
static uint64_t draw(Reactor *reactor) {
  uint64_t x = reactor->shuffle;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  reactor->shuffle = x;
  return x * 0x2545f4914f6cdd1dU;
}

static Task *meld(Task *a, Task *b) {
  if (!a) return b;
  if (!b) return a;
  if (b->rank < a->rank) {
    Task *other = a;
    a = b;
    b = other;
  }
  b->next = a->below;
  a->below = b;
  return a;
}

// Melds siblings in pairs, then the pairs from the last to the first.
static Task *meld_all(Task *first) {
  Task *pairs = NULL;
  while (first) {
    Task *a = first, *b = first->next;
    first = b ? b->next : NULL;
    Task *pair = meld(a, b);
    pair->next = pairs;
    pairs = pair;
  }
  Task *all = NULL;
  while (pairs) {
    Task *rest = pairs->next;
    all = meld(all, pairs);
    pairs = rest;
  }
  return all;
}

// ---- both

void task_ready(Task *task) {
  Reactor *reactor = task->reactor;
  if (reactor->shuffle == 0) {
    append(reactor, task);
    return;
  }
  task->below = NULL;
  task->rank = draw(reactor);
  reactor->ready_first = meld(reactor->ready_first, task);
}

Task *take_ready(Reactor *reactor) {
  if (reactor->shuffle == 0) return take_first(reactor);
  Task *task = reactor->ready_first;
  reactor->ready_first = meld_all(task->below);
  return task;
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

void task_shuffle(Reactor *reactor, bool shuffled, uint64_t seed) {
  // What is ready already goes over, in the order it would have run in.
  Task *first = NULL, **last = &first;
  while (reactor->ready_first) {
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
