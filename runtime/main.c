// sbxlua: arguments in, exit status out.

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host.h"

int main(int argc, char **argv) {
  int status = host_run(argc, argv);
  if (fflush(stdout) != 0 || ferror(stdout)) {
    // The reader is gone: end as quietly as a program that SIGPIPE stopped.
    if (errno == EPIPE) return status == 0 ? 128 + SIGPIPE : status;
    // A failed run has told why; mostly it was this.
    if (status != 0) return status;
    (void)fprintf(stderr, "sbxlua: write to stdout: %s\n", strerror(errno));
    return 1;
  }
  return status;
}
