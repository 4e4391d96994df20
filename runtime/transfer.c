// The life of one transfer: queue, look-up, libcurl, end; and its four clocks.

#define _GNU_SOURCE

#include "transfer.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transfer_pool.h"

void transfer_fail(Transfer *transfer, const char *kind, const char *code,
                   const char *phase, const char *format, ...) {
  Failure *failure = &transfer->failure;
  if (failure->kind) return;
  failure->kind = kind;
  failure->code = code;
  failure->phase = phase;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(failure->reason, sizeof(failure->reason), format, arguments);
  va_end(arguments);
  // From inside a callback; see line_stop for the other cases.
  if (transfer->line)
    (void)curl_easy_setopt(transfer->line->easy, CURLOPT_FORBID_REUSE, 1L);
}

// A number that changes whenever the transfer makes headway.
static int64_t read_progress(const Transfer *transfer) {
  if (transfer->state != TRANSFER_ACTIVE) return transfer->state;
  CURL *easy = transfer->line->easy;
  curl_off_t up = 0, down = 0, ready = 0;
  long head = 0;
  (void)curl_easy_getinfo(easy, CURLINFO_SIZE_UPLOAD_T, &up);
  (void)curl_easy_getinfo(easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
  (void)curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &ready);
  (void)curl_easy_getinfo(easy, CURLINFO_HEADER_SIZE, &head);
  return TRANSFER_ACTIVE + up + down + head + (ready > 0);
}

// Whether the peer is the one that is waited for, and not the script.
static bool is_peers_turn(const Transfer *transfer) {
  if (transfer->body.feed.starved) return false;
  for (size_t i = 0; i < transfer->part_count; i++)
    if (transfer->parts[i].source.feed.starved) return false;
  return !transfer->head_final || transfer->reading;
}

static double earlier(double at, double start, double seconds) {
  return seconds > 0 ? fmin(at, start + seconds) : at;
}

// Bytes do not touch a clock: progress is looked at four times in an idle
// limit, which costs a long transfer nothing and an idle one a little patience.
static void arm_clock(Transfer *transfer) {
  double now = reactor_now(), at = INFINITY;
  if (transfer->state == TRANSFER_QUEUED) {
    at = earlier(at, transfer->submitted_at, transfer->queue_timeout);
  } else {
    at = earlier(at, transfer->admitted_at, transfer->timeout);
    at = earlier(at, now, transfer->idle_timeout / 4);
    if (transfer->state == TRANSFER_RESOLVING)
      at = earlier(at, transfer->admitted_at, transfer->connect_timeout);
  }
  TimerHeap *timers = &transfer->pool->reactor->timers;
  if (at == INFINITY) {
    timer_stop(timers, &transfer->clock);
  } else if (timer_start(timers, &transfer->clock, fmax(at - now, 0)) != 0) {
    transfer_fail(transfer, "io", "ENOMEM", NULL, "no memory for a timer");
    transfer_finish(transfer);
  }
}

static bool is_over(double now, double start, double seconds) {
  // The loop counts in milliseconds and may be early by less than one.
  return seconds > 0 && now >= start + seconds - 0.001;
}

static void time_out(Transfer *transfer, const char *phase, double seconds) {
  transfer_fail(transfer, "timeout", "ETIMEDOUT", phase,
                "timed out after %g s (%s)", seconds, phase);
  transfer->failure.transient = true;
  transfer_finish(transfer);
}

static void on_clock(Timer *clock) {
  Transfer *transfer = (Transfer *)clock;
  double now = reactor_now();
  if (transfer->state == TRANSFER_QUEUED) {
    if (is_over(now, transfer->submitted_at, transfer->queue_timeout))
      time_out(transfer, "queue", transfer->queue_timeout);
    else
      arm_clock(transfer);
    return;
  }
  if (is_over(now, transfer->admitted_at, transfer->timeout)) {
    time_out(transfer, "total", transfer->timeout);
    return;
  }
  if (transfer->state == TRANSFER_RESOLVING &&
      is_over(now, transfer->admitted_at, transfer->connect_timeout)) {
    time_out(transfer, "connect", transfer->connect_timeout);
    return;
  }
  int64_t progress = read_progress(transfer);
  if (progress != transfer->progress || !is_peers_turn(transfer)) {
    transfer->progress = progress;
    transfer->progress_at = now;
  } else if (is_over(now, transfer->progress_at, transfer->idle_timeout)) {
    time_out(transfer, "idle", transfer->idle_timeout);
    return;
  }
  arm_clock(transfer);
}

void transfer_init(Transfer *transfer) {
  transfer->clock.on_fire = on_clock;
  transfer->save_fd = -1;
  transfer->body.fd = -1;
  transfer->body.transfer = transfer;
  transfer->verify = true;
  transfer->decode = true;
  transfer->max_body = SIZE_MAX;
}

static void link_live(Transfer *transfer) {
  TransferPool *pool = transfer->pool;
  transfer->previous = NULL;
  transfer->next = pool->live;
  if (pool->live) pool->live->previous = transfer;
  pool->live = transfer;
}

static void unlink_live(Transfer *transfer) {
  if (transfer->previous)
    transfer->previous->next = transfer->next;
  else
    transfer->pool->live = transfer->next;
  if (transfer->next) transfer->next->previous = transfer->previous;
}

static void unlink_broken(Transfer *transfer) {
  Transfer **link = &transfer->pool->broken;
  while (*link && *link != transfer)
    link = &(*link)->queue_next;
  if (*link) *link = transfer->queue_next;
}

int transfer_start(Reactor *reactor, Transfer *transfer) {
  assert(transfer->state == TRANSFER_NEW && transfer->label);
  TransferPool *pool = reactor->http;
  if (pool->closing) return UV_ECANCELED;
  transfer->host = host_find(pool, transfer);
  if (!transfer->host) return UV_ENOMEM;

  transfer->pool = pool;
  transfer->submitted_at = reactor_now();
  link_live(transfer);
  transfer->state = TRANSFER_QUEUED;
  host_enqueue(transfer);
  host_admit(transfer->host);
  if (transfer->state == TRANSFER_QUEUED) arm_clock(transfer);
  return 0;
}

void transfer_begin(Transfer *transfer) {
  double now = reactor_now();
  transfer->admitted_at = transfer->progress_at = now;
  transfer->timing.queue = now - transfer->submitted_at;
  transfer->state = TRANSFER_RESOLVING;
  if (body_open(transfer) != 0) {
    transfer_finish(transfer);
    return;
  }
  int status = name_needs_lookup(transfer) ? name_resolve(transfer) : 0;
  if (status == 0) {
    transfer_launch(transfer);
  } else if (status == UV_EAGAIN) {
    arm_clock(transfer);
  } else {
    transfer_fail(transfer, "io", "ENOMEM", "dns", "%s", uv_strerror(status));
    transfer_finish(transfer);
  }
}

void transfer_launch(Transfer *transfer) {
  Line *line = line_take(transfer);
  int status = line ? line_start(line, transfer) : UV_ENOMEM;
  if (status != 0) {
    transfer_fail(transfer, "io", uv_err_name(status), NULL, "%s",
                  uv_strerror(status));
    transfer_finish(transfer);
    return;
  }
  arm_clock(transfer);
}

void transfer_detach(Transfer *transfer) {
  timer_stop(&transfer->pool->reactor->timers, &transfer->clock);
  if (transfer->state == TRANSFER_QUEUED) host_dequeue(transfer);
  if (transfer->name) name_dequeue(transfer);
  if (transfer->line) {
    transfer->sent = transfer->attempts > 0;
    unlink_broken(transfer);
    line_stop(transfer);
  }
  unlink_live(transfer);
  body_close(transfer);
}

void transfer_finish(Transfer *transfer) {
  bool admitted = transfer->state != TRANSFER_QUEUED;
  if (admitted) {
    double total = reactor_now() - transfer->admitted_at;
    transfer->timing.total = total;
    if (transfer->failure.kind)
      transfer->host->failed++;
    else  // how long a stream is read says nothing about the host
      host_note_latency(transfer->host, transfer->streamed
                                            ? transfer->timing.first_byte
                                            : total);
  }
  if (transfer->dial && !transfer->failure.kind) {
    timer_stop(&transfer->pool->reactor->timers, &transfer->clock);
    transfer->state = TRANSFER_OPEN;
  } else {
    transfer_detach(transfer);
    transfer->state = TRANSFER_ENDED;
  }
  if (admitted) host_release(transfer, true);
  transfer->host = NULL;
  transfer->on_done(transfer);
}

void transfer_cancel(Transfer *transfer) {
  if (transfer->state == TRANSFER_NEW || transfer->state == TRANSFER_ENDED)
    return;
  bool holds_slot =
      transfer->state != TRANSFER_QUEUED && transfer->state != TRANSFER_OPEN;
  transfer_detach(transfer);
  transfer->state = TRANSFER_ENDED;
  if (holds_slot) host_release(transfer, false);
  transfer->host = NULL;
}

void transfer_free(Transfer *transfer) {
  transfer_cancel(transfer);
  curl_slist_free_all(transfer->headers);
  curl_slist_free_all(transfer->connect);
  transfer->headers = transfer->connect = NULL;
  char **texts[] = {&transfer->label,        &transfer->clean_url,
                    &transfer->scheme,       &transfer->host_name,
                    &transfer->dial_name,    &transfer->head.data,
                    &transfer->body_in.data, &transfer->body.feed.bytes.data};
  for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
    free(*texts[i]);
    *texts[i] = NULL;
  }
  for (size_t i = 0; i < transfer->part_count; i++)
    free(transfer->parts[i].source.feed.bytes.data);
  free(transfer->parts);
  transfer->parts = NULL;
  transfer->part_count = 0;
}

int transfer_pool_open(Reactor *reactor) {
  if (reactor->http) return 0;
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return UV_ENOMEM;
  TransferPool *pool = calloc(1, sizeof(*pool));
  if (!pool) return UV_ENOMEM;
  pool->reactor = reactor;
  pool->admission.on_fire = on_admission;
  pool->ca_file = setup_ca_file();
  int status = names_open(pool);
  if (status != 0) {
    free(pool);
    return status;
  }
  reactor->http = pool;
  return 0;
}

void transfer_pool_close_idle(Reactor *reactor) {
  if (reactor->http) shards_close_idle(reactor->http);
}

void transfer_pool_close(Reactor *reactor) {
  TransferPool *pool = reactor->http;
  if (!pool || pool->closing) return;
  pool->closing = true;
  while (pool->live)
    transfer_cancel(pool->live);
  shards_close_idle(pool);
  assert(!pool->shards);
  sockets_close(pool);
  timer_stop(&reactor->timers, &pool->admission);
  names_close(pool);
}

void transfer_pool_free(Reactor *reactor) {
  TransferPool *pool = reactor->http;
  if (!pool) return;
  names_free(pool);
  hosts_free(pool);
  free(pool->sockets);
  free(pool);
  reactor->http = NULL;
  curl_global_cleanup();
}
