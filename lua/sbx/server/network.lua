-- The two ways in which a caller may speak of a sandbox's network: the older
-- `network_access`, and the newer lists, which only virtual machines have. Lists with
-- entries need a driver that can enforce them.

local rules = require("sbx.sandbox.egress")
local text = require("sbx.server.text")

local network = {}

---@class sbx.server.network.Abilities
---@field lists? boolean  the driver enforces lists with entries
---@field vm? boolean     the sandbox is a virtual machine

local function why_no_entries(can)
  if can.vm then
    return "this server's driver gives a sandbox the whole network or none: only an empty"
      .. " list is accepted"
  end
  return "containers have the whole network or none: only an empty list is accepted; lists"
    .. " with entries need vm = true"
end

---Checks a list of where sandboxes may, or may not, connect to.
---@param name string  of the field
---@param list any
---@param can? sbx.server.network.Abilities
---@return string[]|nil entries  trimmed
---@return string|nil problem
function network.list(name, list, can)
  can = can or {}
  if not text.is_list(list) then return nil, "expected a list of strings" end
  local ok, entries = pcall(rules.list, list, name)
  if not ok then return nil, tostring(entries):gsub("^" .. name .. ":? ?", "", 1) end
  if #entries > 0 and not can.lists then return nil, why_no_entries(can) end
  for _, entry in ipairs(entries) do
    if entry:sub(1, 2) == "*." then
      return nil, ("%q: names are looked up when a policy is applied, which no wildcard can be;"
        .. " name each host"):format(entry)
    end
  end
  return entries
end

---Finds out whether a sandbox shall have a network. Each of the first three may be nil.
---Returns the answer, or nil with the culprit's name and what is wrong with it.
---@param access boolean|nil
---@param allowlist any
---@param denylist any
---@param can? sbx.server.network.Abilities
---@return boolean|nil enabled  false: it reaches nothing
---@return string|nil param
---@return string|nil problem
function network.decide(access, allowlist, denylist, can)
  if allowlist ~= nil and denylist ~= nil then
    return nil, "network_allowlist", "give network_allowlist or network_denylist, not both"
  end
  local name = allowlist ~= nil and "network_allowlist" or "network_denylist"
  local list = allowlist
  if list == nil then list = denylist end
  if list == nil then return access ~= false end

  local entries, problem = network.list(name, list, can)
  if not entries then return nil, name, problem end
  -- An explicit true is what older clients always send: the list says more.
  if access == false and (denylist ~= nil or #entries > 0) then
    return nil, "network_access", "false contradicts " .. name
  end
  return allowlist == nil or #entries > 0
end

return network
