// A binary heap of timers behind one uv_timer, and its clock.

#define _GNU_SOURCE
#include "timer.h"

#include <stdlib.h>
#include <time.h>

static const double MAX_SECONDS = 100.0 * 366 * 86400;

static const uint64_t SECOND = 1000000000;

// How long what is real may be silent before an advanced clock jumps.
enum { MOMENT_MS = 5 };

// ---- the clock

uint64_t timer_now(const TimerHeap *heap) {
  return heap->is_virtual ? heap->virtual_now : uv_hrtime() + heap->offset;
}

double timer_seconds(const TimerHeap *heap) {
  return (double)timer_now(heap) / 1e9;
}

static double system_wall(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_REALTIME, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double timer_wall(const TimerHeap *heap) {
  if (!heap->is_virtual) return system_wall();
  return heap->wall_from +
         (double)(heap->virtual_now - heap->virtual_from) / 1e9;
}

static uint64_t later(uint64_t now, uint64_t delay) {
  return delay < UINT64_MAX - now ? now + delay : UINT64_MAX;
}

// ---- the heap

static bool before(const Timer *a, const Timer *b) {
  return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void put(TimerHeap *heap, size_t place, Timer *timer) {
  heap->entries[place] = timer;
  timer->index = place + 1;
}

static void sift_up(TimerHeap *heap, size_t place, Timer *timer) {
  while (place > 0) {
    size_t parent = (place - 1) / 2;
    if (!before(timer, heap->entries[parent])) break;
    put(heap, place, heap->entries[parent]);
    place = parent;
  }
  put(heap, place, timer);
}

static void sift_down(TimerHeap *heap, size_t place, Timer *timer) {
  for (;;) {
    size_t child = 2 * place + 1;
    if (child >= heap->count) break;
    if (child + 1 < heap->count &&
        before(heap->entries[child + 1], heap->entries[child]))
      child++;
    if (!before(heap->entries[child], timer)) break;
    put(heap, place, heap->entries[child]);
    place = child;
  }
  put(heap, place, timer);
}

static void detach(TimerHeap *heap, Timer *timer) {
  size_t place = timer->index - 1;
  Timer *last = heap->entries[--heap->count];
  timer->index = 0;
  if (last == timer) return;
  if (place > 0 && before(last, heap->entries[(place - 1) / 2]))
    sift_up(heap, place, last);
  else
    sift_down(heap, place, last);
}

// Only what is due by `now`: a callback that arms a timer of 0 seconds must not
// keep this loop busy.
static void fire_due(TimerHeap *heap, uint64_t now) {
  while (heap->count > 0 && heap->entries[0]->at <= now) {
    Timer *timer = heap->entries[0];
    detach(heap, timer);
    timer->on_fire(timer);
  }
}

// ---- the alarm

static void set_alarm(TimerHeap *heap);

static void on_alarm(uv_timer_t *alarm) {
  TimerHeap *heap = alarm->data;
  heap->rang = true;
  if (!heap->is_virtual) {
    fire_due(heap, timer_now(heap));
    set_alarm(heap);
  }
  // A task may be ready now. Timers run ahead of the poll, which would sleep
  // over it unless the loop has been told to stop.
  uv_stop(alarm->loop);
}

static void ring_after(TimerHeap *heap, uint64_t ms) {
  // libuv counts from the time it cached, which a long Lua step leaves behind.
  uv_update_time(heap->alarm.loop);
  uv_timer_start(&heap->alarm, on_alarm, ms, 0);
}

// Milliseconds until the earliest entry, of which there must be one. Rounded
// up, so that the alarm never comes before its entry is due.
static uint64_t ms_to_first(const TimerHeap *heap) {
  uint64_t now = timer_now(heap);
  uint64_t at = heap->entries[0]->at;
  return at <= now ? 0 : (at - now + 999999) / 1000000;
}

// A virtual clock has an alarm only while the loop waits.
static void set_alarm(TimerHeap *heap) {
  if (heap->is_virtual || uv_is_closing((uv_handle_t *)&heap->alarm)) return;
  if (heap->count == 0)
    uv_timer_stop(&heap->alarm);
  else
    ring_after(heap, ms_to_first(heap));
}

void timer_heap_open(TimerHeap *heap, uv_loop_t *loop) {
  *heap = (TimerHeap){0};
  (void)uv_timer_init(loop, &heap->alarm);  // never fails
  heap->alarm.data = heap;
}

void timer_heap_close(TimerHeap *heap) {
  uv_close((uv_handle_t *)&heap->alarm, NULL);
}

void timer_heap_free(TimerHeap *heap) {
  free(heap->entries);
  heap->entries = NULL;
  heap->count = heap->capacity = 0;
}

int timer_start(TimerHeap *heap, Timer *timer, double seconds) {
  timer_stop(heap, timer);
  if (heap->count == heap->capacity) {
    size_t capacity = heap->capacity ? heap->capacity * 2 : 64;
    Timer **entries = realloc(heap->entries, capacity * sizeof(*entries));
    if (!entries) return UV_ENOMEM;
    heap->entries = entries;
    heap->capacity = capacity;
  }
  if (!(seconds > 0)) seconds = 0;
  if (seconds > MAX_SECONDS) seconds = MAX_SECONDS;
  uint64_t delay = (uint64_t)(seconds * 1e9);
  // Whoever waits for the rest of a time gets there, however little it is.
  if (delay == 0 && seconds > 0) delay = 1;
  timer->at = later(timer_now(heap), delay);
  timer->order = ++heap->started;
  heap->count++;
  sift_up(heap, heap->count - 1, timer);
  if (heap->entries[0] == timer) set_alarm(heap);
  return 0;
}

void timer_stop(TimerHeap *heap, Timer *timer) {
  if (!timer_armed(timer)) return;
  detach(heap, timer);
  if (heap->count == 0) set_alarm(heap);
}

// ---- virtual time

void timer_heap_set_virtual(TimerHeap *heap, bool is_virtual) {
  if (heap->is_virtual == is_virtual) return;
  uint64_t now = timer_now(heap);
  heap->is_virtual = is_virtual;
  if (is_virtual) {
    // On a whole second, so that whole seconds from now on are exact in Lua.
    now += SECOND - now % SECOND;
    heap->virtual_now = heap->virtual_from = now;
    heap->wall_from = system_wall();
    uv_timer_stop(&heap->alarm);
    // What keeps the loop alive now is what is real.
    uv_unref((uv_handle_t *)&heap->alarm);
  } else {
    heap->offset = now - uv_hrtime();
    uv_ref((uv_handle_t *)&heap->alarm);
    set_alarm(heap);
  }
}

bool timer_heap_jump(TimerHeap *heap) {
  if (!heap->is_virtual || heap->count == 0) return false;
  uint64_t at = heap->entries[0]->at;
  if (at > heap->virtual_now) heap->virtual_now = at;
  fire_due(heap, heap->virtual_now);
  return true;
}

// Lets a virtual clock pass by what the loop has waited, up to the next entry.
static void pass(TimerHeap *heap, uint64_t waited) {
  uint64_t now = later(heap->virtual_now, waited);
  if (heap->count > 0 && heap->entries[0]->at <= now)
    (void)timer_heap_jump(heap);
  else
    heap->virtual_now = now;
}

void timer_heap_wait(TimerHeap *heap) {
  uv_loop_t *loop = heap->alarm.loop;
  if (!heap->is_virtual) {
    (void)uv_run(loop, UV_RUN_ONCE);
    return;
  }
  uint64_t start = uv_hrtime();
  if (heap->count > 0) ring_after(heap, ms_to_first(heap));
  (void)uv_run(loop, UV_RUN_ONCE);
  uv_timer_stop(&heap->alarm);
  pass(heap, uv_hrtime() - start);
}

bool timer_heap_turn(TimerHeap *heap, bool idle) {
  heap->rang = false;
  ring_after(heap, idle ? 0 : MOMENT_MS);
  // A loop that nothing keeps alive would not look at its timers either.
  uv_ref((uv_handle_t *)&heap->alarm);
  (void)uv_run(heap->alarm.loop, UV_RUN_ONCE);
  uv_unref((uv_handle_t *)&heap->alarm);
  uv_timer_stop(&heap->alarm);
  return !heap->rang;
}
