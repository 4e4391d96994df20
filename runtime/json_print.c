// Finishes what lua-cjson wrote; see json_text.h.

#include <string.h>

#include "json_text.h"

// What the innermost open bracket is to become.
typedef enum Bracket {
  AS_WRITTEN,
  NAME_NEXT,   // a listed object, before or after a name
  VALUE_NEXT,  // a listed object, before or after a value
} Bracket;

typedef struct Printer {
  const char *next;
  char *out;  // NULL while only measuring
  size_t size;
  bool pretty;
  int depth;
  unsigned char brackets[JSON_MAX_DEPTH + 1];  // each a Bracket
} Printer;

static void put(Printer *p, const char *bytes, size_t length) {
  if (p->out != NULL) memcpy(p->out + p->size, bytes, length);
  p->size += length;
}

static void put_line(Printer *p) {
  if (!p->pretty) return;
  put(p, "\n", 1);
  for (int i = 0; i < p->depth; i++)
    put(p, "  ", 2);
}

// At an opening quote.
static void print_string(Printer *p) {
  const char *from = p->next++;
  bool carried = (unsigned char)*p->next == CARRIER;
  if (carried) from = ++p->next;
  for (; *p->next != '"'; p->next++) {
    if (*p->next != '\\') continue;
    if (p->next[1] == '/') {
      put(p, from, (size_t)(p->next - from));
      from = p->next + 1;
    }
    p->next++;  // what is escaped may be a quote
  }
  put(p, from, (size_t)(p->next - from) + !carried);
  p->next++;
}

static bool begins_object(const char *json) {
  return json[1] == '"' && (unsigned char)json[2] == CARRIER && json[3] == '{';
}

static void print_open(Printer *p) {
  if (p->next[1] == '}') {  // lua-cjson never writes an empty array
    put(p, p->next, 2);
    p->next += 2;
    return;
  }
  bool listed = *p->next == '[' && begins_object(p->next);
  put(p, listed ? "{" : p->next, 1);
  p->next += listed ? strlen("[\"?{\",") : 1;
  p->brackets[++p->depth] = listed ? NAME_NEXT : AS_WRITTEN;
  put_line(p);
}

static void print_close(Printer *p) {
  bool listed = p->brackets[p->depth--] != AS_WRITTEN;
  put_line(p);
  put(p, listed ? "}" : p->next, 1);
  p->next++;
}

// At a comma or a colon.
static void print_between(Printer *p) {
  unsigned char *bracket = &p->brackets[p->depth];
  bool colon = *p->next == ':' || *bracket == NAME_NEXT;
  if (*bracket != AS_WRITTEN) *bracket = colon ? VALUE_NEXT : NAME_NEXT;
  p->next++;
  if (colon) {
    put(p, ": ", p->pretty ? 2 : 1);
  } else {
    put(p, ",", 1);
    put_line(p);
  }
}

size_t json_print(const char *json, size_t length, bool pretty, char *out) {
  Printer p = {.next = json, .out = out, .pretty = pretty};
  while (p.next < json + length) {
    switch (*p.next) {
    case '"':
      print_string(&p);
      break;
    case '{':
    case '[':
      print_open(&p);
      break;
    case '}':
    case ']':
      print_close(&p);
      break;
    case ',':
    case ':':
      print_between(&p);
      break;
    default:  // a number or a word
      put(&p, p.next++, 1);
    }
  }
  return p.size;
}
