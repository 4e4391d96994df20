// Host names: one look-up at a time for each, however many transfers wait for
// it, in a detached thread. libcurl would start a thread for every transfer,
// and libuv's pool would make the end of the program wait for a slow server.

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transfer_pool.h"

enum {
  ADDRESSES_SECONDS = 60,  // getaddrinfo tells no lifetime
  ADDRESSES_MOST = 16,
};

// Where threads leave answers. It outlives the pool by as long as the slowest
// thread; the lock guards everything in it.
typedef struct Mailbox {
  uv_async_t async;  // first
  pthread_mutex_t lock;
  struct Lookup *answers;
  unsigned holders;  // the pool, the handle until closed, each thread
  bool closed;       // nobody reads any more
} Mailbox;

typedef struct Lookup {
  Mailbox *mailbox;
  struct Lookup *next;
  int error;  // of getaddrinfo
  struct addrinfo *result;
  char name[];
} Lookup;

static void mailbox_leave(Mailbox *mailbox) {
  pthread_mutex_lock(&mailbox->lock);
  bool last = --mailbox->holders == 0;
  pthread_mutex_unlock(&mailbox->lock);
  if (!last) return;
  pthread_mutex_destroy(&mailbox->lock);
  free(mailbox);
}

static void lookup_free(Lookup *lookup) {
  if (lookup->result) freeaddrinfo(lookup->result);
  free(lookup);
}

static void *run_lookup(void *argument) {
  Lookup *lookup = argument;
  Mailbox *mailbox = lookup->mailbox;
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  lookup->error = getaddrinfo(lookup->name, NULL, &hints, &lookup->result);

  pthread_mutex_lock(&mailbox->lock);
  bool closed = mailbox->closed;
  if (!closed) {
    lookup->next = mailbox->answers;
    mailbox->answers = lookup;
    (void)uv_async_send(&mailbox->async);
  }
  pthread_mutex_unlock(&mailbox->lock);
  if (closed) lookup_free(lookup);
  mailbox_leave(mailbox);
  return NULL;
}

// Starts a detached thread that takes no signal: handlers belong to the loop's.
static int start_thread(Lookup *lookup) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return UV_ENOMEM;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  int error = pthread_create(&thread, &attributes, run_lookup, lookup);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return -error;
}

static int start_lookup(TransferPool *pool, Name *name) {
  size_t size = strlen(name->text) + 1;
  Lookup *lookup = calloc(1, sizeof(*lookup) + size);
  if (!lookup) return UV_ENOMEM;
  memcpy(lookup->name, name->text, size);
  Mailbox *mailbox = lookup->mailbox = pool->mailbox;
  pthread_mutex_lock(&mailbox->lock);
  mailbox->holders++;
  pthread_mutex_unlock(&mailbox->lock);
  int status = start_thread(lookup);
  if (status != 0) {
    mailbox_leave(mailbox);
    free(lookup);
    return status;
  }
  pool->threads++;
  pool->lookups++;
  return 0;
}

static size_t bucket_of(const char *text) {
  size_t hash = 5381;
  for (; *text; text++)
    hash = hash * 33 + (unsigned char)*text;
  return (hash ^ hash >> 8) % 256;
}

static Name *find_name(TransferPool *pool, const char *text) {
  Name *name = pool->names[bucket_of(text)];
  while (name && strcmp(name->text, text) != 0)
    name = name->next;
  return name;
}

static void free_name(Name *name) {
  free(name->addresses);
  free(name->text);
  free(name);
}

// Forgets the names that nothing waits for, once there are too many.
static void sweep(TransferPool *pool) {
  for (size_t i = 0; i < 256; i++) {
    Name **link = &pool->names[i];
    while (*link) {
      Name *name = *link;
      if (name->busy || name->first) {
        link = &name->next;
        continue;
      }
      *link = name->next;
      free_name(name);
      pool->name_count--;
    }
  }
}

static Name *add_name(TransferPool *pool, const char *text) {
  if (pool->name_count >= RECORDS_KEPT) sweep(pool);
  Name *name = calloc(1, sizeof(*name));
  if (!name) return NULL;
  name->text = strdup(text);
  if (!name->text) {
    free(name);
    return NULL;
  }
  Name **bucket = &pool->names[bucket_of(text)];
  name->next = *bucket;
  *bucket = name;
  pool->name_count++;
  return name;
}

// What is looked up: the host that is connected to.
static const char *name_of(const Transfer *transfer) {
  return transfer->dial_name ? transfer->dial_name : transfer->host_name;
}

static int set_addresses(Transfer *transfer, const char *addresses) {
  char *line = NULL;
  // The plus lets libcurl's own copy age; each transfer brings a fresh one.
  unsigned port = transfer->dial_name ? transfer->dial_port : transfer->port;
  if (asprintf(&line, "+%s:%u:%s", name_of(transfer), port, addresses) < 0)
    return UV_ENOMEM;
  transfer->resolve = curl_slist_append(NULL, line);
  free(line);
  return transfer->resolve ? 0 : UV_ENOMEM;
}

static void enqueue(Name *name, Transfer *transfer) {
  transfer->name = name;
  transfer->queue_previous = name->last;
  transfer->queue_next = NULL;
  if (name->last)
    name->last->queue_next = transfer;
  else
    name->first = transfer;
  name->last = transfer;
  // The handle keeps the loop alive only while someone waits for an answer.
  if (transfer->pool->resolving++ == 0)
    uv_ref((uv_handle_t *)&transfer->pool->mailbox->async);
}

void name_dequeue(Transfer *transfer) {
  Name *name = transfer->name;
  if (transfer->queue_previous)
    transfer->queue_previous->queue_next = transfer->queue_next;
  else
    name->first = transfer->queue_next;
  if (transfer->queue_next)
    transfer->queue_next->queue_previous = transfer->queue_previous;
  else
    name->last = transfer->queue_previous;
  transfer->queue_previous = transfer->queue_next = NULL;
  transfer->name = NULL;
  if (--transfer->pool->resolving == 0)
    uv_unref((uv_handle_t *)&transfer->pool->mailbox->async);
}

// True when the name needs one of our look-ups: not for addresses, for names
// that libcurl answers itself, behind a proxy, or where libcurl must first
// translate the name.
bool name_needs_lookup(const Transfer *transfer) {
  const char *name = name_of(transfer);
  struct in_addr address;
  if (transfer->unix_path || name[0] == '[' ||
      inet_pton(AF_INET, name, &address) == 1)
    return false;
  size_t length = strlen(name);
  if (strcmp(name, "localhost") == 0 ||
      (length > 10 && strcmp(name + length - 10, ".localhost") == 0))
    return false;
  for (const char *c = name; *c; c++)
    if ((unsigned char)*c >= 0x80 || *c == '%') return false;
  if (transfer->proxy) return transfer->proxy[0] == '\0';
  bool secure = strcmp(transfer->scheme, "https") == 0;
  return !getenv("all_proxy") && !getenv("ALL_PROXY") &&
         !getenv(secure ? "https_proxy" : "http_proxy") &&
         !(secure && getenv("HTTPS_PROXY"));
}

int name_resolve(Transfer *transfer) {
  TransferPool *pool = transfer->pool;
  Name *name = find_name(pool, name_of(transfer));
  if (!name) name = add_name(pool, name_of(transfer));
  if (!name) return UV_ENOMEM;
  if (name->addresses && reactor_now() < name->expires_at)
    return set_addresses(transfer, name->addresses);
  if (!name->busy && pool->threads < LOOKUP_THREADS) {
    int status = start_lookup(pool, name);
    if (status != 0) return status;
  } else if (!name->busy) {
    name->next_queued = NULL;
    if (pool->queued_last)
      pool->queued_last->next_queued = name;
    else
      pool->queued_first = name;
    pool->queued_last = name;
  }
  name->busy = true;
  enqueue(name, transfer);
  return UV_EAGAIN;
}

void name_forget(const Transfer *transfer) {
  if (transfer->unix_path) return;
  Name *name = find_name(transfer->pool, name_of(transfer));
  if (name) name->expires_at = 0;
}

// Whether `one` is among the addresses that `text` lists.
static bool is_listed(const char *text, const char *one) {
  size_t length = strlen(one);
  for (const char *at = text; (at = strstr(at, one)); at++)
    if ((at == text || strchr(",[", at[-1])) &&
        (at[length] == '\0' || strchr(",]", at[length])))
      return true;
  return false;
}

// Writes "1.2.3.4,[::1]" without what getaddrinfo says twice.
static char *write_addresses(const struct addrinfo *list) {
  char text[ADDRESSES_MOST * (INET6_ADDRSTRLEN + 3)] = "";
  size_t used = 0;
  for (int count = 0; list && count < ADDRESSES_MOST; list = list->ai_next) {
    char one[INET6_ADDRSTRLEN];
    bool six = list->ai_family == AF_INET6;
    const void *bytes =
        six ? (void *)&((struct sockaddr_in6 *)(void *)list->ai_addr)->sin6_addr
            : (void *)&((struct sockaddr_in *)(void *)list->ai_addr)->sin_addr;
    if (!inet_ntop(list->ai_family, bytes, one, sizeof(one))) continue;
    if (is_listed(text, one)) continue;
    used += (size_t)snprintf(text + used, sizeof(text) - used,
                             six ? "%s[%s]" : "%s%s", used ? "," : "", one);
    count++;
  }
  return used > 0 ? strdup(text) : NULL;
}

static void answer_waiter(Transfer *transfer, const Lookup *lookup,
                          const char *addresses) {
  transfer->timing.dns = reactor_now() - transfer->admitted_at;
  if (addresses) {
    if (set_addresses(transfer, addresses) == 0) {
      transfer_launch(transfer);
      return;
    }
    transfer_fail(transfer, "io", "ENOMEM", "dns", "no memory");
  } else {
    int error = lookup->error ? lookup->error : EAI_NONAME;
    transfer_fail(
        transfer, "dns", error == EAI_AGAIN ? "EAI_AGAIN" : "ENOTFOUND", "dns",
        "cannot find host %.100s: %s", name_of(transfer), gai_strerror(error));
    transfer->failure.transient = error == EAI_AGAIN;
  }
  transfer_finish(transfer);
}

static void take_answer(TransferPool *pool, Lookup *lookup) {
  Name *name = find_name(pool, lookup->name);
  pool->threads--;
  if (name) {
    name->busy = false;
    free(name->addresses);
    name->addresses = lookup->error ? NULL : write_addresses(lookup->result);
    name->expires_at = reactor_now() + ADDRESSES_SECONDS;
    char *addresses = name->addresses ? strdup(name->addresses) : NULL;
    // Whoever joins while the answer is handed out finds it in `name`, or
    // starts a look-up of its own.
    Transfer *end = name->last;
    for (bool more = end != NULL; more;) {
      Transfer *transfer = name->first;
      more = transfer != end;
      name_dequeue(transfer);
      answer_waiter(transfer, lookup, addresses);
    }
    free(addresses);
  }
  lookup_free(lookup);
}

static void start_queued(TransferPool *pool) {
  while (pool->queued_first && pool->threads < LOOKUP_THREADS) {
    Name *name = pool->queued_first;
    pool->queued_first = name->next_queued;
    if (!pool->queued_first) pool->queued_last = NULL;
    if (name->first && start_lookup(pool, name) == 0) continue;
    // Busy until the end: each failure admits others, which may sweep.
    while (name->first) {
      Transfer *transfer = name->first;
      name_dequeue(transfer);
      transfer_fail(transfer, "dns", "EAGAIN", "dns", "cannot start a thread");
      transfer->failure.transient = true;
      transfer_finish(transfer);
    }
    name->busy = false;
  }
}

static void on_answers(uv_async_t *async) {
  Mailbox *mailbox = (Mailbox *)async;
  TransferPool *pool = async->data;
  pthread_mutex_lock(&mailbox->lock);
  Lookup *answers = mailbox->answers;
  mailbox->answers = NULL;
  pthread_mutex_unlock(&mailbox->lock);
  while (answers) {
    Lookup *lookup = answers;
    answers = lookup->next;
    take_answer(pool, lookup);
  }
  start_queued(pool);
}

int names_open(TransferPool *pool) {
  Mailbox *mailbox = calloc(1, sizeof(*mailbox));
  if (!mailbox) return UV_ENOMEM;
  int status = uv_async_init(&pool->reactor->loop, &mailbox->async, on_answers);
  if (status != 0) {
    free(mailbox);
    return status;
  }
  pthread_mutex_init(&mailbox->lock, NULL);
  mailbox->async.data = pool;
  mailbox->holders = 2;
  uv_unref((uv_handle_t *)&mailbox->async);
  pool->mailbox = mailbox;
  return 0;
}

static void on_async_closed(uv_handle_t *handle) {
  mailbox_leave((Mailbox *)handle);
}

void names_close(TransferPool *pool) {
  Mailbox *mailbox = pool->mailbox;
  pthread_mutex_lock(&mailbox->lock);
  mailbox->closed = true;
  Lookup *answers = mailbox->answers;
  mailbox->answers = NULL;
  pthread_mutex_unlock(&mailbox->lock);
  while (answers) {
    Lookup *lookup = answers;
    answers = lookup->next;
    lookup_free(lookup);
  }
  uv_close((uv_handle_t *)&mailbox->async, on_async_closed);
  mailbox_leave(mailbox);
  pool->mailbox = NULL;
}

void names_free(TransferPool *pool) {
  for (size_t i = 0; i < 256; i++) {
    while (pool->names[i]) {
      Name *name = pool->names[i];
      pool->names[i] = name->next;
      free_name(name);
    }
  }
}

uint64_t transfer_pool_lookups(const Reactor *reactor) {
  return reactor->http ? reactor->http->lookups : 0;
}
