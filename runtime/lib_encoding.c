// sbx.core.encoding: base64 by libcrypto, hexadecimal digits, UTF-8.
//
// Decoding takes exactly what encoding writes; everything else is refused with
// the place, for libcrypto would skip blanks and take "=" anywhere.

#include <lauxlib.h>
#include <limits.h>
#include <openssl/evp.h>
#include <string.h>

#include "json_text.h"
#include "luax.h"

// libcrypto counts base64 in an int.
#define MAX_BASE64 ((size_t)INT_MAX / 2)

// Raises kind `syntax`, with the place in `byte`, from 1.
static int refuse(lua_State *L, const char *what, size_t offset,
                  const char *problem) {
  lua_createtable(L, 0, 5);
  lua_pushliteral(L, "syntax");
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, what);
  lua_setfield(L, -2, "op");
  lua_pushinteger(L, (lua_Integer)offset + 1);
  lua_setfield(L, -2, "byte");
  lua_pushfstring(L, "%s: byte %I: %s", what, (lua_Integer)offset + 1, problem);
  lua_setfield(L, -2, "message");
  luaL_setmetatable(L, ERROR_TYPE);
  return lua_error(L);
}

// Base64

typedef struct Alphabet {
  const char *decode;  // what Lua calls it
  char high[2];        // for 62 and 63
  bool padded;         // "=" is written; else it may be there
} Alphabet;

static const Alphabet plain = {
    "base64_decode", {'+', '/'},
     true
};
static const Alphabet for_urls = {
    "base64url_decode", {'-', '_'},
     false
};

// The six bits that the character stands for, or -1.
static int value_of(const Alphabet *alphabet, char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == alphabet->high[0]) return 62;
  return c == alphabet->high[1] ? 63 : -1;
}

static int encode(lua_State *L, const Alphabet *alphabet) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length <= MAX_BASE64, 1, "too long");
  luaL_Buffer buffer;
  size_t room = (length + 2) / 3 * 4 + 1;  // libcrypto adds a zero byte
  char *out = luaL_buffinitsize(L, &buffer, room);
  size_t size = (size_t)EVP_EncodeBlock(
      (unsigned char *)out, (const unsigned char *)bytes, (int)length);
  if (!alphabet->padded) {
    while (size > 0 && out[size - 1] == '=')
      size--;
    for (size_t i = 0; i < size; i++) {
      if (out[i] == '+') out[i] = '-';
      if (out[i] == '/') out[i] = '_';
    }
  }
  luaL_pushresultsize(&buffer, size);
  return 1;
}

// base64(bytes) → text without line breaks
static int f_base64(lua_State *L) {
  return encode(L, &plain);
}

// base64url(bytes) → text without line breaks and "="
static int f_base64url(lua_State *L) {
  return encode(L, &for_urls);
}

// Raises unless the text is what encoding writes. Returns the number of its
// characters before any "=".
static size_t check_base64(lua_State *L, const Alphabet *alphabet,
                           const char *text, size_t length) {
  size_t digits = 0;
  while (digits < length && value_of(alphabet, text[digits]) >= 0)
    digits++;
  size_t padding = length - digits;
  size_t wanted = (4 - digits % 4) % 4;
  for (size_t i = 0; i < padding; i++) {
    if (text[digits + i] != '=' || i == wanted || wanted == 3)
      refuse(L, alphabet->decode, digits + i, "not expected here");
  }
  if (wanted == 3 || (padding < wanted && (padding > 0 || alphabet->padded)))
    refuse(L, alphabet->decode, length, "the text ends too early");
  // The last character has bits that no byte gets.
  int unused = wanted == 0 ? 0 : wanted == 1 ? 3 : 15;
  if (unused != 0 && (value_of(alphabet, text[digits - 1]) & unused) != 0)
    refuse(L, alphabet->decode, digits - 1, "bits beyond the last byte");
  return digits;
}

static int decode(lua_State *L, const Alphabet *alphabet) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length <= MAX_BASE64, 1, "too long");
  size_t digits = check_base64(L, alphabet, text, length);

  // libcrypto wants the plain alphabet, and whole groups of four. It writes
  // three bytes for each, into the front half of the same room.
  size_t groups = (digits + 3) / 4;
  luaL_Buffer buffer;
  char *room = luaL_buffinitsize(L, &buffer, groups * 7 + 1);
  char *copy = room + groups * 3;
  memset(copy, 'A', groups * 4);
  for (size_t i = 0; i < digits; i++) {
    copy[i] = text[i];
    if (text[i] == alphabet->high[0]) copy[i] = '+';
    if (text[i] == alphabet->high[1]) copy[i] = '/';
  }
  int size = EVP_DecodeBlock((unsigned char *)room, (unsigned char *)copy,
                             (int)(groups * 4));
  if (size < 0)
    return raise_kind(L, "io", NULL, "%s: libcrypto failed", alphabet->decode);
  luaL_pushresultsize(&buffer, digits / 4 * 3 + digits % 4 * 3 / 4);
  return 1;
}

// base64_decode(text) → bytes; raises kind `syntax`
static int f_base64_decode(lua_State *L) {
  return decode(L, &plain);
}

// base64url_decode(text) → bytes; raises kind `syntax`
static int f_base64url_decode(lua_State *L) {
  return decode(L, &for_urls);
}

// Hexadecimal digits

// hex(bytes) → two lower-case digits for each
static int f_hex(lua_State *L) {
  static const char digits[] = "0123456789abcdef";
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length <= MAX_BASE64, 1, "too long");
  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, 2 * length);
  for (size_t i = 0; i < length; i++) {
    *out++ = digits[(unsigned char)bytes[i] >> 4];
    *out++ = digits[(unsigned char)bytes[i] & 15];
  }
  luaL_pushresultsize(&buffer, 2 * length);
  return 1;
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  char small = (char)(c | 0x20);
  return small >= 'a' && small <= 'f' ? small - 'a' + 10 : -1;
}

// hex_decode(text) → bytes; raises kind `syntax`
static int f_hex_decode(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, length / 2);
  for (size_t i = 0; i < length; i++) {
    int value = hex_value(text[i]);
    if (value < 0) return refuse(L, "hex_decode", i, "not a hexadecimal digit");
    if (i % 2 == 0)
      out[i / 2] = (char)(value << 4);
    else
      out[i / 2] = (char)(out[i / 2] | value);
  }
  if (length % 2 != 0)
    return refuse(L, "hex_decode", length, "the text ends too early");
  luaL_pushresultsize(&buffer, length / 2);
  return 1;
}

// UTF-8

// utf8_valid(bytes) → true; or false and the place of the first bad byte
static int f_utf8_valid(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  const char *bad = json_bad_utf8(bytes, length);
  lua_pushboolean(L, bad == NULL);
  if (bad == NULL) return 1;
  lua_pushinteger(L, bad - bytes + 1);
  return 2;
}

// How many bytes at `text`, the first of which is bad, count as one mistake:
// the longest beginning of a sequence that could have been good.
static size_t mistake_size(const unsigned char *text, size_t length) {
  size_t whole = text[0] < 0xE0 ? 2 : text[0] < 0xF0 ? 3 : 4;
  if (text[0] < 0xC2 || text[0] > 0xF4) return 1;
  unsigned char trial[4] = {text[0], 0x80, 0x80, 0x80};
  if (text[0] == 0xE0) trial[1] = 0xA0;
  if (text[0] == 0xF0) trial[1] = 0x90;
  size_t size = 1;
  while (size < whole && size < length) {
    trial[size] = text[size];
    if (json_utf8(trial, whole) == 0) break;
    size++;
  }
  return size;
}

// utf8_clean(bytes, replacement) → text in which each mistake is replaced
static int f_utf8_clean(lua_State *L) {
  size_t length, size;
  const char *bytes = luaL_checklstring(L, 1, &length);
  const char *replacement = luaL_checklstring(L, 2, &size);
  const char *end = bytes + length;
  const char *bad = json_bad_utf8(bytes, length);
  if (bad == NULL) {
    lua_settop(L, 1);
    return 1;
  }
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  while (bad != NULL) {
    luaL_addlstring(&buffer, bytes, (size_t)(bad - bytes));
    luaL_addlstring(&buffer, replacement, size);
    bytes = bad + mistake_size((const unsigned char *)bad, (size_t)(end - bad));
    bad = json_bad_utf8(bytes, (size_t)(end - bytes));
  }
  luaL_addlstring(&buffer, bytes, (size_t)(end - bytes));
  luaL_pushresult(&buffer);
  return 1;
}

static const luaL_Reg functions[] = {
    {"base64",           f_base64          },
    {"base64_decode",    f_base64_decode   },
    {"base64url",        f_base64url       },
    {"base64url_decode", f_base64url_decode},
    {"hex",              f_hex             },
    {"hex_decode",       f_hex_decode      },
    {"utf8_valid",       f_utf8_valid      },
    {"utf8_clean",       f_utf8_clean      },
    {NULL,               NULL              },
};

int luaopen_sbx_core_encoding(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
