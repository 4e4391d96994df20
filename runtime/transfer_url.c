// Takes a URL apart: where to queue, what to look up, what to show people.
//
// Most URLs are plain and are read here in one pass; libcurl's parser, which
// makes a dozen copies, reads the others. Both only serve ourselves: what is
// sent, and where to, libcurl decides from the URL itself.

#define _GNU_SOURCE

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "transfer_pool.h"

enum {
  LABEL_MOST = 300,  // bytes of a URL in a message
  HOST_MOST = 255,
};

static void shorten_label(Transfer *transfer) {
  if (transfer->label && strlen(transfer->label) > LABEL_MOST)
    memcpy(transfer->label + LABEL_MOST - 3, "...", 4);
}

// `text` up to `end`, with a slash between both where `slash` says so.
static char *join(const char *text, const char *middle, const char *end,
                  bool slash) {
  size_t before = (size_t)(middle - text), after = (size_t)(end - middle);
  char *copy = malloc(before + slash + after + 1);
  if (!copy) return NULL;
  memcpy(copy, text, before);
  if (slash) copy[before] = '/';
  memcpy(copy + before + slash, middle, after);
  copy[before + slash + after] = '\0';
  return copy;
}

// Reads "http://name:1234/path?query" where the name has nothing but small
// letters, digits, dots and hyphens. Returns false when it is not like that.
static bool read_plain(Transfer *transfer) {
  const char *url = transfer->url;
  bool secure = strncmp(url, "https://", 8) == 0;
  if (!secure && strncmp(url, "http://", 7) != 0) return false;
  const char *name = url + (secure ? 8 : 7);
  size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-");
  if (length == 0 || length > HOST_MOST) return false;

  const char *path = name + length;
  unsigned long port = secure ? 443 : 80;
  if (*path == ':') {
    size_t digits = strspn(path + 1, "0123456789");
    if (digits == 0 || digits > 5) return false;
    port = strtoul(path + 1, NULL, 10);
    path += 1 + digits;
  }
  if (port == 0 || port > 65535 || !strchr("/?#", *path)) return false;

  transfer->port = (unsigned)port;
  transfer->scheme = strdup(secure ? "https" : "http");
  transfer->host_name = strndup(name, length);
  transfer->label = join(url, path, path + strcspn(path, "?#"), *path != '/');
  transfer->clean_url = join(url, path, path + strlen(path), *path != '/');
  return true;
}

static char *copy_part(CURLU *url, CURLUPart part, unsigned flags) {
  char *text = NULL;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return NULL;
  char *copy = strdup(text);
  curl_free(text);
  return copy;
}

static char *copy_lower(CURLU *url, CURLUPart part) {
  char *copy = copy_part(url, part, 0);
  for (char *c = copy; c && *c; c++)
    *c = (char)tolower((unsigned char)*c);
  return copy;
}

static void blank(CURLU *url, CURLUPart part) {
  (void)curl_url_set(url, part, NULL, 0);
}

// The URL as an answer may show it, and as an error or a log may.
static void make_labels(Transfer *transfer, CURLU *url) {
  blank(url, CURLUPART_USER);
  blank(url, CURLUPART_PASSWORD);
  blank(url, CURLUPART_OPTIONS);
  transfer->clean_url = copy_part(url, CURLUPART_URL, 0);
  blank(url, CURLUPART_QUERY);
  blank(url, CURLUPART_FRAGMENT);
  transfer->label = copy_part(url, CURLUPART_URL, 0);
}

static const char *take_apart(Transfer *transfer, CURLU *url) {
  if (curl_url_set(url, CURLUPART_URL, transfer->url,
                   CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
    return "not a URL";
  transfer->scheme = copy_lower(url, CURLUPART_SCHEME);
  transfer->host_name = copy_lower(url, CURLUPART_HOST);
  char *port = copy_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT);
  transfer->port = port ? (unsigned)strtoul(port, NULL, 10) : 0;
  free(port);
  if (!transfer->scheme || (strcmp(transfer->scheme, "http") != 0 &&
                            strcmp(transfer->scheme, "https") != 0))
    return "expected http:// or https://";
  if (!transfer->host_name || transfer->port == 0) return "no host in the URL";
  if (strlen(transfer->host_name) > HOST_MOST) return "the host is too long";
  make_labels(transfer, url);
  return NULL;
}

// Reads "name:1234" or "[::1]:1234".
static const char *read_dial(Transfer *transfer) {
  const char *text = transfer->connect_to;
  const char *colon = strrchr(text, ':');
  size_t length = colon ? (size_t)(colon - text) : 0;
  size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
  if (length == 0 || length > HOST_MOST || digits == 0 || digits > 5 ||
      colon[1 + digits] != '\0')
    return "connect_to is not host:port";
  transfer->dial_port = (unsigned)strtoul(colon + 1, NULL, 10);
  transfer->dial_name = strndup(text, length);
  char *line = NULL;
  if (asprintf(&line, "::%s", text) < 0) line = NULL;
  transfer->connect = line ? curl_slist_append(NULL, line) : NULL;
  free(line);
  return transfer->dial_name && transfer->connect ? NULL
                                                  : "no memory for a URL";
}

const char *transfer_prepare(Transfer *transfer) {
  if (!read_plain(transfer)) {
    CURLU *url = curl_url();
    if (!url) return "no memory for a URL";
    const char *problem = take_apart(transfer, url);
    curl_url_cleanup(url);
    if (problem) return problem;
  }
  if (transfer->connect_to) {
    const char *problem = read_dial(transfer);
    if (problem) return problem;
  }
  shorten_label(transfer);
  bool complete = transfer->scheme && transfer->host_name && transfer->label &&
                  transfer->clean_url;
  return complete ? NULL : "no memory for a URL";
}
