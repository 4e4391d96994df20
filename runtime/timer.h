// A timer that waits in one heap behind one uv_timer, so that a hundred
// thousand sleeping tasks cost a hundred thousand small entries and no handle.

#ifndef SBX_TIMER_H
#define SBX_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef struct Timer Timer;

struct Timer {
  uint64_t at;               // nanoseconds on the monotonic clock
  size_t index;              // place in the heap plus one; 0 while not armed
  void (*on_fire)(Timer *);  // called once by the loop; never calls Lua
};

typedef struct TimerHeap {
  uv_timer_t alarm;  // the loop's only timer: fires for the earliest entry
  Timer **entries;
  size_t count, capacity;
} TimerHeap;

// Makes an empty heap on `loop`. Returns 0 or a libuv error.
int timer_heap_open(TimerHeap *heap, uv_loop_t *loop);

// Closes the alarm; the entries' memory goes with timer_heap_free, after the
// loop has run dry.
void timer_heap_close(TimerHeap *heap);
void timer_heap_free(TimerHeap *heap);

// Arms `timer` to fire `seconds` from now (clamped to 0 .. 100 years). An armed
// timer is moved. Returns 0, or UV_ENOMEM with the timer left unarmed.
int timer_start(TimerHeap *heap, Timer *timer, double seconds);

// Disarms; harmless when not armed. The block may be freed at once.
void timer_stop(TimerHeap *heap, Timer *timer);

static inline bool timer_armed(const Timer *timer) {
  return timer->index != 0;
}

#endif
