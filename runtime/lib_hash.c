// sbx.core.hash: digests, HMAC and random bytes, by libcrypto.

#include <lua.h>

#include <lauxlib.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

#include "luax.h"

#define HASH_TYPE "sbx.hash"
#define MAX_RANDOM 1048576

static const struct {
  const char *name;
  const EVP_MD *(*method)(void);
} algorithms[] = {
    {"sha256", EVP_sha256},
    {"sha512", EVP_sha512},
    {"sha1",   EVP_sha1  },
    {"md5",    EVP_md5   },
};

// A running digest.
typedef struct Hash {
  EVP_MD_CTX *context;  // NULL while closed
} Hash;

static int raise_library(lua_State *L, const char *what) {
  return raise_kind(L, "io", NULL, "%s: libcrypto failed", what);
}

static const EVP_MD *check_algorithm(lua_State *L, int index) {
  const char *name = luaL_checkstring(L, index);
  for (size_t i = 0; i < sizeof(algorithms) / sizeof(algorithms[0]); i++) {
    if (strcmp(name, algorithms[i].name) == 0) return algorithms[i].method();
  }
  luaL_error(L, "algorithm: unknown: '%s'; one of sha256 sha512 sha1 md5",
             name);
  return NULL;  // not reached
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

// digest(algorithm, bytes) → hex
static int f_digest(lua_State *L) {
  const EVP_MD *method = check_algorithm(L, 1);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size;
  if (!EVP_Digest(bytes, length, digest, &size, method, NULL))
    return raise_library(L, "digest");
  return push_hex(L, digest, size);
}

// hmac(algorithm, key, bytes) → hex
static int f_hmac(lua_State *L) {
  const EVP_MD *method = check_algorithm(L, 1);
  size_t key_length, length;
  const char *key = luaL_checklstring(L, 2, &key_length);
  const char *bytes = luaL_checklstring(L, 3, &length);
  luaL_argcheck(L, key_length <= INT_MAX, 2, "too long");
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size;
  if (HMAC(method, key, (int)key_length, (const unsigned char *)bytes, length,
           digest, &size) == NULL)
    return raise_library(L, "hmac");
  return push_hex(L, digest, size);
}

// Running digests

// new(algorithm) → h
static int f_new(lua_State *L) {
  const EVP_MD *method = check_algorithm(L, 1);
  Hash *hash = lua_newuserdatauv(L, sizeof(*hash), 0);
  hash->context = NULL;
  luaL_setmetatable(L, HASH_TYPE);
  hash->context = EVP_MD_CTX_new();
  if (hash->context == NULL || !EVP_DigestInit_ex(hash->context, method, NULL))
    return raise_library(L, "new");
  return 1;
}

static Hash *check_hash(lua_State *L) {
  Hash *hash = luaL_checkudata(L, 1, HASH_TYPE);
  luaL_argcheck(L, hash->context != NULL, 1, "closed");
  return hash;
}

// h:update(bytes) → h
static int f_update(lua_State *L) {
  Hash *hash = check_hash(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  if (!EVP_DigestUpdate(hash->context, bytes, length))
    return raise_library(L, "update");
  lua_settop(L, 1);
  return 1;
}

// The digest of all bytes so far, in `digest`, which has room for the largest.
// More bytes may follow. Returns its size.
static size_t finish(lua_State *L, const Hash *hash, unsigned char *digest) {
  unsigned size = 0;
  EVP_MD_CTX *copy = EVP_MD_CTX_new();
  bool ok = copy != NULL && EVP_MD_CTX_copy_ex(copy, hash->context) &&
            EVP_DigestFinal_ex(copy, digest, &size);
  EVP_MD_CTX_free(copy);
  if (!ok) raise_library(L, "digest");
  return size;
}

// h:hex() → hex of all bytes so far
static int f_hex(lua_State *L) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  size_t size = finish(L, check_hash(L), digest);
  return push_hex(L, digest, size);
}

// h:bytes() → the same as bytes
static int f_bytes(lua_State *L) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  size_t size = finish(L, check_hash(L), digest);
  lua_pushlstring(L, (const char *)digest, size);
  return 1;
}

static int gc_hash(lua_State *L) {
  Hash *hash = luaL_checkudata(L, 1, HASH_TYPE);
  EVP_MD_CTX_free(hash->context);
  hash->context = NULL;
  return 0;
}

// Random bytes and secrets

// random(n) → n bytes that nobody can guess
static int f_random(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  luaL_argcheck(L, count >= 1 && count <= MAX_RANDOM, 1,
                "expected 1 to 1048576");
  luaL_Buffer buffer;
  char *bytes = luaL_buffinitsize(L, &buffer, (size_t)count);
  if (RAND_bytes((unsigned char *)bytes, (int)count) != 1)
    return raise_library(L, "random");
  luaL_pushresultsize(&buffer, (size_t)count);
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
    {"bytes",  f_bytes },
    {NULL,     NULL    },
};

static const luaL_Reg functions[] = {
    {"digest", f_digest},
    {"hmac",   f_hmac  },
    {"new",    f_new   },
    {"random", f_random},
    {"equal",  f_equal },
    {NULL,     NULL    },
};

int luaopen_sbx_core_hash(lua_State *L) {
  luaL_newmetatable(L, HASH_TYPE);
  lua_pushcfunction(L, gc_hash);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
