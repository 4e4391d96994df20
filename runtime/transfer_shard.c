// Multi handles and their easy handles. A transfer takes the first shard that
// has room, so that a small load stays where the warm connections are.

#include <assert.h>
#include <stdlib.h>

#include "transfer_pool.h"

static Transfer *transfer_of(CURL *easy) {
  Line *line = NULL;
  (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&line);
  return line ? line->transfer : NULL;
}

static void shard_free(Shard *shard) {
  assert(shard->in_flight == 0);
  Shard **link = &shard->pool->shards;
  while (*link != shard)
    link = &(*link)->next;
  *link = shard->next;
  // The clean-up announces sockets again, to a handle that is on its way out.
  (void)curl_multi_setopt(shard->multi, CURLMOPT_SOCKETFUNCTION, NULL);
  (void)curl_multi_setopt(shard->multi, CURLMOPT_TIMERFUNCTION, NULL);
  while (shard->free) {
    Line *line = shard->free;
    shard->free = line->next;
    curl_easy_cleanup(line->easy);
    free(line);
  }
  (void)curl_multi_cleanup(shard->multi);
  timer_stop(&shard->pool->reactor->timers, &shard->timer);
  free(shard);
}

// Whether a connection of HTTP/2 broke, and not one stream of it. libcurl keeps
// it all the same, and gives it to the next request unless its socket shows by
// then that it is dead, which one that was flooded need not.
static bool lost_connection(const Transfer *transfer, CURLcode code) {
  bool broke = code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR ||
               code == CURLE_HTTP2;
  return broke && transfer->http2 && transfer->attempts > 0;
}

// Ends what libcurl has finished, and what broke inside its callbacks. To be
// called after each curl_multi_socket_action, also when nothing is running.
void shard_settle(Shard *shard) {
  TransferPool *pool = shard->pool;
  // An end admits others, which may make shards, but only this loop and
  // shards_close_idle free one; `in_flight` keeps this one meanwhile.
  shard->in_flight++;
  int left;
  for (CURLMsg *message;
       (message = curl_multi_info_read(shard->multi, &left));) {
    if (message->msg != CURLMSG_DONE) continue;
    Transfer *transfer = transfer_of(message->easy_handle);
    CURLcode code = message->data.result;
    transfer_explain(transfer, code);
    if (lost_connection(transfer, code)) shard->retired = true;
    transfer_finish(transfer);
  }
  while (pool->broken)
    transfer_finish(pool->broken);
  if (pool->refusals > 0) flows_end_refused(pool);
  shard->in_flight--;
  if (shard->retired && shard->in_flight == 0) shard_free(shard);
}

static void on_shard_timer(Timer *timer) {
  Shard *shard = (Shard *)timer;
  int running;
  (void)curl_multi_socket_action(shard->multi, CURL_SOCKET_TIMEOUT, 0,
                                 &running);
  shard_settle(shard);
}

static int on_curl_timer(CURLM *multi, long milliseconds, void *context) {
  (void)multi;
  Shard *shard = context;
  TimerHeap *timers = &shard->pool->reactor->timers;
  if (milliseconds < 0)
    timer_stop(timers, &shard->timer);
  else  // -1 would end every transfer of the shard; without memory all do
    (void)timer_start(timers, &shard->timer, (double)milliseconds / 1000);
  return 0;
}

static void set_multi(Shard *shard) {
  CURLM *multi = shard->multi;
  (void)curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
  (void)curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, shard);
  (void)curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
  (void)curl_multi_setopt(multi, CURLMOPT_TIMERDATA, shard);
  (void)curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)SHARD_CONNECTIONS);
  (void)curl_multi_setopt(multi, CURLMOPT_MAX_CONCURRENT_STREAMS,
                          (long)SHARD_CAPACITY);
}

static Shard *shard_new(const Transfer *transfer) {
  TransferPool *pool = transfer->pool;
  Shard *shard = calloc(1, sizeof(*shard));
  if (!shard) return NULL;
  shard->multi = curl_multi_init();
  if (!shard->multi) {
    free(shard);
    return NULL;
  }
  shard->pool = pool;
  shard->http2 = transfer->http2;
  shard->dials = transfer->dial;
  shard->timer.on_fire = on_shard_timer;
  set_multi(shard);
  Shard **link = &pool->shards;  // at the end: the first is the warmest
  while (*link)
    link = &(*link)->next;
  *link = shard;
  return shard;
}

// A free line of the first shard with room, or NULL without memory.
Line *line_take(const Transfer *transfer) {
  Shard *shard = transfer->pool->shards;
  while (shard &&
         (shard->retired || shard->http2 != transfer->http2 ||
          shard->dials != transfer->dial || shard->in_flight >= SHARD_CAPACITY))
    shard = shard->next;
  if (!shard) shard = shard_new(transfer);
  if (!shard) return NULL;

  Line *line = shard->free;
  if (line) {
    shard->free = line->next;
  } else {
    line = calloc(1, sizeof(*line));
    if (!line) return NULL;
    line->easy = curl_easy_init();
    if (!line->easy) {
      free(line);
      return NULL;
    }
  }
  line->shard = shard;
  line->next = NULL;
  shard->in_flight++;
  return line;
}

static void line_give(Line *line) {
  Shard *shard = line->shard;
  Transfer *transfer = line->transfer;
  if (transfer->jar) {
    // A reset leaves both: cookies of this request must not go with the next.
    (void)curl_easy_setopt(line->easy, CURLOPT_COOKIEFILE, NULL);
    (void)curl_easy_setopt(line->easy, CURLOPT_SHARE, NULL);
  }
  // Also frees what the options hold: nothing of one request may show in the
  // next.
  curl_easy_reset(line->easy);
  curl_mime_free(transfer->mime);
  transfer->mime = NULL;
  curl_slist_free_all(transfer->resolve);
  transfer->resolve = NULL;
  line->transfer = NULL;
  line->next = shard->free;
  shard->free = line;
  shard->in_flight--;
}

// Hands the transfer to libcurl. Returns 0 or a libuv error.
int line_start(Line *line, Transfer *transfer) {
  line->transfer = transfer;
  CURLcode code = setup_easy(transfer, line);
  CURLMcode added = CURLM_OK;
  if (code == CURLE_OK)
    added = curl_multi_add_handle(line->shard->multi, line->easy);
  if (code != CURLE_OK || added != CURLM_OK) {
    line_give(line);
    return code == CURLE_OUT_OF_MEMORY || added == CURLM_OUT_OF_MEMORY
               ? UV_ENOMEM
               : UV_EINVAL;
  }
  transfer->line = line;
  transfer->state = TRANSFER_ACTIVE;
  return 0;
}

// Whether the peer has said nothing at all for a good while.
static bool met_silence(const Transfer *transfer) {
  const double patience = 0.5;
  return transfer->attempts > 0 && transfer->head.size == 0 &&
         reactor_now() - transfer->admitted_at > patience;
}

// Takes the transfer away from libcurl; an unfinished one loses its connection.
void line_stop(Transfer *transfer) {
  Line *line = transfer->line;
  Shard *shard = line->shard;
  transfer->line = NULL;
  socket_release(transfer);
  // Also one of HTTP/2, unless it carries others. Those that come later must
  // not join them on a connection that swallows whatever it is given.
  (void)curl_easy_setopt(line->easy, CURLOPT_FORBID_REUSE, 1L);
  if (shard->http2 && met_silence(transfer)) shard->retired = true;
  (void)curl_multi_remove_handle(shard->multi, line->easy);
  line_give(line);
  if (shard->retired && shard->in_flight == 0) shard_free(shard);
}

void shards_close_idle(TransferPool *pool) {
  for (Shard *shard = pool->shards, *next; shard; shard = next) {
    next = shard->next;
    shard->retired = true;
    if (shard->in_flight == 0) shard_free(shard);
  }
}
