#include "dial.h"

#include <stdlib.h>
#include <string.h>

// Bytes handed over at a stretch before other tasks get their turn.
#define WRITE_BURST ((size_t)1024 * 1024)

static Dial *dial_of(Transfer *transfer) {
  return (Dial *)transfer;
}

// Watches for what somebody waits for.
static int update(Dial *dial) {
  int events = (dial->reader ? UV_READABLE : 0) |
               (dial->writer && dial->chunk ? UV_WRITABLE : 0);
  return transfer_watch(&dial->transfer, events, events != 0);
}

// Reading

// Returns how many bytes came, 0 at the end, or a libuv error.
static ssize_t fill(Dial *dial) {
  if (!dial->arrived) dial->arrived = malloc(DIAL_BUFFER);
  if (!dial->arrived) return UV_ENOMEM;
  ssize_t size = transfer_receive(&dial->transfer, dial->arrived, DIAL_BUFFER);
  dial->first = 0;
  dial->count = size > 0 ? (size_t)size : 0;
  if (size == 0) dial->ended = true;
  dial_release(dial);
  return size;
}

static void read_on(Dial *dial) {
  ssize_t size = dial->count > 0 || dial->ended ? 0 : fill(dial);
  int status = size < 0 ? (int)size : 0;
  if (status == UV_EAGAIN) status = update(dial);
  if (size == UV_EAGAIN && status == 0) return;
  wait_settle(dial->reader, status);
}

void dial_start_read(DialWait *op) {
  op->dial->reader = &op->wait;
  read_on(op->dial);
}

void dial_close_read(Wait *wait) {
  Dial *dial = ((DialWait *)wait)->dial;
  dial->reader = NULL;
  (void)update(dial);  // fails only where there is nothing left to watch
  wait_done(wait);
}

size_t dial_take(Dial *dial, size_t max, const char **bytes) {
  size_t size = dial->count < max ? dial->count : max;
  *bytes = dial->arrived + dial->first;
  dial->first += size;
  dial->count -= size;
  return size;
}

void dial_release(Dial *dial) {
  if (dial->count > 0) return;
  free(dial->arrived);
  dial->arrived = NULL;
}

// Writing

static void drop_chunk(Dial *dial) {
  free(dial->chunk);
  dial->chunk = NULL;
  dial->chunk_left = 0;
}

// TLS insists on being offered the same bytes at the same place again, so they
// go out from a copy that stays put.
static int next_chunk(Dial *dial) {
  if (!dial->chunk) dial->chunk = malloc(DIAL_BUFFER);
  if (!dial->chunk) return UV_ENOMEM;
  size_t size = dial->left < DIAL_BUFFER ? dial->left : DIAL_BUFFER;
  memcpy(dial->chunk, dial->rest, size);
  dial->rest += size;
  dial->left -= size;
  dial->chunk_at = 0;
  dial->chunk_left = size;
  return 0;
}

// Returns 0 when all is out, UV_EAGAIN when it must go on later.
static int send_some(Dial *dial) {
  for (size_t burst = 0; burst < WRITE_BURST;) {
    int status = 0;
    if (dial->chunk_left == 0 && dial->left == 0) return 0;
    if (dial->chunk_left == 0) status = next_chunk(dial);
    if (status != 0) return status;
    ssize_t size = transfer_send(&dial->transfer, dial->chunk + dial->chunk_at,
                                 dial->chunk_left);
    if (size < 0) return (int)size;
    dial->chunk_at += (size_t)size;
    dial->chunk_left -= (size_t)size;
    burst += (size_t)size;
  }
  return UV_EAGAIN;
}

static void write_on(Dial *dial) {
  int status = send_some(dial);
  if (status == UV_EAGAIN && (status = update(dial)) == 0) return;
  wait_settle(dial->writer, status);
}

void dial_start_write(DialWait *op, const char *bytes, size_t size) {
  Dial *dial = op->dial;
  dial->writer = &op->wait;
  dial->rest = bytes;
  dial->left = size;
  if (dial->broken)
    wait_settle(&op->wait, UV_EPIPE);
  else
    write_on(dial);
}

void dial_close_write(Wait *wait) {
  Dial *dial = ((DialWait *)wait)->dial;
  if (wait->status != 0) dial->broken = true;
  dial->writer = NULL;
  dial->rest = NULL;
  dial->left = 0;
  drop_chunk(dial);
  (void)update(dial);  // as in dial_close_read
  wait_done(wait);
}

static void on_ready(Transfer *transfer, int events) {
  Dial *dial = dial_of(transfer);
  if (events & UV_WRITABLE && dial->writer) write_on(dial);
  if (events & UV_READABLE && dial->reader) read_on(dial);
}

// Opening

static void on_done(Transfer *transfer) {
  Dial *dial = dial_of(transfer);
  // libcurl takes a connection for used, and keeps it, from the first receive
  // on. A peer that has said something already has said it to the first reader.
  if (!transfer->failure.kind) (void)fill(dial);
  wait_settle(dial->opener, 0);
}

void dial_start_open(DialWait *op, Reactor *reactor) {
  Dial *dial = op->dial;
  dial->opener = &op->wait;
  int status = transfer_pool_open(reactor);
  if (status == 0) status = transfer_start(reactor, &dial->transfer);
  if (status != 0) wait_settle(&op->wait, status);
}

void dial_close_open(Wait *wait) {
  Dial *dial = ((DialWait *)wait)->dial;
  dial->opener = NULL;
  if (wait->status != 0) transfer_cancel(&dial->transfer);
  wait_done(wait);
}

Dial *dial_new(void) {
  Dial *dial = calloc(1, sizeof(*dial));
  if (!dial) return NULL;
  transfer_init(&dial->transfer);
  dial->transfer.method = "connect";
  dial->transfer.dial = true;
  dial->transfer.on_done = on_done;
  dial->transfer.on_ready = on_ready;
  return dial;
}

void dial_free(Dial *dial) {
  if (!dial) return;
  if (dial->opener) wait_settle(dial->opener, UV_EBADF);
  if (dial->reader) wait_settle(dial->reader, UV_EBADF);
  if (dial->writer) wait_settle(dial->writer, UV_EBADF);
  transfer_free(&dial->transfer);
  free(dial->arrived);
  free(dial);
}
