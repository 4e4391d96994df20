---@meta sbx.core.hash
-- Digests, HMAC and random bytes. Algorithms: "sha256", "sha512", "sha1", "md5".

---@class sbx.core.hash
local hash = {}

---A running digest.
---@class sbx.Hash
local Hash = {}

---@param bytes string
---@return sbx.Hash
function Hash:update(bytes) end

---The digest of all bytes so far as hexadecimal digits; more may follow.
---@return string
function Hash:hex() end

---The same as bytes.
---@return string
function Hash:bytes() end

---@param algorithm string
---@param bytes string
---@return string hex
function hash.digest(algorithm, bytes) end

---@param algorithm string
---@param key string
---@param bytes string
---@return string hex
function hash.hmac(algorithm, key, bytes) end

---@param algorithm string
---@return sbx.Hash
function hash.new(algorithm) end

---@param n integer  1 to 1048576
---@return string bytes
function hash.random(n) end

---@param a string
---@param b string
---@return boolean
function hash.equal(a, b) end

return hash
