-- The two ways in which a caller may speak of a sandbox's network: the older
-- `network_access`, and the newer lists. A container here has the whole network
-- or none, so only those two policies are accepted.

local text = require("sbx.server.text")

local network = {}

local MAX_ENTRIES = 256

local function list_problem(list)
  if not text.is_list(list) then return "expected a list of strings" end
  if #list > MAX_ENTRIES then return "at most 256 entries" end
  for _, entry in ipairs(list) do
    if type(entry) ~= "string" or not entry:find("%S") then
      return "expected a list of non-empty strings"
    end
  end
  if #list > 0 then
    return "this server's sandboxes have the whole network or none: only an empty list is accepted"
  end
end

---Finds out whether a sandbox shall have a network. Each argument may be nil.
---Returns the answer, or nil with the culprit's name and what is wrong with it.
---@param access boolean|nil
---@param allowlist any
---@param denylist any
---@return boolean|nil enabled
---@return string|nil param
---@return string|nil problem
function network.decide(access, allowlist, denylist)
  if allowlist ~= nil and denylist ~= nil then
    return nil, "network_allowlist", "give network_allowlist or network_denylist, not both"
  end
  local name = allowlist ~= nil and "network_allowlist" or "network_denylist"
  local list = allowlist
  if list == nil then list = denylist end
  if list == nil then return access ~= false end

  local problem = list_problem(list)
  if problem then return nil, name, problem end
  -- An explicit true is what older clients always send: the list says more.
  if access == false and denylist ~= nil then
    return nil, "network_access", "false contradicts network_denylist"
  end
  return allowlist == nil
end

return network
