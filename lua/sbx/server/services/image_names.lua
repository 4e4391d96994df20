-- Names of images in requests: checked, put together and taken apart.

local names = {}

local MAX_NAME, MAX_TAG = 255, 128

---@param name any
---@return boolean
function names.is_name(name)
  return type(name) == "string" and #name <= MAX_NAME
    and name:find("^[%l%d][%l%d%._/:%-]*$") ~= nil
    and not name:find("..", 1, true) and not name:find("//", 1, true)
    and name:find("[%l%d]$") ~= nil
    and not name:match("[^/]*$"):find(":", 1, true) -- a port may be in it, but no tag
end

---@param tag any
---@return boolean
function names.is_tag(tag)
  return type(tag) == "string" and #tag <= MAX_TAG and tag:find("^[%w_][%w_%.%-]*$") ~= nil
end

---The name and the tag in NAME[:TAG].
---@param reference string
---@return string name
---@return string tag
function names.split(reference)
  local name, tag = reference:match("^(.*):([^:/]+)$")
  if name then return name, tag end
  return reference, "latest"
end

---@param name string
---@param tag string
---@return string
function names.join(name, tag)
  return name .. ":" .. tag
end

return names
