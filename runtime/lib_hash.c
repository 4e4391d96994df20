// sbx.core.hash: digests, random bytes and base64, by libcrypto.

#include <lua.h>

#include <lauxlib.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "luax.h"

#define SHA256_TYPE "sbx.sha256"
#define MAX_RANDOM 4096

// libcrypto counts base64 in an int.
#define MAX_BASE64 (INT_MAX / 2)

typedef struct Sha256 {
  EVP_MD_CTX *context;  // NULL while closed
} Sha256;

static int raise_library(lua_State *L, const char *what) {
  return raise_kind(L, "io", NULL, "%s: libcrypto failed", what);
}

static int push_hex(lua_State *L, const unsigned char *bytes, size_t length) {
  static const char digits[] = "0123456789abcdef";
  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, 2 * length);
  for (size_t i = 0; i < length; i++) {
    *out++ = digits[bytes[i] >> 4];
    *out++ = digits[bytes[i] & 15];
  }
  luaL_pushresultsize(&buffer, 2 * length);
  return 1;
}

// sha256(bytes) → hex
static int f_sha256(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size;
  if (!EVP_Digest(bytes, length, digest, &size, EVP_sha256(), NULL))
    return raise_library(L, "sha256");
  return push_hex(L, digest, size);
}

// sha256_new() → h
static int f_sha256_new(lua_State *L) {
  Sha256 *hash = lua_newuserdatauv(L, sizeof(*hash), 0);
  hash->context = NULL;
  luaL_setmetatable(L, SHA256_TYPE);
  hash->context = EVP_MD_CTX_new();
  if (hash->context == NULL ||
      !EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL))
    return raise_library(L, "sha256");
  return 1;
}

static Sha256 *check_sha256(lua_State *L) {
  Sha256 *hash = luaL_checkudata(L, 1, SHA256_TYPE);
  luaL_argcheck(L, hash->context != NULL, 1, "closed");
  return hash;
}

// h:update(bytes) → h
static int f_update(lua_State *L) {
  Sha256 *hash = check_sha256(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  if (!EVP_DigestUpdate(hash->context, bytes, length))
    return raise_library(L, "sha256");
  lua_settop(L, 1);
  return 1;
}

// h:hex() → hex of all bytes so far; more may follow
static int f_hex(lua_State *L) {
  Sha256 *hash = check_sha256(L);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size;
  EVP_MD_CTX *copy = EVP_MD_CTX_new();
  bool ok = copy != NULL && EVP_MD_CTX_copy_ex(copy, hash->context) &&
            EVP_DigestFinal_ex(copy, digest, &size);
  EVP_MD_CTX_free(copy);
  if (!ok) return raise_library(L, "sha256");
  return push_hex(L, digest, size);
}

static int gc_sha256(lua_State *L) {
  Sha256 *hash = luaL_checkudata(L, 1, SHA256_TYPE);
  EVP_MD_CTX_free(hash->context);
  hash->context = NULL;
  return 0;
}

// random_hex(n) → hex of n bytes that nobody can guess
static int f_random_hex(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  luaL_argcheck(L, count >= 1 && count <= MAX_RANDOM, 1, "out of range");
  unsigned char bytes[MAX_RANDOM];
  if (RAND_bytes(bytes, (int)count) != 1) return raise_library(L, "random_hex");
  push_hex(L, bytes, (size_t)count);
  OPENSSL_cleanse(bytes, (size_t)count);
  return 1;
}

// base64(bytes) → text without line breaks
static int f_base64(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length <= MAX_BASE64, 1, "too long");
  luaL_Buffer buffer;
  size_t room = (length + 2) / 3 * 4 + 1;  // libcrypto adds a zero byte
  char *out = luaL_buffinitsize(L, &buffer, room);
  int size = EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)bytes,
                             (int)length);
  luaL_pushresultsize(&buffer, (size_t)size);
  return 1;
}

// libcrypto would skip blanks and take "=" anywhere.
static bool is_base64(const char *text, size_t length, size_t padding) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "abcdefghijklmnopqrstuvwxyz0123456789+/";
  return length % 4 == 0 && strspn(text, alphabet) == length - padding;
}

// base64_decode(text) → bytes; raises kind `base64`
static int f_base64_decode(lua_State *L) {
  size_t length, padding = 0;
  const char *text = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length <= MAX_BASE64, 1, "too long");
  while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
    padding++;
  if (!is_base64(text, length, padding))
    return raise_kind(L, "base64", NULL, "base64_decode: not base64");

  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, length / 4 * 3 + 1);
  int size = EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)text,
                             (int)length);
  if (size < 0) return raise_library(L, "base64_decode");
  luaL_pushresultsize(&buffer, (size_t)size - padding);
  return 1;
}

// equal(a, b) → boolean; the time taken does not depend on where they differ
static int f_equal(lua_State *L) {
  size_t length, other;
  const char *a = luaL_checklstring(L, 1, &length);
  const char *b = luaL_checklstring(L, 2, &other);
  lua_pushboolean(L, length == other && CRYPTO_memcmp(a, b, length) == 0);
  return 1;
}

static const luaL_Reg methods[] = {
    {"update", f_update},
    {"hex",    f_hex   },
    {NULL,     NULL    },
};

static const luaL_Reg functions[] = {
    {"sha256",        f_sha256       },
    {"sha256_new",    f_sha256_new   },
    {"random_hex",    f_random_hex   },
    {"base64",        f_base64       },
    {"base64_decode", f_base64_decode},
    {"equal",         f_equal        },
    {NULL,            NULL           },
};

int luaopen_sbx_core_hash(lua_State *L) {
  luaL_newmetatable(L, SHA256_TYPE);
  lua_pushcfunction(L, gc_sha256);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
