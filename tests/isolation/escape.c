// What a sandbox runs to get out. Static, so that it runs in any image.
//
//   escape NAME   tries that one: "denied NAME: why", or "ESCAPED NAME" and
//   status 1 escape list   the names escape listen PORT | abstract NAME waits
//   to be reached escape connect ADDRESS PORT | abstract-connect NAME escape
//   hog MIB | descriptors                        takes all that there is

#include "escape.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

// Whether an errno says that the kernel, or the filter, would not hear of it.
static int is_denial(int error, int more) {
  return error == EPERM || error == EACCES || error == ENOSYS ||
         error == EAFNOSUPPORT || error == EROFS ||
         (more != 0 && error == more);
}

static int try_one(size_t index) {
  const char *name = attempts[index].name;
  int error = attempts[index].attempt();
  if (is_denial(error, attempts[index].denial)) {
    printf("denied %s: %s\n", name, strerror(error));
    return 0;
  }
  printf("ESCAPED %s: %s\n", name, error == 0 ? "it worked" : strerror(error));
  return 1;
}

// ------------------------------------------------------------- what others use

static socklen_t abstract_address(struct sockaddr_un *address,
                                  const char *name) {
  memset(address, 0, sizeof(*address));
  address->sun_family = AF_UNIX;
  (void)snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "%s",
                 name);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

static int internet_address(struct sockaddr_in *address, const char *host,
                            const char *port) {
  memset(address, 0, sizeof(*address));
  address->sin_family = AF_INET;
  address->sin_port = htons((uint16_t)atoi(port));
  return inet_pton(AF_INET, host, &address->sin_addr) == 1 ? 0 : -1;
}

// Accepts for ever; says "ready" first, and "reached" for each who comes.
static int serve(int fd, const struct sockaddr *address, socklen_t size) {
  int on = 1;
  (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address, size) != 0 || listen(fd, 16) != 0) return 2;
  printf("ready\n");
  (void)fflush(stdout);
  for (;;) {
    int peer = accept(fd, NULL, NULL);
    if (peer < 0) return 2;
    printf("reached\n");
    (void)fflush(stdout);
    (void)write(peer, "here\n", 5);
    (void)close(peer);
  }
}

static int report_connect(int fd, const struct sockaddr *address,
                          socklen_t size) {
  struct timeval patience = {.tv_sec = 2};
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  if (connect(fd, address, size) != 0) {
    printf("denied: %s\n", strerror(errno));
    return 0;
  }
  printf("ESCAPED: connected\n");
  return 1;
}

// The last block that was taken; the others are held through it.
static char **held;

// Takes memory page by page, and says how much it got.
static int hog(const char *text) {
  for (int mebibytes = 1; mebibytes <= atoi(text); mebibytes++) {
    char *block = malloc(1 << 20);
    if (block == NULL) {
      printf("denied: %d MiB\n", mebibytes);
      return 0;
    }
    memset(block, mebibytes, 1 << 20);
    memcpy(block, &held, sizeof(held));
    held = (char **)block;
  }
  printf("ESCAPED: all of it\n");
  return 1;
}

// In many processes at once: the kernel's table is everybody's.
static int exhaust_descriptors(void) {
  for (int i = 0; i < 8; i++)
    if (fork() == 0) break;
  int count = 0;
  while (open("/dev/null", O_RDONLY) >= 0 && count < 2000000)
    count++;
  printf("denied: %s after %d\n", strerror(errno), count);
  return 0;
}

int main(int argc, char **argv) {
  const char *verb = argc > 1 ? argv[1] : "";
  struct sockaddr_un local;
  struct sockaddr_in internet;
  if (strcmp(verb, "list") == 0) {
    for (size_t i = 0; i < attempt_count; i++)
      printf("%s\n", attempts[i].name);
    return 0;
  }
  if (strcmp(verb, "abstract") == 0 && argc == 3) {
    socklen_t size = abstract_address(&local, argv[2]);
    return serve(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&local,
                 size);
  }
  if (strcmp(verb, "abstract-connect") == 0 && argc == 3) {
    socklen_t size = abstract_address(&local, argv[2]);
    return report_connect(socket(AF_UNIX, SOCK_STREAM, 0),
                          (struct sockaddr *)&local, size);
  }
  if (strcmp(verb, "listen") == 0 && argc == 3) {
    (void)internet_address(&internet, "127.0.0.1", argv[2]);
    return serve(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&internet,
                 sizeof(internet));
  }
  if (strcmp(verb, "connect") == 0 && argc == 4) {
    if (internet_address(&internet, argv[2], argv[3]) != 0) return 2;
    return report_connect(socket(AF_INET, SOCK_STREAM, 0),
                          (struct sockaddr *)&internet, sizeof(internet));
  }
  if (strcmp(verb, "hog") == 0 && argc == 3) return hog(argv[2]);
  if (strcmp(verb, "descriptors") == 0) return exhaust_descriptors();
  for (size_t i = 0; i < attempt_count; i++)
    if (strcmp(verb, attempts[i].name) == 0) return try_one(i);
  (void)fprintf(stderr, "escape: what is '%s'?\n", verb);
  return 2;
}
