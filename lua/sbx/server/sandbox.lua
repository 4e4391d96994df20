-- One sandbox as the server knows it: what was asked for, where it stands, and
-- once it runs, the box of the driver. A record, without any waiting.

local hash = require("sbx.hash")
local json = require("sbx.json")
local keys = require("sbx.server.keys")
local logs = require("sbx.server.logs")
local text = require("sbx.server.text")
local time = require("sbx.core.time")

---@class sbx.server.Sandbox
---@field id string
---@field job_id string          names it in gateway URLs
---@field spec sbx.server.Spec
---@field status string          see `sandbox.ENDED` and the wire
---@field created_at number      seconds since 1970, as all `_at`
---@field updated_at number
---@field provisioned_at number|nil  the begin of its boot, unless a server before this one saw it
---@field started_at number|nil
---@field terminated_at number|nil
---@field deadline number|nil    monotonic seconds; set once RUNNING
---@field last_used number       monotonic seconds
---@field calls integer          gateway calls under way
---@field error_type string|nil
---@field error_message string|nil
---@field termination_reason string|nil
---@field logs sbx.server.Logs
---@field box table|nil          the driver's, while it runs
---@field facts table            what the driver really gave; stays after the end
---@field life sbx.Task|nil  the task that starts it, watches its time and ends it
---@field exposures table<string, sbx.server.Exposure>
---@field exit_code integer|nil     of its start command
---@field start_begun boolean       its start command was run
---@field saved table|nil           what its driver needs to take it up again
---@field memory_kills integer      processes that it lost for want of memory
---@field egress? sbx.server.Egress   which policy of its network is in force
---@field number? integer           in the order of creation, once in the store
---@field facets? string[]          what it is found by there; see `sbx.server.store_index`
---@field index? sbx.server.Index   of the store, to be told of each status
---@field log_share integer         bytes of its log in the store's count
local Sandbox = {}
Sandbox.__index = Sandbox

local sandbox = {}

---Where files go when the caller names no directory, and where commands start.
sandbox.MOUNT_PATH = "/sandbox-workspace"

local ENDED = { TERMINATED = true, ERROR = true, TIMEOUT = true }

---A new record in state PENDING.
---@param spec sbx.server.Spec
---@return sbx.server.Sandbox
function sandbox.new(spec)
  local name = hash.random_hex(8)
  local now = time.wall()
  return setmetatable({
    id = "sbx-" .. name,
    job_id = "job-" .. name,
    spec = spec,
    status = "PENDING",
    created_at = now,
    updated_at = now,
    last_used = time.now(),
    calls = 0,
    start_begun = false,
    memory_kills = 0,
    facts = {},
    logs = logs.new(),
    exposures = {},
  }, Sandbox)
end

---The id of the sandbox that a gateway URL's job id stands for.
---@param job_id string
---@return string
function sandbox.id_of_job(job_id)
  return (job_id:gsub("^job%-", "sbx-", 1))
end

---True once it will never run again.
---@return boolean
function Sandbox:ended()
  return ENDED[self.status] == true
end

---Moves on to another status. A sandbox that has ended stays as it is.
---@param status string
---@return boolean moved
function Sandbox:set_status(status)
  if self:ended() then return false end
  local before, now = self.status, time.wall()
  self.status, self.updated_at = status, now
  if self.index then self.index:moved(self, before) end
  if status == "PROVISIONING" then self.provisioned_at = now end
  if status == "RUNNING" then self.started_at = now end
  if ENDED[status] then self.terminated_at = now end
  return true
end

---Takes the values of its secrets away. True when there were some.
---@return boolean
function Sandbox:forget_secrets()
  local had = false
  for name in pairs(self.spec.secrets or {}) do
    self.spec.secrets[name] = "***"
    had = true
  end
  return had
end

---True when it carries every one of `labels`.
---@param labels string[]
---@return boolean
function Sandbox:has_labels(labels)
  local own = self.spec.labels
  for at = 1, #labels do
    local wanted, found = labels[at], false
    for index = 1, #own do
      if own[index] == wanted then
        found = true
        break
      end
    end
    if not found then return false end
  end
  return true
end

---The variables that its commands see, those of the call on top.
---@param more? table<string, string>
---@return table<string, string>
function Sandbox:environment(more)
  local merged = {}
  local spec = self.spec
  for _, source in ipairs { spec.environment_vars or {}, spec.secrets or {}, more or {} } do
    for name, value in pairs(source) do
      merged[name] = value
    end
  end
  return merged
end

local function or_null(value)
  if value == nil then return json.null end
  return value
end

local function masked(secrets)
  if not secrets then return json.null end
  local shown = {}
  for name in pairs(secrets) do
    shown[name] = "***"
  end
  return json.object(shown)
end

local function list_or_null(list)
  return list and json.array(list) or json.null
end

local function object_or_null(object)
  return object and json.object(object) or json.null
end

-- What was given, and beside it what limits hold, and by what: "none" is said too.
local function advanced_view(given, limits)
  if not given and not limits then return json.null end
  local shown = {}
  for name, value in pairs(given or {}) do
    shown[name] = value
  end
  shown.limits_enforced = limits
  return json.object(shown)
end

local function start_command_view(command)
  if type(command) ~= "table" then return or_null(command) end
  return { executable = command.executable, args = json.array(command.args) }
end

---The object that the control plane answers with.
---@return table
function Sandbox:view()
  local spec, facts = self.spec, self.facts
  return {
    id = self.id,
    name = spec.name,
    dockerImage = spec.docker_image,
    startCommand = start_command_view(spec.start_command),
    cpuCores = spec.cpu_cores,
    memoryGB = spec.memory_gb,
    diskSizeGB = spec.disk_size_gb,
    diskMountPath = sandbox.MOUNT_PATH,
    gpuCount = 0,
    gpuType = json.null,
    vm = spec.vm == true,
    networkAccess = spec.network,
    networkAllowlist = list_or_null(spec.network_allowlist),
    networkDenylist = list_or_null(spec.network_denylist),
    status = self.status,
    timeoutMinutes = spec.timeout_minutes,
    idleTimeoutMinutes = or_null(spec.idle_timeout_minutes),
    terminationReason = or_null(self.termination_reason),
    environmentVars = object_or_null(spec.environment_vars),
    secrets = masked(spec.secrets),
    advancedConfigs = advanced_view(spec.advanced_configs, facts.limits),
    labels = json.array(spec.labels),
    createdAt = text.timestamp(self.created_at),
    updatedAt = text.timestamp(self.updated_at),
    startedAt = or_null(text.timestamp(self.started_at)),
    terminatedAt = or_null(text.timestamp(self.terminated_at)),
    exitCode = or_null(self.exit_code),
    errorType = or_null(self.error_type),
    errorMessage = or_null(self.error_message),
    userId = keys.user_id(self),
    teamId = or_null(spec.team_id),
    kubernetesJobId = self.job_id,
    region = or_null(spec.region),
    registryCredentialsId = or_null(spec.registry_credentials_id),
    pendingImageBuildId = json.null,
    -- Beyond the wire: what this server really gives.
    imageSource = or_null(facts.image_source),
    imageResolved = or_null(facts.image_resolved),
    networkEnforced = or_null(facts.network_enforced),
    times = { -- seconds since 1970, exactly
      created = self.created_at, provisioned = or_null(self.provisioned_at),
      started = or_null(self.started_at), ended = or_null(self.terminated_at),
    },
    limitsEnforced = or_null(facts.limits),
  }
end

return sandbox
