// Runs programs by turns and prints, for each, how many milliseconds a
// twentieth of its runs stayed below. What else the machine does makes runs
// slower, never quicker.
//
//   spawn_time ROUNDS PROGRAM ARGUMENTS... -- PROGRAM ARGUMENTS... -- ...

#define _GNU_SOURCE
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

enum { MOST_PROGRAMS = 16, MOST_ROUNDS = 10000 };

static double times[MOST_PROGRAMS][MOST_ROUNDS];

static double now(void) {
  struct timespec time;
  (void)clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static double run(char **argv) {
  double start = now();
  pid_t pid;
  int status = 0;
  if (!argv[0] || posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) != 0 ||
      waitpid(pid, &status, 0) != pid || status != 0) {
    (void)fprintf(stderr, "spawn_time: %s failed\n", argv[0]);
    exit(1);
  }
  return now() - start;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 0;
  char **programs[MOST_PROGRAMS];
  int count = 0;
  bool begins = true;
  for (int i = 2; i < argc && count < MOST_PROGRAMS; i++) {
    bool ends = strcmp(argv[i], "--") == 0;
    if (begins) programs[count++] = &argv[i];
    if (ends) argv[i] = NULL;
    begins = ends;
  }
  if (rounds < 20 || rounds > MOST_ROUNDS || count == 0) {
    (void)fprintf(stderr,
                  "usage: spawn_time ROUNDS PROGRAM... -- PROGRAM...\n");
    return 2;
  }
  for (int round = 0; round < rounds; round++)
    for (int i = 0; i < count; i++)
      times[i][round] = run(programs[i]);
  for (int i = 0; i < count; i++) {
    qsort(times[i], (size_t)rounds, sizeof(double), compare);
    (void)printf("%.3f\n", times[i][rounds / 20]);
  }
  return 0;
}
