-- Digests, random bytes and comparing secrets.

local check = require("sbx.check")
local core = require("sbx.core.hash")
local encoding = require("sbx.encoding")
local fs = require("sbx.fs")

local CHUNK = 256 * 1024
local MAX_RANDOM = 1024 * 1024

---@alias sbx.hash.Algorithm "sha256"|"sha512"|"sha1"|"md5"

---@class sbx.hash
local hash = {}

local algorithms = { sha256 = true, sha512 = true, sha1 = true, md5 = true }

local function check_algorithm(name, level)
  if algorithms[name] then return name end
  error("algorithm: expected sha256, sha512, sha1 or md5, got " .. tostring(name), level + 1)
end

-- ------------------------------------------------------------------ at one go

---The SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
---@param bytes string
---@return string
function hash.sha256(bytes)
  return core.digest("sha256", check.string(bytes, "bytes"))
end

---The SHA-512 of `bytes` as hexadecimal digits.
---@param bytes string
---@return string
function hash.sha512(bytes)
  return core.digest("sha512", check.string(bytes, "bytes"))
end

---The SHA-1 of `bytes`. Not for security: for names and protocols that want it.
---@param bytes string
---@return string
function hash.sha1(bytes)
  return core.digest("sha1", check.string(bytes, "bytes"))
end

---The MD5 of `bytes`. Not for security: for names and protocols that want it.
---@param bytes string
---@return string
function hash.md5(bytes)
  return core.digest("md5", check.string(bytes, "bytes"))
end

---The HMAC of `bytes` as hexadecimal digits: only who has the key can make it.
---Compare it with `hash.equal`.
---@param algorithm sbx.hash.Algorithm
---@param key string
---@param bytes string
---@return string
function hash.hmac(algorithm, key, bytes)
  check_algorithm(algorithm, 2)
  return core.hmac(algorithm, check.string(key, "key"), check.string(bytes, "bytes"))
end

-- -------------------------------------------------------------- piece by piece

---A running digest: `h:update(bytes)` adds to it and returns `h`; `h:hex()` is the
---digest of all bytes so far, `h:bytes()` the same as bytes.
---@param algorithm? sbx.hash.Algorithm  default "sha256"
---@return sbx.Hash
function hash.new(algorithm)
  return core.new(check_algorithm(algorithm or "sha256", 2))
end

---@return sbx.Hash
function hash.sha256_new()
  return core.new("sha256")
end

---The digest of a file's content as hexadecimal digits, and its size in bytes as
---it was read. Needs little memory however large the file. Raises what fs.open and
---reading raise, such as kind `io`.
---@async
---@param path string
---@param algorithm? sbx.hash.Algorithm  default "sha256"
---@return string, integer
function hash.file(path, algorithm)
  local running, size = core.new(check_algorithm(algorithm or "sha256", 2)), 0
  local file <close> = fs.open(check.string(path, "path"), "r")
  for bytes in function() return file:read(CHUNK) end do
    running:update(bytes)
    size = size + #bytes
  end
  return running:hex(), size
end

---@async
---@param path string
---@return string, integer
function hash.sha256_file(path)
  check.string(path, "path")
  local digest, size = hash.file(path)
  return digest, size
end

-- ---------------------------------------------------------------------- random

---`n` random bytes, fit for a secret.
---@param n integer  from 1 to 1048576
---@return string
function hash.random_bytes(n)
  return core.random(check.integer(n, "n", 1, MAX_RANDOM))
end

---The same as 2n hexadecimal digits.
---@param n integer  bytes, from 1 to 1048576
---@return string
function hash.random_hex(n)
  return encoding.hex(core.random(check.integer(n, "n", 1, MAX_RANDOM)))
end

---A random UUID (RFC 9562, version 4): "f81d4fae-7dec-4d1d-a765-00a0c91e6bf6".
---@return string
function hash.uuid()
  local a, b, c, d, e = string.unpack(">I4I2I2I2I6", core.random(16))
  c, d = c & 0x0FFF | 0x4000, d & 0x3FFF | 0x8000
  return ("%08x-%04x-%04x-%04x-%012x"):format(a, b, c, d, e)
end

-- ---------------------------------------------------------------- and the rest

---Whether two strings are the same bytes, in a time that depends on their
---lengths alone: for comparing secrets.
---@param a string
---@param b string
---@return boolean
function hash.equal(a, b)
  return core.equal(check.string(a, "a"), check.string(b, "b"))
end

hash.base64 = encoding.base64
hash.base64_decode = encoding.base64_decode

return hash
