// Admission: each origin has a limit of transfers at once and a queue before
// it. Waiting happens here and not in libcurl, whose own caps cost a walk over
// all waiters for each request, and which counts the wait as part of the
// request's time.

#define _GNU_SOURCE

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transfer_pool.h"

enum { KEY_SIZE = 640 };  // host, socket path and group are bounded

static void write_key(char *key, const Transfer *transfer) {
  const char *group = transfer->group;
  int length;
  if (transfer->unix_path)
    length = snprintf(key, KEY_SIZE, "unix:%.200s", transfer->unix_path);
  else
    length = snprintf(key, KEY_SIZE, "%s://%s:%u", transfer->scheme,
                      transfer->host_name, transfer->port);
  if (group)
    (void)snprintf(key + length, KEY_SIZE - (size_t)length, " [%.200s]", group);
}

static size_t bucket_of(const char *key) {
  size_t hash = 5381;
  for (; *key; key++)
    hash = hash * 33 + (unsigned char)*key;
  return (hash ^ hash >> 8) % 256;
}

static bool is_idle(const Host *host) {
  return host->active == 0 && host->queued == 0 && host->connections == 0 &&
         !host->admitting && !host->listed;
}

// Forgets the hosts that nothing points to. Called rarely: when the table has
// outgrown what is worth remembering.
static void sweep(TransferPool *pool) {
  for (size_t i = 0; i < 256; i++) {
    Host **link = &pool->hosts[i];
    while (*link) {
      Host *host = *link;
      if (!is_idle(host)) {
        link = &host->next;
        continue;
      }
      *link = host->next;
      free(host->key);
      free(host);
      pool->host_count--;
    }
  }
}

Host *host_find(TransferPool *pool, const Transfer *transfer) {
  char key[KEY_SIZE];
  write_key(key, transfer);
  Host **bucket = &pool->hosts[bucket_of(key)];
  for (Host *host = *bucket; host; host = host->next) {
    if (strcmp(host->key, key) != 0) continue;
    if (transfer->limit > 0) host->limit = transfer->limit;
    return host;
  }
  if (pool->host_count >= RECORDS_KEPT) sweep(pool);
  Host *host = calloc(1, sizeof(*host));
  if (!host) return NULL;
  host->key = strdup(key);
  if (!host->key) {
    free(host);
    return NULL;
  }
  host->limit = transfer->limit > 0 ? transfer->limit : DEFAULT_HOST_LIMIT;
  host->next = *bucket;
  *bucket = host;
  pool->host_count++;
  return host;
}

void host_enqueue(Transfer *transfer) {
  Host *host = transfer->host;
  transfer->queue_previous = host->last;
  transfer->queue_next = NULL;
  if (host->last)
    host->last->queue_next = transfer;
  else
    host->first = transfer;
  host->last = transfer;
  host->queued++;
}

void host_dequeue(Transfer *transfer) {
  Host *host = transfer->host;
  if (transfer->queue_previous)
    transfer->queue_previous->queue_next = transfer->queue_next;
  else
    host->first = transfer->queue_next;
  if (transfer->queue_next)
    transfer->queue_next->queue_previous = transfer->queue_previous;
  else
    host->last = transfer->queue_previous;
  transfer->queue_previous = transfer->queue_next = NULL;
  host->queued--;
}

void host_admit(Host *host) {
  // A transfer that fails at once gives its slot back from inside this loop.
  if (host->admitting) return;
  host->admitting = true;
  while (host->first && host->active < host->limit) {
    Transfer *transfer = host->first;
    host_dequeue(transfer);
    host->active++;
    host->started++;
    transfer_begin(transfer);
  }
  host->admitting = false;
}

void on_admission(Timer *timer) {
  TransferPool *pool =
      (TransferPool *)((char *)timer - offsetof(TransferPool, admission));
  while (pool->freed) {
    Host *host = pool->freed;
    pool->freed = host->next_freed;
    host->listed = false;
    host_admit(host);
  }
}

void host_release(Transfer *transfer, bool now) {
  TransferPool *pool = transfer->pool;
  Host *host = transfer->host;
  host->active--;
  if (!host->first || pool->closing || host->listed) return;
  if (!now) {
    host->listed = true;
    host->next_freed = pool->freed;
    pool->freed = host;
    now = timer_start(&pool->reactor->timers, &pool->admission, 0) != 0;
    if (!now) return;
    pool->freed = host->next_freed;
    host->listed = false;
  }
  host_admit(host);
}

void host_note_latency(Host *host, double seconds) {
  host->latencies[host->latency_count++ % LATENCY_SAMPLES] = (float)seconds;
}

static int compare_floats(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static void visit_host(const Host *host,
                       void (*visit)(void *context, const HostStats *stats),
                       void *context) {
  HostStats stats = {
      .key = host->key,
      .limit = host->limit,
      .active = host->active,
      .queued = host->queued,
      .connections = host->connections,
      .started = host->started,
      .failed = host->failed,
      .p50 = NAN,
      .p90 = NAN,
      .p99 = NAN,
  };
  size_t count = host->latency_count;
  if (count > LATENCY_SAMPLES) count = LATENCY_SAMPLES;
  if (count > 0) {
    float sorted[LATENCY_SAMPLES];
    memcpy(sorted, host->latencies, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), compare_floats);
    stats.p50 = (double)sorted[(count - 1) * 50 / 100];
    stats.p90 = (double)sorted[(count - 1) * 90 / 100];
    stats.p99 = (double)sorted[(count - 1) * 99 / 100];
  }
  visit(context, &stats);
}

void transfer_pool_stats(Reactor *reactor,
                         void (*visit)(void *context, const HostStats *stats),
                         void *context) {
  TransferPool *pool = reactor->http;
  for (size_t i = 0; pool && i < 256; i++)
    for (const Host *host = pool->hosts[i]; host; host = host->next)
      visit_host(host, visit, context);
}

void hosts_free(TransferPool *pool) {
  for (size_t i = 0; i < 256; i++) {
    while (pool->hosts[i]) {
      Host *host = pool->hosts[i];
      pool->hosts[i] = host->next;
      free(host->key);
      free(host);
    }
  }
}
