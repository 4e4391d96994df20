-- Making a sandbox from what the command line says: what `create` and `run` share.

local boxes = require("sbx.cli.boxes")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local log = require("sbx.log")
local remote_run = require("sbx.cli.remote_run")

local new_box = {}

---@type sbx.cli.Option[]
new_box.options = {
  { name = "name", short = "n", help = "what it is called; else one is made up" },
  { name = "label", short = "l", type = "list", help = "tag it" },
  { name = "vm", type = "flag", help = "a virtual machine in place of a container" },
  { name = "cpu", type = "number", min = 0.1, group = "Size", help = "cores (1)" },
  { name = "memory", type = "number", min = 0.1, metavar = "GIB", group = "Size",
    help = "GiB (1)" },
  { name = "disk", type = "number", min = 0.1, metavar = "GIB", group = "Size", help = "GiB (5)" },
  { name = "gpu", metavar = "TYPE[:COUNT]", group = "Size",
    help = "graphics processors, as H100_80GB:1; with --vm" },
  { name = "lifetime", type = "duration", min = "1m", group = "Life",
    also = { "--ttl", "--timeout-minutes" },
    help = "it ends so long after its start (1h)" },
  { name = "idle", type = "duration", min = "1m", group = "Life",
    help = "it ends when nobody has used it for so long" },
  { name = "network", type = "flag", default = true, group = "Inside",
    help = "whether it reaches the network" },
  { name = "secret", type = "list", metavar = "NAME", group = "Inside",
    help = "a variable that is shown nowhere, with the value that it has here" },
  { name = "registry", metavar = "ID", group = "Inside", help = "credentials for a private image" },
  { name = "team", metavar = "ID", group = "Inside", help = "the team that it belongs to" },
  { name = "region", group = "Inside", help = "where it runs" },
  { name = "timeout", type = "duration", default = "5m", group = "Life",
    help = "how long its start may take" },
}

new_box.image = { name = "image", metavar = "IMAGE", help = "as python:3.11-slim" }

---`new_box.options` with others before them.
---@param own sbx.cli.Option[]
---@return sbx.cli.Option[]
function new_box.with(own)
  local list = table.move(own, 1, #own, 1, {})
  return table.move(new_box.options, 1, #new_box.options, #list + 1, list)
end

local function minutes(seconds)
  return seconds and math.max(1, math.ceil(seconds / 60)) or nil
end

-- Values that come from our environment, so that they are on no command line.
local function secrets_of(names)
  local secrets
  for _, name in ipairs(names) do
    local value = os.getenv(name)
    if not name:find("^[%a_][%w_]*$") or not value then
      errors.raise({ kind = "usage",
        message = ("--secret: there is no variable %s here; a secret is not given on the command "
          .. "line"):format(log.clean(name:match("^[^=]*"), 60)) })
    end
    log.redact(value)
    secrets = secrets or {}
    secrets[name] = value
  end
  return secrets
end

---Makes a sandbox; it is still starting.
---@async
---@param client sbx.sandbox.Client
---@param given table
---@param fields table  of `create` besides
---@return sbx.sandbox.Box
function new_box.create(client, given, fields)
  local gpu, count = (given.gpu or ""):match("^([^:]+):?(%d*)$")
  local options = {
    name = given.name or "cli-" .. hash.random_hex(4),
    docker_image = given.image,
    labels = boxes.labels(given),
    vm = given.vm or nil, cpu_cores = given.cpu, memory_gb = given.memory,
    disk_size_gb = given.disk, gpu_type = gpu,
    gpu_count = gpu and (math.tointeger(tonumber(count)) or 1) or nil,
    timeout_minutes = minutes(given.lifetime), idle_timeout_minutes = minutes(given.idle),
    network_access = given.network, secrets = secrets_of(given.secret),
    registry_credentials_id = given.registry, team_id = given.team, region = given.region,
  }
  for name, value in pairs(fields) do
    options[name] = value
  end
  return client:create(options)
end

---The variables of `--env` and `--env-file` for all commands in it.
---@async
---@param given table
---@return table<string, string>|nil
function new_box.env(given)
  local env = given.env_file and remote_run.read_env(given.env_file) or {}
  for name, value in pairs(given.env) do
    env[name] = value
  end
  return next(env) and env or nil
end

---Waits until it can be used; a deadline is status 124.
---@async
---@param box sbx.sandbox.Box
---@param seconds number
function new_box.wait(box, seconds)
  local ok, err = pcall(box.wait, box, { timeout = seconds })
  if ok then return end
  if errors.is_error(err) and err.timeout then err.exit_status = 124 end
  error(err, 0)
end

return new_box
