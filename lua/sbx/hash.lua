-- Digests, random tokens, base64, and comparing secrets.

local core = require("sbx.core.hash")
local fs = require("sbx.fs")

local CHUNK = 256 * 1024

---@class sbx.hash
local hash = {}

---Returns the SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
---@param bytes string
---@return string
function hash.sha256(bytes)
  return core.sha256(bytes)
end

---Returns a running SHA-256: `h:update(bytes)` adds to it and returns `h`,
---`h:hex()` is the digest of all bytes so far.
---@return sbx.Sha256
function hash.sha256_new()
  return core.sha256_new()
end

---Returns the SHA-256 of a file's content as hexadecimal digits, and its size in
---bytes as it was read. Needs little memory however large the file. Waits.
---Raises what fs.open and reading raise, such as kind `io`.
---@async
---@param path string
---@return string, integer
function hash.sha256_file(path)
  local running, size = core.sha256_new(), 0
  local file <close> = fs.open(path, "r")
  for bytes in function() return file:read(CHUNK) end do
    running:update(bytes)
    size = size + #bytes
  end
  return running:hex(), size
end

---Returns `n` random bytes, fit for a secret, as 2n hexadecimal digits.
---@param n integer  bytes, from 1 to 4096
---@return string
function hash.random_hex(n)
  return core.random_hex(n)
end

---Returns `bytes` as base64 (RFC 4648, with "=") on one line.
---@param bytes string
---@return string
function hash.base64(bytes)
  return core.base64(bytes)
end

---Returns the bytes that a text of `hash.base64` stands for. Raises an error of
---kind `base64` for anything else, blanks and line breaks included.
---@param text string
---@return string
function hash.base64_decode(text)
  return core.base64_decode(text)
end

---Whether two strings are the same bytes, in a time that depends on their
---lengths alone: for comparing secrets.
---@param a string
---@param b string
---@return boolean
function hash.equal(a, b)
  return core.equal(a, b)
end

return hash
