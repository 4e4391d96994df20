-- Lists of where a sandbox may connect to, checked entry by entry.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local json = require("sbx.json")

local egress = {}

local MAX_ENTRIES = 256
local MAX_ANSWERED = 4096 -- a server may add some of its own

local function is_ipv4(text)
  local count = 0
  for part in (text .. "."):gmatch("([^.]*)%.") do
    count = count + 1
    if not part:find("^%d%d?%d?$") or #part > 1 and part:sub(1, 1) == "0" then return false end
    if tonumber(part) > 255 then return false end
  end
  return count == 4
end

local function is_prefix_length(text)
  return text:find("^%d%d?$") ~= nil and not text:find("^0%d") and tonumber(text) <= 32
end

-- What is wrong with a host name, or nil.
local function name_problem(name)
  if name == "" then return "has no host name" end
  if #name > 253 then return "is too long for a host name" end
  for label in (name .. "."):gmatch("([^.]*)%.") do
    if label == "" then return "has an empty label" end
    if #label > 63 then return "has a label of more than 63 characters" end
    if label:find("[\128-\255]") then return "is not ASCII: write xn--… for it" end
    if not label:find("^[%w_-]+$") then return "is no host name" end
  end
  if name:match("[^.]*$"):find("^%d+$") then
    return "is no IPv4 address, and no host name ends in a number"
  end
  return nil
end

local function problem(entry)
  if entry == "" then return "is empty" end
  if entry:find("://", 1, true) then return "is a URL: give its host name alone" end
  local address, length = entry:match("^([^/]*)/(.*)$")
  if address then
    local ok = is_ipv4(address) and is_prefix_length(length)
    return not ok and "is no IPv4 network such as 10.0.0.0/8" or nil
  end
  if entry == "*" then return "stands for everything, which no list can hold" end
  if entry:find(":.*:") then return "looks like IPv6, of which there are no rules" end
  if entry:find("[@:?]") then return "is more than a host name or an IPv4 address" end
  if is_ipv4(entry) then return nil end
  local rest = entry:match("^%*%.(.*)$") or entry
  if rest:find("*", 1, true) then return "has a * elsewhere than in front, as in *.example.com" end
  return name_problem(rest)
end

-- Cut, and with what would move the cursor made visible.
local function quoted(text)
  return ("%q"):format(#text > 80 and text:sub(1, 80) .. "…" or text)
end

---The entries of a list, trimmed. Raises a string that names the entry which is neither
---an IPv4 address or network, nor a host name or `*.` and one.
---@param value any
---@param name string  of the option
---@return string[]
function egress.list(value, name)
  check.table(value, name)
  local list = {}
  for i, entry in ipairs(value) do
    local place = ("%s[%d]"):format(name, i)
    if type(entry) ~= "string" then error(place .. ": expected a string", 0) end
    list[i] = entry:match("^%s*(.-)%s*$")
    local why = problem(list[i])
    if why then error(("%s: %s %s"):format(place, quoted(list[i]), why), 0) end
  end
  for key in pairs(value) do
    if not list[key] then error(name .. ": expected a list of strings", 0) end
  end
  if #list > MAX_ENTRIES then
    error(("%s: has %d entries, %d are the most"):format(name, #list, MAX_ENTRIES), 0)
  end
  return json.array(list)
end

-- What `allow` or `deny` stands for: a list, or everything.
local function entries(value, name)
  if type(value) == "string" then value = { value } end
  check.table(value, name)
  if #value == 1 and type(value[1]) == "string" and value[1]:find("^%s*%*%s*$") then return "*" end
  if next(value) == nil then
    error(('%s: is empty; "*" stands for everything'):format(name), 0)
  end
  for i, entry in ipairs(value) do
    if type(entry) == "string" and entry:find("^%s*%*%s*$") then
      error(('%s[%d]: "*" can only stand alone'):format(name, i), 0)
    end
  end
  return egress.list(value, name)
end

-- The first address and the length of the prefix of an IPv4 entry; nil for a name.
local function network_of(entry)
  local address, length = entry:match("^([^/]*)/?(%d*)$")
  if not address or not is_ipv4(address) then return nil end
  local first = 0
  for part in address:gmatch("%d+") do
    first = first << 8 | math.tointeger(part)
  end
  length = math.tointeger(tonumber(length)) or 32
  if length > 32 then return nil end
  return first >> (32 - length) << (32 - length), length
end

local function name_of(entry)
  return (entry:lower():gsub("%.$", ""))
end

-- What a list of an answer holds: its names as a set, its networks; nil for none.
local function contents(list)
  if not answers.is_list(list) or #list > MAX_ANSWERED then return nil end
  local names, networks = {}, {}
  for _, entry in ipairs(list) do
    if type(entry) ~= "string" then return nil end
    local first, length = network_of(entry)
    if first then
      networks[#networks + 1] = { first = first, length = length }
    else
      names[name_of(entry)] = true
    end
  end
  return names, networks
end

-- Whether `entry` is there, spelled in some way or within a wider network.
local function covers(names, networks, entry)
  local first, length = network_of(entry)
  if not first then return names[name_of(entry)] ~= nil end
  for _, one in ipairs(networks) do
    local rest = 32 - one.length
    if one.length <= length and first >> rest == one.first >> rest then return true end
  end
  return false
end

---Whether a server took the lists that were asked for: the same one, with all entries
---and empty where that was asked. It may write the entries in its own way, and add its
---own. Where nothing is denied it needs no list.
---@param found { allowlist: table|nil, denylist: table|nil }  of an answer
---@param asked { allowlist: table|nil, denylist: table|nil }  one of them
---@return boolean
function egress.confirms(found, asked)
  local function same(list, wanted)
    local names, networks = contents(list)
    if not names then return false end
    for _, entry in ipairs(wanted) do
      if not covers(names, networks, entry) then return false end
    end
    return #wanted > 0 or next(list) == nil
  end
  if asked.allowlist then return same(found.allowlist, asked.allowlist) end
  if found.allowlist then return false end
  if #asked.denylist == 0 and found.denylist == nil then return true end
  return same(found.denylist, asked.denylist)
end

---The policy that is asked for: one of the lists. Raises a string.
---@param rules any  `{ allow = }` or `{ deny = }`
---@return { allowlist: table|nil, denylist: table|nil }
function egress.policy(rules)
  local given = check.options(check.table(rules, "rules"), {
    allow = check.none, deny = check.none,
  }, -1)
  if (given.allow == nil) == (given.deny == nil) then
    error("rules: give either allow or deny", 0)
  end
  local name = given.allow ~= nil and "allow" or "deny"
  local list = entries(given[name], name)
  local allows = name == "allow"
  -- To allow everything is to deny nothing, and the other way round.
  if list == "*" then
    allows, list = not allows, json.array({})
  end
  return { [allows and "allowlist" or "denylist"] = list }
end

return egress
