// A timer that waits in one heap behind one uv_timer, so that a hundred
// thousand sleeping tasks cost a hundred thousand small entries and no handle.
//
// A heap has its own clock. It is the monotonic one until a test makes it
// virtual: then it stands still while tasks run, passes as usual while the loop
// waits for something real, and jumps to the earliest entry when there is
// nothing else to wait for.

#ifndef SBX_TIMER_H
#define SBX_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef struct Timer Timer;

struct Timer {
  uint64_t at;               // nanoseconds on the heap's clock
  uint64_t order;            // of starting: the first started fires first
  size_t index;              // place in the heap plus one; 0 while not armed
  void (*on_fire)(Timer *);  // called once by the loop; never calls Lua
};

typedef struct TimerHeap {
  uv_timer_t alarm;  // fires for the earliest entry
  Timer **entries;
  size_t count, capacity;
  uint64_t started;       // timers ever started
  uint64_t offset;        // of the clock from the monotonic one, modulo 2^64
  uint64_t virtual_now;   // the clock, while it is virtual
  uint64_t virtual_from;  // what it was when it became virtual
  double wall_from;       // the wall clock at that moment
  bool is_virtual;
  bool rang;     // the alarm of a virtual clock went off
  int advances;  // how many wait for a jump, whatever else is in progress
} TimerHeap;

// Makes an empty heap on `loop`.
void timer_heap_open(TimerHeap *heap, uv_loop_t *loop);

// Closes the alarm; the entries' memory goes with timer_heap_free, after the
// loop has run dry.
void timer_heap_close(TimerHeap *heap);
void timer_heap_free(TimerHeap *heap);

// Arms `timer` to fire `seconds` from now (clamped to 0 .. 100 years). An armed
// timer is moved. Returns 0, or UV_ENOMEM with the timer left unarmed.
int timer_start(TimerHeap *heap, Timer *timer, double seconds);

// Disarms; harmless when not armed. The block may be freed at once.
void timer_stop(TimerHeap *heap, Timer *timer);

// The heap's clock: nanoseconds, seconds; and seconds since 1970, which is the
// system's clock unless the heap's is virtual: then both pass alike.
uint64_t timer_now(const TimerHeap *heap);
double timer_seconds(const TimerHeap *heap);
double timer_wall(const TimerHeap *heap);

// Makes the clock virtual or real again. It never goes back, here neither.
void timer_heap_set_virtual(TimerHeap *heap, bool is_virtual);

// Takes a virtual clock to its earliest entry, which fires with all others of
// that instant. False when there is none, or the clock is real.
bool timer_heap_jump(TimerHeap *heap);

// Runs the loop until something has happened. A virtual clock passes meanwhile.
void timer_heap_wait(TimerHeap *heap);

// Before a virtual clock jumps: lets the loop turn once, without waiting where
// it is `idle`, else for a moment. False when nothing has happened in that.
bool timer_heap_turn(TimerHeap *heap, bool idle);

static inline bool timer_armed(const Timer *timer) {
  return timer->index != 0;
}

#endif
