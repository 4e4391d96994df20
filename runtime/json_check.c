// Checks a JSON text before lua-cjson reads it, and carries past lua-cjson the
// tokens that it would not keep. After the check nothing that lua-cjson accepts
// too generously is left, and every error has a position.

#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "json_text.h"

// A double keeps every whole number of 15 digits.
#define EXACT_DIGITS 15

typedef struct Scanner {
  const unsigned char *next;
  const unsigned char *end;     // a zero byte stands here
  const unsigned char *copied;  // the text before this is in `out`
  unsigned char *out;           // NULL while only checking
  size_t carried;
  int depth;
  bool point;           // strtod takes "." in the current locale
  const char *problem;  // at `next`
} Scanner;

static bool scan_value(Scanner *s);

static bool fail(Scanner *s, const unsigned char *where, const char *problem) {
  s->next = where;
  s->problem = problem;
  return false;
}

static bool is_digit(unsigned char c) {
  return c >= '0' && c <= '9';
}

static void skip_space(Scanner *s) {
  while (*s->next == ' ' || *s->next == '\n' || *s->next == '\r' ||
         *s->next == '\t')
    s->next++;
}

static void emit(Scanner *s, const void *bytes, size_t length) {
  memcpy(s->out, bytes, length);
  s->out += length;
}

// Counts the token from `start` to the next byte as carried, and wraps it.
static void carry(Scanner *s, const unsigned char *start) {
  s->carried++;
  if (s->out == NULL) return;
  emit(s, s->copied, (size_t)(start - s->copied));
  emit(s, (const unsigned char[]){'"', CARRIER}, 2);
  emit(s, start, (size_t)(s->next - start));
  emit(s, "\"", 1);
  s->copied = s->next;
}

// Strings

size_t json_utf8(const unsigned char *text, size_t length) {
  unsigned char first = text[0];
  size_t size = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (size == 1) return 1;
  if (first < 0xC2 || first > 0xF4 || length < size) return 0;
  // The second byte rules out long forms, surrogates and what is past U+10FFFF.
  unsigned char least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  unsigned char most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (text[1] < least || text[1] > most) return 0;
  for (size_t i = 2; i < size; i++) {
    if ((text[i] & 0xC0) != 0x80) return 0;
  }
  return size;
}

// Whether the next eight bytes are ASCII.
static bool is_ascii_word(const unsigned char *p, const unsigned char *end) {
  uint64_t word;
  if (end - p < (ptrdiff_t)sizeof(word)) return false;
  memcpy(&word, p, sizeof(word));
  return (word & UINT64_C(0x8080808080808080)) == 0;
}

const char *json_bad_utf8(const char *text, size_t length) {
  const unsigned char *p = (const unsigned char *)text;
  const unsigned char *end = p + length;
  while (p < end) {
    if (is_ascii_word(p, end)) {
      p += sizeof(uint64_t);
    } else if (*p < 0x80) {
      p++;
    } else {
      size_t size = json_utf8(p, (size_t)(end - p));
      if (size == 0) return (const char *)p;
      p += size;
    }
  }
  return NULL;
}

// The value of four hexadecimal digits, or -1.
static int32_t hex4(const unsigned char *p) {
  int32_t value = 0;
  for (int i = 0; i < 4; i++) {
    unsigned char c = p[i];
    unsigned char letter = c | 0x20;
    if (is_digit(c)) {
      value = value * 16 + (c - '0');
    } else if (letter >= 'a' && letter <= 'f') {
      value = value * 16 + (letter - 'a' + 10);
    } else {
      return -1;  // also at the end of the text, so nothing past it is read
    }
  }
  return value;
}

// At a backslash.
static bool scan_escape(Scanner *s) {
  const unsigned char *p = s->next;
  if (p[1] == 'u') {
    int32_t unit = hex4(p + 2);
    if (unit < 0)
      return fail(s, p, "expected four hexadecimal digits after \\u");
    s->next += 6;
    if (unit < 0xD800 || unit > 0xDFFF) return true;
    int32_t low =
        unit < 0xDC00 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (low < 0xDC00 || low > 0xDFFF)
      return fail(s, p, "half of a surrogate pair");
    s->next += 6;
    return true;
  }
  if (p[1] == 0 || strchr("\"\\/bfnrt", p[1]) == NULL)
    return fail(s, p, "unknown escape");
  s->next += 2;
  return true;
}

// Whether a byte stands for itself inside a string.
static bool is_plain(unsigned char c) {
  return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

static bool scan_string(Scanner *s) {
  const unsigned char *start = s->next++;
  for (;;) {
    while (is_plain(*s->next))
      s->next++;
    unsigned char c = *s->next;
    if (c == '"') break;
    if (c == '\\') {
      if (!scan_escape(s)) return false;
    } else if (c >= 0x80) {
      size_t size = json_utf8(s->next, (size_t)(s->end - s->next));
      if (size == 0) return fail(s, s->next, "invalid UTF-8");
      s->next += size;
    } else if (s->next == s->end) {
      return fail(s, start, "a string without its closing quote");
    } else {
      return fail(s, s->next,
                  "a control character in a string must be escaped");
    }
  }
  s->next++;
  return true;
}

// Numbers

static const unsigned char *skip_digits(const unsigned char *p) {
  while (is_digit(*p))
    p++;
  return p;
}

// Whether a number with this fraction stays a fraction as a double: among the
// digits that a double surely keeps, one is neither 0 nor 9.
static bool stays_fraction(const unsigned char *fraction, ptrdiff_t whole) {
  for (ptrdiff_t room = EXACT_DIGITS - whole; room > 0; room--, fraction++) {
    if (*fraction >= '1' && *fraction <= '8') return true;
    if (!is_digit(*fraction)) return false;
  }
  return false;
}

// What lua-cjson reads as a double with no fraction becomes an integer later,
// so that a number goes through lua-cjson only where this gives its value back.
static bool scan_number(Scanner *s) {
  const unsigned char *start = s->next;
  const unsigned char *digits = start + (*start == '-');
  if (!is_digit(*digits)) return fail(s, digits, "expected a digit");
  const unsigned char *p = skip_digits(digits);
  ptrdiff_t whole = p - digits;
  if (*digits == '0' && whole > 1)
    return fail(s, digits, "a number must not begin with 0");

  bool exact = whole <= EXACT_DIGITS;
  if (*p == '.') {
    const unsigned char *fraction = p + 1;
    p = skip_digits(fraction);
    if (p == fraction) return fail(s, p, "expected a digit after the point");
    exact = s->point && stays_fraction(fraction, whole);
  }
  bool large = p - start > 300;
  if (*p == 'e' || *p == 'E') {
    p++;
    if (*p == '+' || *p == '-') p++;
    const unsigned char *exponent = p;
    p = skip_digits(p);
    if (p == exponent) return fail(s, p, "expected a digit in the exponent");
    exact = false;
    large = large || p - exponent > 2;
  }
  if (large && isinf(strtod((const char *)start, NULL)))
    return fail(s, start, "a number too large for a double");
  s->next = p;
  if (!exact) carry(s, start);
  return true;
}

// Values

static bool scan_word(Scanner *s, const char *word) {
  size_t length = strlen(word);
  if (strncmp((const char *)s->next, word, length) != 0)
    return fail(s, s->next, "expected a value");
  s->next += length;
  return true;
}

// At an opening bracket or brace. Returns false once nested too deeply.
static bool scan_open(Scanner *s) {
  if (s->depth == JSON_MAX_DEPTH) return fail(s, s->next, "nested too deeply");
  s->depth++;
  s->next++;
  skip_space(s);
  return true;
}

static bool scan_close(Scanner *s) {
  s->depth--;
  s->next++;
  return true;
}

static bool scan_array(Scanner *s) {
  const unsigned char *start = s->next;
  if (!scan_open(s)) return false;
  if (*s->next == ']') {
    (void)scan_close(s);  // always succeeds
    carry(s, start);
    return true;
  }
  for (;;) {
    if (!scan_value(s)) return false;
    skip_space(s);
    if (*s->next == ']') return scan_close(s);
    if (*s->next != ',') return fail(s, s->next, "expected ',' or ']'");
    s->next++;
    skip_space(s);
  }
}

static bool scan_object(Scanner *s) {
  if (!scan_open(s)) return false;
  if (*s->next == '}') return scan_close(s);
  for (;;) {
    if (*s->next != '"') return fail(s, s->next, "expected a name in quotes");
    if (!scan_string(s)) return false;
    skip_space(s);
    if (*s->next != ':') return fail(s, s->next, "expected ':'");
    s->next++;
    skip_space(s);
    if (!scan_value(s)) return false;
    skip_space(s);
    if (*s->next == '}') return scan_close(s);
    if (*s->next != ',') return fail(s, s->next, "expected ',' or '}'");
    s->next++;
    skip_space(s);
  }
}

// Recursion is bounded by JSON_MAX_DEPTH.
static bool scan_value(Scanner *s) {
  switch (*s->next) {
  case '{':
    return scan_object(s);
  case '[':
    return scan_array(s);
  case '"':
    return scan_string(s);
  case 't':
    return scan_word(s, "true");
  case 'f':
    return scan_word(s, "false");
  case 'n':
    return scan_word(s, "null");
  case 'N':
  case 'I':
    return fail(s, s->next, "expected a value (JSON has no NaN or Infinity)");
  default:
    if (*s->next == '-' || is_digit(*s->next)) return scan_number(s);
    if (s->next == s->end) return fail(s, s->next, "the text ends too early");
    return fail(s, s->next, "expected a value");
  }
}

static bool scan_text(Scanner *s) {
  if (strncmp((const char *)s->next, "\xEF\xBB\xBF", 3) == 0)
    return fail(s, s->next, "a byte order mark is not JSON");
  skip_space(s);
  if (!scan_value(s)) return false;
  skip_space(s);
  if (s->next != s->end)
    return fail(s, s->next, "expected the end of the text");
  return true;
}

static Scanner scanner(const char *text, size_t length, char *out) {
  const unsigned char *start = (const unsigned char *)text;
  return (Scanner){
      .next = start,
      .end = start + length,
      .copied = start,
      .out = (unsigned char *)out,
      .point = *localeconv()->decimal_point == '.',
  };
}

JsonCheck json_check(const char *text, size_t length) {
  Scanner s = scanner(text, length, NULL);
  (void)scan_text(&s);  // the verdict is in s.problem
  return (JsonCheck){
      .problem = s.problem,
      .offset = (size_t)(s.next - (const unsigned char *)text),
      .carried = s.carried,
  };
}

size_t json_carry_size(size_t length, size_t carried) {
  return length + 3 * carried;  // two quotes and the mark
}

void json_carry(const char *text, size_t length, char *out) {
  Scanner s = scanner(text, length, out);
  (void)scan_text(&s);  // a good text
  emit(&s, s.copied, (size_t)(s.end - s.copied));
}
