// Notices when one step of a task, from a resume to its next wait, holds the
// loop for long, and says where the script was when it had lasted too long.
//
// A timer of the kernel runs only while steps do: it is armed by a step that
// finds it idle, and lapses when it goes off between two steps. So a busy loop
// takes one signal each time the limit passes, and an idle one none. What a
// step waits for a processor, on a busy machine, does not count.

#ifndef SBX_WATCHDOG_H
#define SBX_WATCHDOG_H

#include <lua.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "place.h"
#include "reactor.h"

typedef struct Watchdog {
  Reactor *reactor;
  timer_t timer;
  uint64_t limit;                  // nanoseconds
  volatile uint64_t began;         // when the step did
  volatile sig_atomic_t stepping;  // a task runs
  volatile sig_atomic_t armed;
  // Nanoseconds of the step up to `armed_at` in which it computed or was
  // blocked.
  volatile uint64_t own;
  uint64_t armed_at, due;  // the timer's beginning and end
  // What the kernel had counted for the thread at `armed_at`: nanoseconds in
  // the queue for a processor, or else of a processor; how often it was
  // blocked.
  uint64_t queued, computed;
  long waits;
  int schedstat;               // the file that tells `queued`, or -1
  volatile sig_atomic_t late;  // the step has passed the limit
  bool looked;                 // for the place of a late step, which is
  char place[PLACE_SIZE];      // this, or "" in the library's own steps
} Watchdog;

// Makes the watchdog that the environment asks for: `*out` is NULL if none.
// Returns 0 or a negated errno.
int watchdog_open(Watchdog **out, Reactor *reactor);
void watchdog_close(Watchdog *dog);

void watchdog_arm(Watchdog *dog);

// A hook, or the run queue, gives a late step the chance to note its place.
void watchdog_look(Watchdog *dog, lua_State *L);

// After a late step: says so on the standard error, once for each place. `task`
// may have ended.
void watchdog_report(Watchdog *dog, lua_State *L, const Task *task, uint64_t id,
                     uint64_t now);

static inline void watchdog_begin(Watchdog *dog, uint64_t now) {
  dog->began = now;
  dog->own = 0;
  dog->stepping = 1;
  if (!dog->armed) watchdog_arm(dog);
}

// Returns whether the step was late.
static inline bool watchdog_end(Watchdog *dog) {
  dog->stepping = 0;
  return dog->late;
}

#endif
