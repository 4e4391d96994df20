---@meta sbx.core.encoding
-- Base64, hexadecimal digits, UTF-8. Decoding raises kind `syntax` with `byte`.

---@class sbx.core.encoding
local encoding = {}

---@param bytes string
---@return string
function encoding.base64(bytes) end

---@param text string
---@return string
function encoding.base64_decode(text) end

---@param bytes string
---@return string
function encoding.base64url(bytes) end

---@param text string
---@return string
function encoding.base64url_decode(text) end

---@param bytes string
---@return string
function encoding.hex(bytes) end

---@param text string
---@return string
function encoding.hex_decode(text) end

---@param bytes string
---@return boolean valid
---@return integer|nil byte  the first bad one, from 1
function encoding.utf8_valid(bytes) end

---@param bytes string
---@param replacement string  for each mistake
---@return string
function encoding.utf8_clean(bytes, replacement) end

return encoding
