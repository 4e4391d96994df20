// What lua-cjson 2.1.0 cannot do with text, on either side of it. Plain C.
//
// lua-cjson would round long numbers, forget whether a number was written as a
// whole one, and turn an empty array into an object. Such tokens travel through
// it as strings, "carried": the byte CARRIER and then the JSON token itself. No
// other string begins with that byte, because both sides insist on UTF-8, in
// which it never occurs.

#ifndef SBX_JSON_TEXT_H
#define SBX_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#define CARRIER 0xFF
#define JSON_MAX_DEPTH 512  // tables in tables; lua-cjson stops at 1000

// What json_check found out about a text.
typedef struct JsonCheck {
  const char *problem;  // static text, or NULL for a good text
  size_t offset;        // of the problem, in bytes from the start
  size_t carried;       // tokens that lua-cjson would not keep exactly
} JsonCheck;

// Says whether the text is one JSON value by RFC 8259, in UTF-8, with numbers
// that fit a double and no more than JSON_MAX_DEPTH levels. A zero byte must
// follow the text, as in every Lua string.
JsonCheck json_check(const char *text, size_t length);

// The size of a good text once its `carried` tokens are carried.
size_t json_carry_size(size_t length, size_t carried);

// Writes a good text to `out`, which has room for json_carry_size bytes, with
// its inexact tokens carried.
void json_carry(const char *text, size_t length, char *out);

// The length of the UTF-8 sequence that starts at `text`, of which `length`
// bytes exist; 0 where it is not valid. Refuses surrogates and long forms.
size_t json_utf8(const unsigned char *text, size_t length);

// The first byte of `text` that is not valid UTF-8, or NULL.
const char *json_bad_utf8(const char *text, size_t length);

// Rewrites what lua-cjson wrote: carried tokens become themselves, `\/` becomes
// `/`, an array that begins with the carried token `{` becomes the object whose
// names and values it lists, and `pretty` adds line breaks and two spaces a
// level. Returns the size; where `out` is not NULL, also writes that much.
// Without `pretty` the size is at most `length`.
size_t json_print(const char *json, size_t length, bool pretty, char *out);

#endif
