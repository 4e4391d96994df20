// Bodies that a script reads or hands over piece by piece, at its own speed.
//
// Bytes wait here between libcurl and the task, up to a high-water mark; then
// libcurl is paused, and with it the peer. It goes on once the bytes have run
// low. Callbacks of libcurl only pause; what resumes is called from tasks.

#include <stdlib.h>
#include <string.h>

#include "transfer_pool.h"

enum { FLOW_HIGH = 256 * 1024, FLOW_LOW = 64 * 1024 };

static size_t ready(const Bytes *bytes) {
  return bytes->size - bytes->at;
}

int bytes_append(Bytes *bytes, const char *data, size_t size) {
  if (size > bytes->capacity - bytes->size && bytes->at > bytes->size / 2) {
    memmove(bytes->data, bytes->data + bytes->at, ready(bytes));
    bytes->size -= bytes->at;
    bytes->at = 0;
  }
  if (size > bytes->capacity - bytes->size) {
    size_t capacity = bytes->capacity ? bytes->capacity * 2 : 1024;
    if (capacity < bytes->size + size) capacity = bytes->size + size;
    char *grown = realloc(bytes->data, capacity);
    if (!grown) return -1;
    bytes->data = grown;
    bytes->capacity = capacity;
  }
  memcpy(bytes->data + bytes->size, data, size);
  bytes->size += size;
  return 0;
}

static void take(Bytes *bytes, size_t size) {
  bytes->at += size;
  if (bytes->at == bytes->size) bytes->at = bytes->size = 0;
}

void flow_notify(Transfer *transfer) {
  if (transfer->on_flow) transfer->on_flow(transfer);
}

static bool is_starved(const Transfer *transfer) {
  if (transfer->body.feed.starved) return true;
  for (size_t i = 0; i < transfer->part_count; i++)
    if (transfer->parts[i].source.feed.starved) return true;
  return false;
}

bool feeds_consumed(const Transfer *transfer) {
  if (transfer->body.feed.active && transfer->body.offset > 0) return true;
  for (size_t i = 0; i < transfer->part_count; i++) {
    const Source *source = &transfer->parts[i].source;
    if (source->feed.active && source->offset > 0) return true;
  }
  return false;
}

// Tells libcurl which directions may go on.
static void resume(Transfer *transfer) {
  if (transfer->state != TRANSFER_ACTIVE) return;
  int pause = (transfer->receive_paused ? CURLPAUSE_RECV : 0) |
              (is_starved(transfer) ? CURLPAUSE_SEND : 0);
  Line *line = transfer->line;
  // A part of a multipart body that had nothing to give stays so for libcurl
  // until a pause ends, also where it has not come to pausing yet.
  if (transfer->part_count > 0 && !(pause & CURLPAUSE_SEND))
    (void)curl_easy_pause(line->easy, pause | CURLPAUSE_SEND);
  CURLcode code = curl_easy_pause(line->easy, pause);
  // The other code: between two connections there is nothing to pause.
  if (code != CURLE_OK && code != CURLE_BAD_FUNCTION_ARGUMENT) {
    transfer_explain(transfer, code);
    transfer_finish(transfer);
    return;
  }
  // libcurl may have the next bytes already, and then no event tells of them.
  (void)timer_start(&transfer->pool->reactor->timers, &line->shard->timer, 0);
}

// ---- refused
//
// libcurl stops sending when an error comes early, but not while it is paused:
// then it would wait for the script, which may have nothing for a long time.

static void end_feed(Feed *feed) {
  feed->ended = true;
  feed->starved = false;
}

void flow_refuse(Transfer *transfer) {
  if (!is_starved(transfer) || transfer->refused) return;
  transfer->refused = true;
  transfer->pool->refusals++;
}

void flows_end_refused(TransferPool *pool) {
  while (pool->refusals > 0) {
    Transfer *transfer = pool->live;
    while (transfer && !transfer->refused)
      transfer = transfer->next;
    pool->refusals--;
    if (!transfer) continue;  // it has ended meanwhile
    transfer->refused = false;
    end_feed(&transfer->body.feed);
    for (size_t i = 0; i < transfer->part_count; i++)
      end_feed(&transfer->parts[i].source.feed);
    resume(transfer);
  }
}

// ---- received

size_t flow_write(Transfer *transfer, const char *data, size_t size) {
  if (ready(&transfer->body_in) >= FLOW_HIGH) {
    transfer->receive_paused = true;
    return CURL_WRITEFUNC_PAUSE;
  }
  if (bytes_append(&transfer->body_in, data, size) != 0) {
    transfer_fail(transfer, "io", "ENOMEM", "receive",
                  "no memory for the body");
    return CURL_WRITEFUNC_ERROR;
  }
  transfer->received += (int64_t)size;
  flow_notify(transfer);
  return size;
}

void transfer_await_peer(Transfer *transfer) {
  transfer->progress_at = reactor_now();
}

size_t transfer_ready(const Transfer *transfer) {
  return ready(&transfer->body_in);
}

void transfer_take(Transfer *transfer, size_t size) {
  take(&transfer->body_in, size);
  if (!transfer->receive_paused || ready(&transfer->body_in) > FLOW_LOW) return;
  transfer->receive_paused = false;
  resume(transfer);
}

// ---- sent

size_t flow_read(Source *source, char *buffer, size_t room) {
  Feed *feed = &source->feed;
  bool first = !feed->wanted;
  feed->wanted = true;
  size_t size = ready(&feed->bytes);
  if (size == 0) {
    feed->starved = !feed->ended;
    flow_notify(source->transfer);
    return feed->starved ? CURL_READFUNC_PAUSE : 0;
  }
  if (size > room) size = room;
  memcpy(buffer, feed->bytes.data + feed->bytes.at, size);
  take(&feed->bytes, size);
  source->offset += (int64_t)size;
  if (first || ready(&feed->bytes) <= FLOW_LOW) flow_notify(source->transfer);
  return size;
}

bool transfer_feed_full(const Source *source) {
  return ready(&source->feed.bytes) >= FLOW_HIGH;
}

static void end_starvation(Transfer *transfer, Source *source) {
  if (!source->feed.starved) return;
  source->feed.starved = false;
  resume(transfer);
}

int transfer_feed(Transfer *transfer, Source *source, const char *bytes,
                  size_t size) {
  if (size == 0 || transfer->state == TRANSFER_ENDED) return 0;
  if (bytes_append(&source->feed.bytes, bytes, size) != 0) return UV_ENOMEM;
  end_starvation(transfer, source);
  return 0;
}

void transfer_end_feed(Transfer *transfer, Source *source) {
  source->feed.ended = true;
  end_starvation(transfer, source);
}
