// Ctrl-C and friends. The first asks the script to end: its root scope is
// cancelled and finalizers run. The second SIGINT ends the process at once.
// SIGQUIT shows what the tasks are doing. What a script listens to goes to the
// script instead. A program that keeps on, such as a prompt, is told of each
// SIGINT and ends what it likes.
//
// A signal handler needs to find its host: the one mutable global.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host.h"
#include "luax.h"
#include "task.h"
#include "terminal.h"
#include "trace.h"
#include "watchdog.h"

static Host *volatile signalled;
static pthread_t main_thread;

static const int handled[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

enum { HANDLED = sizeof(handled) / sizeof(handled[0]) };

// Seconds that a script may leave a SIGINT untaken before the next one ends it.
enum { PATIENCE = 2 };

// A hook of the script's own gives way only to the end of the script.
static void interrupt(lua_State *running, bool ends) {
  if (!running) return;
  lua_Hook present = lua_gethook(running);
  if (ends || !present || present == task_hook)
    lua_sethook(running, task_hook,
                LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

// Wakes the loop, from inside a signal handler.
static void wake(Host *host) {
  int problem = errno;  // of what was interrupted
  (void)uv_async_send(&host->wakeup);
  errno = problem;
}

static bool ends_script(int number) {
  return number == SIGINT || number == SIGTERM || number == SIGHUP;
}

static void stop_at_once(Host *host, int number) {
  terminal_restore();
  trace_abandon(&host->reactor);
  static const char text[] = "\nsbxlua: stopped at once";
  (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
  (void)!write(STDERR_FILENO, host->abandoned, strlen(host->abandoned));
  (void)!write(STDERR_FILENO, "\n", 1);
  (void)signal(number, SIG_DFL);
  sigset_t set;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, number);
  (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
  (void)raise(number);
}

// Whether nobody has taken a SIGINT for so long that this one ends the process.
static bool is_untaken(SignalTable *signals) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  sig_atomic_t second = (sig_atomic_t)now.tv_sec + 1;  // never 0
  if (signals->untaken == 0) signals->untaken = second;
  return second - signals->untaken >= PATIENCE;
}

// For the listeners. Returns false when the signal is to end the process.
static bool hand_over(Host *host, int number) {
  SignalTable *signals = &host->signals;
  if (number == SIGINT && is_untaken(signals)) return false;
  signals->arrived[number] = 1;
  wake(host);
  return true;
}

// Everything here is safe in a signal handler: write, sethook, async_send.
static void on_signal(int number) {
  Host *host = signalled;
  if (!host) return;
  if (!pthread_equal(pthread_self(), main_thread)) {
    (void)pthread_kill(main_thread, number);
    return;
  }
  bool ending = host->first_signal != 0 && ends_script(number);
  if (host->signals.listeners[number] > 0 && !ending) {
    if (!hand_over(host, number)) stop_at_once(host, number);
    return;
  }
  if (number == SIGINT && host->keeps_on && !ending) {
    if (is_untaken(&host->signals)) stop_at_once(host, number);
    host->wants_break = 1;
    wake(host);
    interrupt(host->reactor.running, true);
    return;
  }
  if (number == SIGQUIT) {
    host->wants_tree = 1;
    wake(host);
    interrupt(host->reactor.running, false);
    return;
  }
  if (!ends_script(number)) return;  // its last listener has just left
  if (number == SIGINT && ++host->interrupts >= 2) {
    stop_at_once(host, number);
    return;
  }
  host->pending = number;
  if (host->first_signal == 0) host->first_signal = number;
  wake(host);
  interrupt(host->reactor.running, true);
}

static const char *name_of(int number) {
  return number == SIGINT ? "SIGINT" : number == SIGTERM ? "SIGTERM" : "SIGHUP";
}

void signals_handle(lua_State *L) {
  Host *host = host_of(L);
  if (host->reactor.watchdog) watchdog_look(host->reactor.watchdog, L);
  if (host->wants_tree) {
    host->wants_tree = 0;
    lua_pushnil(L);
    host_observe(L, "tree");
    lua_pop(L, 1);
  }
  if (host->wants_break) {
    host->wants_break = 0;
    signals_taken(host, SIGINT);
    lua_pushnil(L);
    host_observe(L, "interrupt");
    lua_pop(L, 1);
  }
  if (host->first_signal == 0) return;
  int number = host->pending;
  if (number != 0) {
    host->pending = 0;
    lua_pushstring(L, name_of(number));
    host_observe(L, "signal");
    lua_pop(L, 1);
  }
  Scope *root = host->reactor.root;
  if (!root || root->cancelled) return;
  lua_pushfstring(L, "interrupted by %s", name_of(host->first_signal));
  scope_cancel(L, root);
}

// A signal that ends the script is left to the run queue; being woken is all.
static void on_wakeup(uv_async_t *wakeup) {
  Host *host = wakeup->data;
  for (int number = 1; number < SIGNALS; number++) {
    if (!host->signals.arrived[number]) continue;
    host->signals.arrived[number] = 0;
    signal_listeners_wake(host->signals.first, number);
  }
}

static struct sigaction our_action(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  (void)sigemptyset(&action.sa_mask);
  return action;
}

int signals_listen(Host *host, int number) {
  SignalTable *signals = &host->signals;
  if (signals->listeners[number]++ > 0) return 0;
  struct sigaction action = our_action();
  if (sigaction(number, &action, &signals->before[number]) == 0) return 0;
  int status = -errno;
  signals->listeners[number] = 0;
  return status;
}

void signals_unlisten(Host *host, int number) {
  SignalTable *signals = &host->signals;
  if (signals->listeners[number] == 0) return;
  if (--signals->listeners[number] > 0) return;
  (void)sigaction(number, &signals->before[number], NULL);
  signals->arrived[number] = 0;
  signals_taken(host, number);
}

void signals_taken(Host *host, int number) {
  if (number == SIGINT) host->signals.untaken = 0;
}

int signals_open(Host *host) {
  int status = uv_async_init(&host->reactor.loop, &host->wakeup, on_wakeup);
  if (status != 0) return status;
  host->wakeup.data = host;
  uv_unref((uv_handle_t *)&host->wakeup);
  main_thread = pthread_self();
  signalled = host;
  host->reactor.on_turn = signals_handle;
  struct sigaction action = our_action();
  for (int i = 0; i < HANDLED; i++) {
    struct sigaction before;
    (void)sigaction(handled[i], NULL, &before);
    // nohup and background shells ignore some of them: so do we then.
    if (before.sa_handler == SIG_IGN) continue;
    (void)sigaction(handled[i], &action, NULL);
  }
  return 0;
}

void signals_close(Host *host) {
  for (int number = 1; number < SIGNALS; number++) {
    while (host->signals.listeners[number] > 0)
      signals_unlisten(host, number);
  }
  for (int i = 0; i < HANDLED; i++) {
    struct sigaction now;
    (void)sigaction(handled[i], NULL, &now);
    if (now.sa_handler == on_signal) (void)signal(handled[i], SIG_DFL);
  }
  signalled = NULL;
  host->reactor.on_turn = NULL;
  uv_close((uv_handle_t *)&host->wakeup, NULL);
}
