---@meta sbx.core.errors
-- What C and Lua share of error objects.

---@class sbx.core.errors
---@field metatable table  of every error object
local errors = {}

---@param status integer  a libuv status, below 0
---@return string name     "ENOENT"
---@return string meaning  "no such file or directory"
function errors.code_text(status) end

return errors
