// The bytes of a dial: a connection that libcurl has made, with TLS and through
// proxies, and that its owner reads and writes.

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "transfer_pool.h"

static ssize_t result_of(Transfer *transfer, CURLcode code, size_t count) {
  if (code == CURLE_OK) return (ssize_t)count;
  if (code == CURLE_AGAIN) return UV_EAGAIN;
  if (code == CURLE_OUT_OF_MEMORY) return UV_ENOMEM;
  long error = 0;
  (void)curl_easy_getinfo(transfer->line->easy, CURLINFO_OS_ERRNO, &error);
  // Without an error of the system it is TLS that is broken, or was cut short.
  return error ? -(ssize_t)error : UV_EPROTO;
}

ssize_t transfer_receive(Transfer *transfer, char *room, size_t size) {
  if (transfer->state != TRANSFER_OPEN) return UV_EBADF;
  size_t count = 0;
  CURLcode code = curl_easy_recv(transfer->line->easy, room, size, &count);
  return result_of(transfer, code, count);
}

ssize_t transfer_send(Transfer *transfer, const char *bytes, size_t size) {
  if (transfer->state != TRANSFER_OPEN) return UV_EBADF;
  size_t count = 0;
  CURLcode code = curl_easy_send(transfer->line->easy, bytes, size, &count);
  return result_of(transfer, code, count);
}

int transfer_shutdown(Transfer *transfer) {
  if (transfer->state != TRANSFER_OPEN) return UV_EBADF;
  if (strcmp(transfer->scheme, "https") == 0) return UV_ENOTSUP;
  curl_socket_t fd = CURL_SOCKET_BAD;
  (void)curl_easy_getinfo(transfer->line->easy, CURLINFO_ACTIVESOCKET, &fd);
  return shutdown(fd, SHUT_WR) == 0 ? 0 : -errno;
}
