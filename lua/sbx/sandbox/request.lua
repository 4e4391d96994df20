-- What a create asks for: the options of `client:create`, checked, as the body
-- that goes over the wire.

local check = require("sbx.check")
local egress = require("sbx.sandbox.egress")
local json = require("sbx.json")

local request = {}

local none = check.none

local defaults = {
  name = none,
  docker_image = none,
  start_command = none,
  cpu_cores = 1,
  memory_gb = 1,
  disk_size_gb = 5,
  gpu_count = 0,
  gpu_type = none,
  vm = false,
  network_access = true,
  network_allowlist = none,
  network_denylist = none,
  timeout_minutes = 60,
  idle_timeout_minutes = none,
  environment_vars = none,
  secrets = none,
  labels = none,
  team_id = none,
  region = none,
  advanced_configs = none,
  registry_credentials_id = none,
  guaranteed = false,
  keep = false,
}

---@class sbx.sandbox.CreateOptions
---@field name string  1 to 100 characters
---@field docker_image string  e.g. "python:3.11-slim"
---@field start_command? string|{ executable: string, args: string[] }
---@field cpu_cores? number  (default 1)
---@field memory_gb? number  GiB (default 1)
---@field disk_size_gb? number  GiB (default 5)
---@field gpu_count? integer  (default 0)
---@field gpu_type? string  with `gpu_count` only
---@field vm? boolean  a virtual machine instead of a container (default false)
---@field network_access? boolean  false: no way out of the sandbox (default true)
---@field network_allowlist? string[]
---@field network_denylist? string[]
---@field timeout_minutes? integer  lifetime from the moment it runs (default 60)
---@field idle_timeout_minutes? integer
---@field environment_vars? table<string, string>
---@field secrets? table<string, string>  like environment_vars, but never shown again
---@field labels? string[]
---@field team_id? string
---@field region? string
---@field advanced_configs? table
---@field registry_credentials_id? string
---@field guaranteed? boolean
---@field keep? boolean  not deleted at the end of the run (default false)

---Checks a list of strings, such as labels; what has names in place of positions is none.
---@param value table|nil
---@param name string
---@return string[]|nil  written as a list, also when it is empty
function request.string_list(value, name)
  if value == nil then return nil end
  check.table(value, name)
  local list = {}
  for i, item in ipairs(value) do
    list[i] = check.string(item, ("%s[%d]"):format(name, i))
  end
  for key in pairs(value) do
    if not list[key] then error(name .. ": expected a list of strings", 0) end
  end
  return json.array(list)
end

---Checks the labels of a filter. An empty one is refused: to a server it is no filter, and
---all sandboxes carry it.
---@param value string[]|nil
---@return string[]|nil
function request.labels(value)
  local list = request.string_list(value, "labels")
  for i, label in ipairs(list or {}) do
    if label == "" then error(("labels[%d]: is empty"):format(i), 0) end
  end
  return list
end

---Checks a table of strings by name, such as environment variables.
---@param value table|nil
---@param name string
---@return table|nil
function request.string_map(value, name)
  if value == nil then return nil end
  check.table(value, name)
  local map = {}
  for key, item in pairs(value) do
    check.string(key, name .. " (a name in it)")
    if key == "" or key:find("[=\0]") then
      error(("%s: '%s' is not a name"):format(name, key), 0)
    end
    -- The value may be a secret: it is named, never shown.
    map[key] = check.string(item, name .. "." .. key)
    if item:find("\0", 1, true) then error(name .. "." .. key .. ": has a NUL byte", 0) end
  end
  return json.object(map)
end

local function optional(checker, value, name, ...)
  if value == nil then return nil end
  return checker(value, name, ...)
end

local function start_command(value, vm)
  if value == nil then
    -- A virtual machine has no use for the command that keeps a container up.
    return not vm and "tail -f /dev/null" or nil
  end
  if type(value) == "string" then
    if vm then error("start_command: as a string it needs vm = false", 0) end
    return value
  end
  local given = check.options(value, { executable = none, args = none }, -1)
  check.string(given.executable, "start_command.executable")
  local args = request.string_list(given.args or {}, "start_command.args")
  for _, word in ipairs({ given.executable, table.unpack(args) }) do
    if word:find("\0", 1, true) then error("start_command: has a NUL byte", 0) end
  end
  if given.executable == "" then error("start_command.executable: is empty", 0) end
  return { executable = given.executable, args = args }
end

local function check_vm(body)
  if body.registry_credentials_id then
    error("registry_credentials_id: needs vm = false", 0)
  end
  if body.guaranteed then error("guaranteed: needs vm = false", 0) end
end

local function check_rules(body)
  local gpus = body.gpu_count > 0
  if gpus ~= (body.gpu_type ~= nil) then
    error(gpus and "gpu_type: is required with gpu_count"
      or "gpu_type: needs a gpu_count of at least 1", 0)
  end
  if body.network_allowlist and body.network_denylist then
    error("network_allowlist and network_denylist: give one of them", 0)
  end
  if not body.network_access and (body.network_allowlist or body.network_denylist) then
    error("network_access = false lets nothing out: give it or a list, not both", 0)
  end
  local idle = body.idle_timeout_minutes
  if idle and idle > body.timeout_minutes then
    error(("idle_timeout_minutes: %d is more than timeout_minutes, which is %d"):format(
      idle, body.timeout_minutes), 0)
  end
  if body.vm then return check_vm(body) end
  if gpus then error("gpu_count: GPUs need vm = true", 0) end
  if body.network_allowlist or body.network_denylist then
    error("network_allowlist and network_denylist need vm = true; "
      .. "network_access = false works for containers", 0)
  end
end

local function body_from(options)
  local name = check.string(options.name, "name")
  if name == "" or utf8.len(name) == nil or utf8.len(name) > 100 then
    error("name: expected 1 to 100 characters of UTF-8", 0)
  end
  if check.string(options.docker_image, "docker_image") == "" then
    error("docker_image: is empty", 0)
  end
  local body = {
    name = name,
    docker_image = options.docker_image,
    vm = check.boolean(options.vm, "vm"),
    start_command = start_command(options.start_command, options.vm),
    cpu_cores = check.number(options.cpu_cores, "cpu_cores", 0),
    memory_gb = check.number(options.memory_gb, "memory_gb", 0),
    disk_size_gb = check.number(options.disk_size_gb, "disk_size_gb", 0),
    gpu_count = check.integer(options.gpu_count, "gpu_count", 0),
    gpu_type = optional(check.string, options.gpu_type, "gpu_type"),
    network_access = check.boolean(options.network_access, "network_access"),
    network_allowlist = optional(egress.list, options.network_allowlist, "network_allowlist"),
    network_denylist = optional(egress.list, options.network_denylist, "network_denylist"),
    timeout_minutes = check.integer(options.timeout_minutes, "timeout_minutes", 1),
    idle_timeout_minutes = optional(
      check.integer, options.idle_timeout_minutes, "idle_timeout_minutes", 1),
    environment_vars = request.string_map(options.environment_vars, "environment_vars"),
    secrets = request.string_map(options.secrets, "secrets"),
    labels = request.string_list(options.labels or {}, "labels"),
    team_id = optional(check.string, options.team_id, "team_id"),
    region = optional(check.string, options.region, "region"),
    advanced_configs = optional(check.table, options.advanced_configs, "advanced_configs"),
    registry_credentials_id = optional(
      check.string, options.registry_credentials_id, "registry_credentials_id"),
    guaranteed = check.boolean(options.guaranteed, "guaranteed"),
  }
  check_rules(body)
  -- Servers of virtual machines know no network_access: this says the same to them.
  if body.vm and not body.network_access then body.network_allowlist = json.array({}) end
  return body
end

-- What JSON cannot say, such as a string that is no UTF-8, named by its place. The
-- value stays out of it: it may be a secret.
local function check_writable(body)
  local ok, err = pcall(json.encode, body)
  if ok then return end
  local where, what = tostring(err.message):match("%$%.(.-): (.*)")
  error(("%s: %s"):format(where or "options", what or "JSON cannot hold them"), 0)
end

---Calls `fn(...)` and passes a misuse on as an error at the line of the script
---that called the caller of this function.
function request.blame(fn, ...)
  local ok, result, more = pcall(fn, ...)
  if ok then return result, more end
  if type(result) ~= "string" then error(result, 0) end
  error(result:gsub("^[^:\n]*:%d+: ", ""), 3)
end

---The body of a create. Misuse raises a string that names the option.
---@param given sbx.sandbox.CreateOptions
---@return table body, boolean keep
function request.create(given)
  local options = check.options(given, defaults, -1)
  local body = body_from(options)
  check_writable(body)
  return body, check.boolean(options.keep, "keep")
end

return request
