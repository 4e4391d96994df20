---@meta sbx.core.hash

---@class sbx.core.hash
local hash = {}

---@class sbx.Sha256
local Sha256 = {}

---@param bytes string
---@return sbx.Sha256
function Sha256:update(bytes) end

---@return string
function Sha256:hex() end

---@param bytes string
---@return string
function hash.sha256(bytes) end

---@return sbx.Sha256
function hash.sha256_new() end

---@param n integer  bytes, from 1 to 4096
---@return string
function hash.random_hex(n) end

---@param bytes string
---@return string
function hash.base64(bytes) end

---Raises kind `base64`.
---@param text string
---@return string
function hash.base64_decode(text) end

---@param a string
---@param b string
---@return boolean
function hash.equal(a, b) end

return hash
