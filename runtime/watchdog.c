// The timer behind the watchdog, and its report.

#define _GNU_SOURCE
#include "watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "host.h"
#include "task.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static const uint64_t MILLISECOND = 1000000;

enum { DEFAULT_LIMIT = 100, LONGEST_LIMIT = 3600 * 1000 };  // milliseconds

// A timer that goes off so much too late, and not for want of a processor,
// tells that the whole process stood still: it was stopped, or the machine
// slept.
static const uint64_t STANDSTILL = UINT64_C(60000000);

static uint64_t clock_now(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t computed_of(const struct rusage *usage) {
  return (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) *
             1000000000 +
         (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) * 1000;
}

// Nanoseconds that this thread has queued for a processor; false where the
// kernel does not tell.
static bool read_queued(const Watchdog *dog, uint64_t *queued) {
  char text[96];
  ssize_t count = pread(dog->schedstat, text, sizeof(text) - 1, 0);
  if (count <= 0) return false;
  text[count] = '\0';
  const char *at = strchr(text, ' ');  // computed, queued, turns
  if (!at) return false;
  *queued = 0;
  for (at++; *at >= '0' && *at <= '9'; at++)
    *queued = *queued * 10 + (uint64_t)(*at - '0');
  return true;
}

// How long it has queued since the timer was armed. Where nobody says, a step
// that was never blocked queued whenever it did not compute.
static uint64_t queued_since(const Watchdog *dog, uint64_t now) {
  uint64_t queued;
  if (read_queued(dog, &queued)) return queued - dog->queued;
  struct rusage usage = {0};
  (void)getrusage(RUSAGE_THREAD, &usage);
  uint64_t computed = computed_of(&usage) - dog->computed;
  uint64_t wall = now - dog->armed_at;
  return usage.ru_nvcsw > dog->waits || computed > wall ? 0 : wall - computed;
}

// Adds what has passed of the step since the timer was armed. A busy machine
// lets a step queue for long: that is no time of its own.
static void note_own_time(Watchdog *dog, uint64_t now, uint64_t queued) {
  uint64_t from = dog->began > dog->armed_at ? dog->began : dog->armed_at;
  if (now > from + queued) dog->own += now - from - queued;
}

static void arm_for(Watchdog *dog, uint64_t nanoseconds) {
  struct rusage usage = {0};
  (void)getrusage(RUSAGE_THREAD, &usage);
  dog->computed = computed_of(&usage);
  dog->waits = usage.ru_nvcsw;
  if (!read_queued(dog, &dog->queued)) dog->queued = 0;
  dog->armed_at = clock_now();
  dog->due = dog->armed_at + nanoseconds;
  struct itimerspec when = {
      .it_value = {.tv_sec = (time_t)(nanoseconds / 1000000000),
                   .tv_nsec = (long)(nanoseconds % 1000000000)}
  };
  (void)timer_settime(dog->timer, 0, &when, NULL);
}

void watchdog_arm(Watchdog *dog) {
  dog->armed = 1;
  arm_for(dog, dog->limit);
}

// Asks the running coroutine to call us; a hook of the script's own stays.
static void set_hook(lua_State *running) {
  if (!running) return;
  lua_Hook present = lua_gethook(running);
  if (present && present != task_hook) return;
  lua_sethook(running, task_hook,
              LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

// Whether it has lasted too long, and when to look again.
static void look_at_step(Watchdog *dog) {
  uint64_t now = clock_now();
  uint64_t queued = queued_since(dog, now);
  if (now <= dog->due + queued + STANDSTILL) {
    note_own_time(dog, now, queued);
  } else if (!dog->late) {
    dog->began = now;
    dog->own = 0;
  }
  uint64_t left = dog->own < dog->limit ? dog->limit - dog->own : 0;
  if (left == 0 && !dog->late) {
    dog->late = 1;
    set_hook(dog->reactor->running);
  }
  if (left == 0) left = dog->limit;
  arm_for(dog, left > MILLISECOND ? left : MILLISECOND);
}

// A signal handler, always in the thread that runs Lua.
static void on_tick(int number, siginfo_t *info, void *context) {
  int problem = errno;
  Watchdog *dog = info->si_value.sival_ptr;
  if (dog->stepping)
    look_at_step(dog);
  else
    dog->armed = 0;
  errno = problem;
}

// Milliseconds of SBXLUA_SLOW_STEP; 0 for no watchdog.
static uint64_t wanted_limit(void) {
  const char *text = getenv("SBXLUA_SLOW_STEP");
  if (!text || !*text) return DEFAULT_LIMIT;
  char *end;
  double limit = strtod(text, &end);
  if (*end || !(limit >= 0 && limit <= LONGEST_LIMIT)) return DEFAULT_LIMIT;
  return limit > 0 && limit < 1 ? 1 : (uint64_t)limit;
}

int watchdog_open(Watchdog **out, Reactor *reactor) {
  *out = NULL;
  uint64_t limit = wanted_limit();
  if (limit == 0) return 0;
  Watchdog *dog = calloc(1, sizeof(*dog));
  if (!dog) return UV_ENOMEM;
  dog->reactor = reactor;
  dog->limit = limit * MILLISECOND;
  // The last of the real-time signals: nobody else's.
  struct sigaction action = {.sa_sigaction = on_tick,
                             .sa_flags = SA_RESTART | SA_SIGINFO};
  (void)sigemptyset(&action.sa_mask);
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                           .sigev_signo = SIGRTMAX,
                           .sigev_value = {.sival_ptr = dog}};
  event.sigev_notify_thread_id = gettid();
  if (sigaction(SIGRTMAX, &action, NULL) != 0 ||
      timer_create(CLOCK_MONOTONIC, &event, &dog->timer) != 0) {
    int status = -errno;
    free(dog);
    return status;
  }
  // Of this thread; read in a handler of signals, so opened here.
  dog->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  *out = dog;
  return 0;
}

void watchdog_close(Watchdog *dog) {
  if (!dog) return;
  // A tick that is on its way finds nobody.
  (void)signal(SIGRTMAX, SIG_IGN);
  (void)timer_delete(dog->timer);
  if (dog->schedstat >= 0) (void)close(dog->schedstat);
  free(dog);
}

void watchdog_look(Watchdog *dog, lua_State *L) {
  const Task *task = dog->reactor->current;
  if (!dog->late || dog->looked || !task) return;
  dog->looked = true;
  if (!place_in(L, dog->place)) (void)place_of_task(task, dog->place);
}

// Whether the place was not reported before.
static bool is_news(lua_State *L, const char *place) {
  static const char key;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
  }
  bool news = lua_getfield(L, -1, place) == LUA_TNIL;
  lua_pushboolean(L, 1);
  lua_setfield(L, -3, place);
  lua_pop(L, 2);
  return news;
}

void watchdog_report(Watchdog *dog, lua_State *L, const Task *task, uint64_t id,
                     uint64_t now) {
  const char *relation = "";
  // Without a hook, because of the script's own or of a step that was one call:
  // at least where it ended.
  if (!dog->looked && task->state == TASK_WAITING &&
      place_of_task(task, dog->place))
    relation = "until ";
  note_own_time(dog, now, queued_since(dog, now));
  uint64_t lasted = dog->own / MILLISECOND;
  dog->late = 0;
  dog->looked = false;
  if (!dog->place[0]) return;
  if (is_news(L, dog->place)) {
    lua_pushfstring(L, "task %I held the loop for %I ms (%s%s)",
                    (LUAI_UACINT)id, (LUAI_UACINT)lasted, relation, dog->place);
    host_observe(L, "slow");
    lua_pop(L, 1);
  }
  dog->place[0] = '\0';
}
