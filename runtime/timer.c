// A binary heap of timers behind one uv_timer.

#define _GNU_SOURCE
#include "timer.h"

#include <stdlib.h>

static const double MAX_SECONDS = 100.0 * 366 * 86400;

static void put(TimerHeap *heap, size_t place, Timer *timer) {
  heap->entries[place] = timer;
  timer->index = place + 1;
}

static void sift_up(TimerHeap *heap, size_t place, Timer *timer) {
  while (place > 0) {
    size_t parent = (place - 1) / 2;
    if (heap->entries[parent]->at <= timer->at) break;
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
        heap->entries[child + 1]->at < heap->entries[child]->at)
      child++;
    if (timer->at <= heap->entries[child]->at) break;
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
  if (place > 0 && last->at < heap->entries[(place - 1) / 2]->at)
    sift_up(heap, place, last);
  else
    sift_down(heap, place, last);
}

static void set_alarm(TimerHeap *heap);

static void on_alarm(uv_timer_t *alarm) {
  TimerHeap *heap = alarm->data;
  // Only what is due now: a callback that arms a timer of 0 seconds must not
  // keep this loop busy.
  uint64_t now = uv_hrtime();
  while (heap->count > 0 && heap->entries[0]->at <= now) {
    Timer *timer = heap->entries[0];
    detach(heap, timer);
    timer->on_fire(timer);
  }
  set_alarm(heap);
  // A task may be ready now. Timers run ahead of the poll, which would sleep
  // over it unless the loop has been told to stop.
  uv_stop(alarm->loop);
}

static void set_alarm(TimerHeap *heap) {
  if (uv_is_closing((uv_handle_t *)&heap->alarm)) return;
  if (heap->count == 0) {
    uv_timer_stop(&heap->alarm);
    return;
  }
  uint64_t now = uv_hrtime();
  uint64_t at = heap->entries[0]->at;
  // Rounded up, so that the alarm never comes before its entry is due.
  uint64_t ms = at <= now ? 0 : (at - now + 999999) / 1000000;
  // libuv counts from the time it cached, which a long Lua step leaves behind.
  uv_update_time(heap->alarm.loop);
  uv_timer_start(&heap->alarm, on_alarm, ms, 0);
}

int timer_heap_open(TimerHeap *heap, uv_loop_t *loop) {
  *heap = (TimerHeap){0};
  int status = uv_timer_init(loop, &heap->alarm);
  heap->alarm.data = heap;
  return status;
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
  timer->at = uv_hrtime() + (uint64_t)(seconds * 1e9);
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
