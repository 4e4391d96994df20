-- Checks the body of a create request. All faults are collected, so that a
-- caller can mend them in one go.

local json = require("sbx.json")
local network = require("sbx.server.network")
local profile = require("sbx.server.profile")
local text = require("sbx.server.text")

local validate = {}

---@class sbx.server.Spec
---@field name string
---@field docker_image string
---@field start_command string|{executable: string, args: string[]}|nil
---@field cpu_cores number
---@field memory_gb number
---@field disk_size_gb number
---@field timeout_minutes integer
---@field idle_timeout_minutes integer|nil
---@field environment_vars table<string, string>|nil
---@field secrets table<string, string>|nil
---@field labels string[]
---@field vm boolean
---@field network boolean
---@field network_allowlist string[]|nil
---@field network_denylist string[]|nil
---@field advanced_configs table|nil
---@field team_id string|nil
---@field owner string|nil   the name of the key that made it; nil: the server's own
---@field region string|nil
---@field registry_credentials_id string|nil
---@field idempotency_key string|nil

validate.IDLE_COMMAND = profile.IDLE_COMMAND

local MAX_OBJECT = 64 * 1024
local MAX_ENVIRONMENT = 128 * 1024

-- Each rule takes a value that is there and returns what to keep, or nil and
-- what is wrong.

local function text_rule(least, most)
  return function(value)
    if type(value) ~= "string" then return nil, "expected a string" end
    local length = utf8.len(value) or #value
    if length < least or length > most then
      return nil, ("expected %d to %d characters"):format(least, most)
    end
    if value:find("\0", 1, true) then return nil, "must not hold a NUL byte" end
    return value
  end
end

local function number_rule(least, most)
  return function(value)
    if type(value) ~= "number" or value ~= value or value < least or value > most then
      return nil, ("expected a number from %s to %s"):format(least, most)
    end
    return value
  end
end

local function integer_rule(least, most)
  return function(value)
    local whole = type(value) == "number" and math.tointeger(value)
    if not whole or whole < least or whole > most then
      return nil, ("expected a whole number from %d to %d"):format(least, most)
    end
    return whole
  end
end

local function boolean_rule(value)
  if type(value) ~= "boolean" then return nil, "expected true or false" end
  return value
end

local function strings_rule(most_entries, most_characters)
  local entry_rule = text_rule(1, most_characters)
  return function(value)
    if not text.is_list(value) then return nil, "expected a list of strings" end
    if #value > most_entries then return nil, "at most " .. most_entries .. " entries" end
    for index, entry in ipairs(value) do
      local _, problem = entry_rule(entry)
      if problem then return nil, ("entry %d: %s"):format(index, problem) end
    end
    return value
  end
end

---A map of variables: names without `=` and NUL, values without NUL.
---@param value any
---@return table<string, string>|nil
---@return string|nil problem  never holds a value: it may be a secret
function validate.environment(value)
  if type(value) ~= "table" then return nil, "expected an object of strings" end
  local size = 0
  for name, content in pairs(value) do
    if type(name) ~= "string" or name == "" or name:find("[=%z]") then
      return nil, "names must be non-empty strings without '=' and NUL"
    end
    if type(content) ~= "string" or content:find("\0", 1, true) then
      return nil, name .. ": expected a string without NUL"
    end
    size = size + #name + #content
  end
  if size > MAX_ENVIRONMENT then return nil, "at most 128 KiB in all" end
  return value
end

local argument_rule = text_rule(0, 131072)

local function start_command_rule(value)
  if type(value) == "string" then return argument_rule(value) end
  if type(value) ~= "table" then return nil, "expected a string or an object" end
  for key in pairs(value) do
    if key ~= "executable" and key ~= "args" then return nil, "unknown member" end
  end
  local _, problem = text_rule(1, 4096)(value.executable)
  if problem then return nil, "executable: " .. problem end
  local args = value.args == json.null and {} or value.args or {}
  if not text.is_list(args) then return nil, "args: expected a list of strings" end
  for index, argument in ipairs(args) do
    _, problem = argument_rule(argument)
    if problem then return nil, ("args[%d]: %s"):format(index, problem) end
  end
  return { executable = value.executable, args = args }
end

-- It goes out again with every answer about the sandbox, a few levels further down.
local function object_rule(value)
  if type(value) ~= "table" then return nil, "expected an object" end
  for name in pairs(value) do
    if type(name) ~= "string" then return nil, "expected an object" end
  end
  local ok, written = pcall(json.encode, { { { { value } } } })
  if not ok then return nil, "nested too deeply" end
  if #written > MAX_OBJECT then return nil, "at most 64 KiB" end
  return value
end

-- Anything: what the value must be is decided together with others, below.
local function any_rule(value)
  return value
end

local rules = {
  name = text_rule(1, 100),
  docker_image = text_rule(1, 512),
  start_command = start_command_rule,
  cpu_cores = number_rule(0.1, 16),
  memory_gb = number_rule(0.1, 64),
  disk_size_gb = number_rule(0.1, 1000),
  gpu_count = integer_rule(0, 8),
  gpu_type = text_rule(1, 100),
  network_access = boolean_rule,
  vm = boolean_rule,
  network_allowlist = any_rule,
  network_denylist = any_rule,
  timeout_minutes = integer_rule(1, 1440),
  idle_timeout_minutes = integer_rule(1, 1440),
  environment_vars = validate.environment,
  secrets = validate.environment,
  labels = strings_rule(50, 256),
  team_id = text_rule(0, 200),
  region = text_rule(0, 200),
  advanced_configs = object_rule,
  registry_credentials_id = text_rule(0, 200),
  guaranteed = boolean_rule,
  idempotency_key = text_rule(1, 128),
}

local order = {}
for name in pairs(rules) do
  order[#order + 1] = name
end
table.sort(order)

local defaults = {
  cpu_cores = 1,
  memory_gb = 1,
  disk_size_gb = 5,
  gpu_count = 0,
  timeout_minutes = 60,
  start_command = validate.IDLE_COMMAND,
}

-- What only shows when fields are seen together.
local function check_together(spec, offers, fault)
  if not spec.name then fault("name", "required") end
  if not spec.docker_image then fault("docker_image", "required") end
  local vm, refusal = profile.decide(offers.profile, spec.vm)
  if refusal then fault("vm", refusal) end
  spec.vm = vm
  if spec.gpu_count > 0 and not spec.gpu_type then fault("gpu_type", "required") end
  if spec.gpu_count > 0 then fault("gpu_count", "this server has no GPUs") end
  if spec.gpu_type and spec.gpu_count == 0 then
    fault("gpu_type", "only with a gpu_count above 0")
  end
  local idle = spec.idle_timeout_minutes
  if idle and idle > spec.timeout_minutes then
    fault("idle_timeout_minutes", "must not exceed timeout_minutes")
  end
  profile.check(spec, fault)
  local login = spec.registry_credentials_id
  if login and login ~= "" and offers.has_login and not offers.has_login(login) then
    fault("registry_credentials_id", "there are no such credentials on this server: see"
      .. " serve --registry-credentials")
  end
  local can = { lists = offers.network_rules and spec.vm, vm = spec.vm }
  local enabled, param, problem =
    network.decide(spec.network_access, spec.network_allowlist, spec.network_denylist, can)
  if param then fault(param, problem) end
  spec.network = enabled
  for _, name in ipairs { "network_allowlist", "network_denylist" } do
    if spec[name] then spec[name] = network.list(name, spec[name], can) end -- trimmed
  end
end

---What a server can give.
---@class sbx.server.Offers
---@field profile sbx.server.Profile
---@field network_rules boolean  its driver can enforce lists of addresses
---@field has_login? fun(id: string): boolean  whether there are such credentials

local FEWEST = { profile = "container", network_rules = false }

---Turns the decoded body of a create request into a specification. Unknown
---members are ignored, null counts as absent.
---@param body table
---@param offers? sbx.server.Offers  default: containers, with the whole network or none
---@return sbx.server.Spec|nil
---@return {param: string, details: string}[]|nil errors  when it is not valid
function validate.create(body, offers)
  local spec, faults, faulty = {}, {}, {}
  local function fault(param, details)
    if faulty[param] then return end
    faulty[param] = true
    faults[#faults + 1] = { param = param, details = details }
  end

  for _, name in ipairs(order) do
    local value = body[name]
    if value ~= nil and value ~= json.null then
      local kept, problem = rules[name](value)
      if problem then fault(name, problem) end
      spec[name] = kept
    end
  end
  for name, value in pairs(defaults) do
    if spec[name] == nil then spec[name] = value end
  end
  check_together(spec, offers or FEWEST, fault)
  if #faults > 0 then return nil, faults end

  spec.labels = spec.labels or {}
  -- An empty team is how clients say "my own account".
  if spec.team_id == "" then spec.team_id = nil end
  return spec
end

return validate
