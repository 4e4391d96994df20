// Request targets: where the query begins, and what the percent signs mean.

#include "server_uri.h"

#include <string.h>
#include <strings.h>

// The first `wanted` in [text, end), or `end`.
static const char *find(const char *text, const char *end, char wanted) {
  const char *found = memchr(text, wanted, (size_t)(end - text));
  return found == NULL ? end : found;
}

static const char *skip_authority(const char *target) {
  static const char *const schemes[] = {"http://", "https://"};
  for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
    size_t length = strlen(schemes[i]);
    if (strncasecmp(target, schemes[i], length) == 0) {
      return target + length + strcspn(target + length, "/?");
    }
  }
  return target;
}

void uri_split(const char *target, UriSpan *path, UriSpan *query) {
  const char *start = skip_authority(target);
  const char *end = start + strlen(start);
  const char *mark = find(start, end, '?');
  *path = (UriSpan){start, (size_t)(mark - start)};
  if (path->length == 0) *path = (UriSpan){"/", 1};
  *query = (UriSpan){mark, 0};
  if (mark < end) *query = (UriSpan){mark + 1, (size_t)(end - mark - 1)};
}

bool uri_next_pair(UriSpan *query, UriSpan *name, UriSpan *value) {
  while (query->length > 0) {
    const char *start = query->text;
    const char *end = start + query->length;
    const char *stop = find(start, end, '&');
    const char *rest = stop < end ? stop + 1 : end;
    *query = (UriSpan){rest, (size_t)(end - rest)};
    if (stop == start) continue;

    const char *equals = find(start, stop, '=');
    *name = (UriSpan){start, (size_t)(equals - start)};
    const char *begin = equals < stop ? equals + 1 : stop;
    *value = (UriSpan){begin, (size_t)(stop - begin)};
    return true;
  }
  return false;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

size_t uri_decode(char *out, UriSpan from, bool plus) {
  size_t written = 0;
  for (size_t i = 0; i < from.length; i++) {
    char c = from.text[i];
    if (c == '%' && from.length - i > 2) {
      int high = hex_digit(from.text[i + 1]);
      int low = hex_digit(from.text[i + 2]);
      if (high >= 0 && low >= 0) {
        c = (char)(high * 16 + low);
        i += 2;
      }
    } else if (c == '+' && plus) {
      c = ' ';
    }
    out[written++] = c;
  }
  return written;
}
