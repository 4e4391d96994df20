---@meta sbx.core.json

---@class sbx.core.json
---@field null lightuserdata
---@field array table   metatable of tables written as [...]
---@field object table  metatable of tables written as {...}
local json = {}

---Raises kind `json` with `byte`, `line` and `column`.
---@param text string
---@return any
function json.decode(text) end

---Raises kind `json` with `path`.
---@param value any
---@param pretty? boolean
---@param sort_keys? boolean
---@return string
function json.encode(value, pretty, sort_keys) end

return json
