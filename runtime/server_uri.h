// Request targets: where the query begins, and what the percent signs mean.
// Plain C on bytes of a stranger; nothing here allocates or fails.

#ifndef SBX_SERVER_URI_H
#define SBX_SERVER_URI_H

#include <stdbool.h>
#include <stddef.h>

typedef struct UriSpan {
  const char *text;  // not terminated; lent by the target
  size_t length;
} UriSpan;

// Splits a request target into its path and its query (without the '?'; empty
// when there is none). The absolute form "http://host/path" loses its front,
// and a target without any path means "/". The spans point into `target`.
void uri_split(const char *target, UriSpan *path, UriSpan *query);

// Takes the next "name=value" off the front of `query`. Empty pairs are left
// out; a name alone has an empty value. Returns false at the end.
bool uri_next_pair(UriSpan *query, UriSpan *name, UriSpan *value);

// Decodes percent escapes into `out`, which has room for `from.length` bytes,
// and returns the number written. With `plus`, a '+' is a space. A percent sign
// that starts no escape stands for itself.
size_t uri_decode(char *out, UriSpan from, bool plus);

#endif
