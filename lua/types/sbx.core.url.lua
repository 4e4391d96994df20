---@meta sbx.core.url
-- libcurl's URL parser. All values are as they stand in the URL.

---@class sbx.core.url
local url = {}

---@class sbx.core.url.Parts
---@field scheme string
---@field user? string
---@field password? string
---@field options? string  of a mail login: "auth=PLAIN"
---@field host? string     an IPv6 address in brackets
---@field zone? string     of an IPv6 address
---@field port? string
---@field path string
---@field query? string
---@field fragment? string

---Nil, and why, for what is no URL.
---@param text string  up to 1 MiB
---@return sbx.core.url.Parts|nil, string|nil
function url.split(text) end

return url
