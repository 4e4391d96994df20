-- From what a sandbox may reach to the routes that see to it. A narrower route beats a
-- wider one, so that what is fenced off stays so whatever is allowed around it.

local errors = require("sbx.errors")
local net = require("sbx.net")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_policy
local policy = {}

local RESOLVE_SECONDS = 5
local RESOLVED_AT_ONCE = 16

-- Private networks and link-local addresses, and what is no host. The sandbox's own
-- network, 10.0.2.0/24, is among them: but for the name server, nothing in it is for it.
local FENCED = {
  "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
  "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
}

---@class sbx.server.driver.bwrap.NetworkPlan
---@field closed boolean     nothing at all can be reached
---@field allowed? string[]  networks; nil: everything that is not denied
---@field denied string[]    networks
---@field remarks string[]   what became of entries, for the log

-- ------------------------------------------------------------------- networks

---The first address of a network, as a number, and the length of its prefix.
---@param text string  "192.0.2.7" or "192.0.2.0/24"; host bits may be set
---@return integer|nil first  nil: it is no such thing
---@return integer|nil length
function policy.parse(text)
  local address, slash = text:match("^([%d.]+)(.*)$")
  if not address then return nil end
  local length = 32
  if slash ~= "" then
    length = math.tointeger(tonumber(slash:match("^/(%d%d?)$")))
  end
  if not length or length > 32 then return nil end
  local number, count = 0, 0
  for part in (address .. "."):gmatch("([^.]*)%.") do
    local byte = part:find("^%d%d?%d?$") and math.tointeger(tonumber(part))
    if not byte or byte > 255 then return nil end
    number, count = number << 8 | byte, count + 1
  end
  if count ~= 4 then return nil end
  return number & ~((1 << 32 - length) - 1), length
end

---@param first integer
---@param length integer
---@return string
function policy.format(first, length)
  return ("%d.%d.%d.%d/%d"):format(first >> 24, first >> 16 & 255, first >> 8 & 255, first & 255,
    length)
end

-- Whether all of one network is in another of the list.
local function is_within(first, length, list)
  for _, text in ipairs(list) do
    local other, wider = policy.parse(text)
    if wider <= length and first & ~((1 << 32 - wider) - 1) == other then return true end
  end
  return false
end

-- ---------------------------------------------------------------------- entries

local function addresses_of(name)
  local list = {}
  for _, address in ipairs(task.timeout(RESOLVE_SECONDS, net.resolve, name)) do
    if policy.parse(address) then list[#list + 1] = address end
  end
  return list
end

-- The networks that an entry of a list stands for.
local function networks_of(entry, remarks)
  entry = entry:match("^%s*(.-)%s*$")
  local first, length = policy.parse(entry)
  if first then return { policy.format(first, length) } end
  if entry:find("*", 1, true) then
    errors.raise {
      kind = "unsupported",
      message = ("network rule '%s': this server decides by addresses, and a name with * has none:"
        .. " name the hosts"):format(entry:sub(1, 100)),
    }
  end
  local found, failure = errors.try(addresses_of, entry)
  if not found or #found == 0 then
    remarks[#remarks + 1] = ("%s has no IPv4 address now%s"):format(entry:sub(1, 253),
      failure and " (" .. tostring(failure) .. ")" or "")
    return {}
  end
  remarks[#remarks + 1] = ("%s stands for %s"):format(entry, table.concat(found, ", "))
  for index, address in ipairs(found) do
    found[index] = address .. "/32"
  end
  return found
end

local function networks_of_all(list, remarks)
  local all, seen = {}, {}
  for _, networks in ipairs(task.map(list, function(entry)
    return networks_of(entry, remarks)
  end, { limit = RESOLVED_AT_ONCE })) do
    for _, network in ipairs(networks) do
      if not seen[network] then
        seen[network] = true
        all[#all + 1] = network
      end
    end
  end
  return all
end

---What the rules mean; host names are looked up now. Raises `unsupported` for a name
---with a wildcard.
---@async
---@param rules? {allowlist: string[]|nil, denylist: string[]|nil}  nil: everything
---@return sbx.server.driver.bwrap.NetworkPlan
function policy.plan(rules)
  local plan = { closed = false, denied = {}, remarks = {} }
  if rules and rules.allowlist then
    plan.closed = #rules.allowlist == 0
    plan.allowed = networks_of_all(rules.allowlist, plan.remarks)
  elseif rules and rules.denylist then
    plan.denied = networks_of_all(rules.denylist, plan.remarks)
  end
  return plan
end

-- ----------------------------------------------------------------------- routes

---The lines for `ip -batch` that fill a routing table, which must be empty.
---@param plan sbx.server.driver.bwrap.NetworkPlan
---@param options {table: integer, out: string, nameserver: string|nil, own: string[]}
---  `out`: the words of a route that leads out; `own`: networks fenced off besides
---@return string[]
function policy.routes(plan, options)
  local lines, fenced = {}, table.move(options.own, 1, #options.own, #FENCED + 1,
    table.move(FENCED, 1, #FENCED, 1, {}))
  local function route(network, way)
    lines[#lines + 1] = ("route replace %s table %d\n"):format(
      way == "unreachable" and "unreachable " .. network or network .. " " .. way, options.table)
  end
  local is_open = not plan.closed and not plan.allowed
  route("default", is_open and options.out or "unreachable")
  for _, network in ipairs(not plan.closed and plan.allowed or {}) do
    local first, length = policy.parse(network)
    if not is_within(first, length, fenced) then
      route(network == "0.0.0.0/0" and "default" or network, options.out)
    end
  end
  for _, network in ipairs(plan.denied) do
    route(network == "0.0.0.0/0" and "default" or network, "unreachable")
  end
  for _, network in ipairs(fenced) do
    route(network, "unreachable")
  end
  if options.nameserver and not plan.closed then
    route(options.nameserver .. "/32", options.out)
  end
  return lines
end

return policy
