-- The sandboxes of one server from the first request to the end: boots them a
-- few at a time, ends them when their time is up, and leaves none behind.

local errors = require("sbx.errors")
local json = require("sbx.json")
local hash = require("sbx.hash")
local sandbox = require("sbx.server.sandbox")
local store = require("sbx.server.store")
local task = require("sbx.task")
local time = require("sbx.core.time")
local validate = require("sbx.server.validate")

---@class sbx.server.Fleet
---@field store sbx.server.Store
---@field private driver table
---@field private scope sbx.Scope  where boots and clocks run
---@field private minute number         seconds in a minute of a lifetime
---@field private max_active integer
---@field private notice fun(text: string)
---@field private queue sbx.server.Sandbox[]  waiting to be booted, oldest first
---@field private booting table<sbx.server.Sandbox, boolean>
---@field private places integer        how many more may boot now
---@field private active integer        sandboxes that have not ended
---@field private made table<string, {fingerprint: string, id: string, at: number}>
---@field private keys integer          in `made`, about
---@field private noticed table<string, boolean>
---@field private closed boolean
local Fleet = {}
Fleet.__index = Fleet

local fleet = {}

local MAX_BOOTS = 8
local IDEMPOTENCY_WINDOW = 24 * 3600
local MAX_KEYS = 40000
local KILL_SECONDS = 10
-- Past its lifetime a sandbox ends by itself, should the server have forgotten.
local LIFETIME_SLACK = 300
local START_OUTPUT = 1048576

---@class sbx.server.FleetOptions
---@field driver table
---@field scope sbx.Scope
---@field notice fun(text: string)  told once what people must know
---@field minute? number            seconds in a minute of a lifetime (default 60)
---@field max_active? integer       sandboxes at once (default 2000)

---@param options sbx.server.FleetOptions
---@return sbx.server.Fleet
function fleet.new(options)
  return setmetatable({
    store = store.new(),
    driver = options.driver,
    scope = options.scope,
    notice = options.notice,
    minute = options.minute or 60,
    max_active = options.max_active or 2000,
    queue = {},
    booting = {},
    places = MAX_BOOTS,
    active = 0,
    made = {},
    keys = 0,
    noticed = {},
    closed = false,
  }, Fleet)
end

local start_boots

-- Lets the next one boot, when `record` held a place.
local function release_place(self, record)
  if not self.booting[record] then return end
  self.booting[record] = nil
  self.places = self.places + 1
  start_boots(self)
end

-- Marks the end of a sandbox, whoever causes it, and tells its task. False when
-- it had ended before.
local function finish(self, record, status, reason)
  if not record:set_status(status) then return false end
  self.active = self.active - 1
  record.termination_reason = reason
  for name in pairs(record.spec.secrets or {}) do
    record.spec.secrets[name] = "***"
  end
  record.logs:add("sandbox ended: " .. reason)
  for _, exposure in pairs(record.exposures) do
    exposure:close()
  end
  record.exposures = {}
  if record.life then record.life:cancel("sandbox ended") end
  release_place(self, record)
  return true
end

---Ends a sandbox with `status` and waits until nothing of it runs any more.
---@async
---@param record sbx.server.Sandbox
---@param status string  "TERMINATED", "TIMEOUT" or "ERROR"
---@param reason string
function Fleet:stop(record, status, reason)
  finish(self, record, status, reason)
  -- Whoever loses interest meanwhile: what was begun is completed.
  if record.life then task.shield(KILL_SECONDS, record.life.pjoin, record.life) end
end

---Ends a sandbox because somebody asked; harmless when it has ended.
---@async
---@param record sbx.server.Sandbox
function Fleet:delete(record)
  self:stop(record, "TERMINATED", "deleted")
end

-- Seconds until the sandbox is over its time, or the reason why it is.
local function time_left(self, record)
  local now = time.now()
  if now >= record.deadline then
    return nil, ("lifetime of %d min is over"):format(record.spec.timeout_minutes)
  end
  local left = record.deadline - now
  local idle_minutes = record.spec.idle_timeout_minutes
  if not idle_minutes then return left end

  local idle = idle_minutes * self.minute
  if record.calls > 0 then return math.min(left, idle) end
  local idle_left = record.last_used + idle - now
  if idle_left <= 0 then return nil, ("idle for %d min"):format(idle_minutes) end
  return math.min(left, idle_left)
end

-- Returns when the sandbox has outlived its time.
local function watch_time(self, record)
  record.deadline = time.now() + record.spec.timeout_minutes * self.minute
  record.last_used = time.now()
  while not record:ended() do
    local left, reason = time_left(self, record)
    if left then
      task.sleep(left)
    else
      record.error_type, record.error_message = "TIMEOUT", reason
      finish(self, record, "TIMEOUT", reason)
    end
  end
end

local function quoted(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

local function shell_line(command)
  if type(command) == "string" then return command end
  local words = { quoted(command.executable) }
  for _, argument in ipairs(command.args) do
    words[#words + 1] = quoted(argument)
  end
  return "exec " .. table.concat(words, " ")
end

-- Runs the start command once; it may take as long as the sandbox lives.
local function run_start_command(self, record)
  local command = record.spec.start_command
  if not command or command == validate.IDLE_COMMAND then return end
  local running = record.box
  local ok, result = pcall(running.agent.exec, running.agent, {
    command = shell_line(command),
    cwd = sandbox.MOUNT_PATH,
    env = record:environment(),
    timeout = record.spec.timeout_minutes * self.minute,
    max_output = START_OUTPUT,
  })
  if record:ended() then return end
  if not ok then
    record.logs:add("start command failed: " .. tostring(result))
    return
  end
  record.logs:add(result.stdout)
  record.logs:add(result.stderr)
  record.logs:add("start command ended with exit code " .. tostring(result.exit_code))
end

local function say_once(self, line)
  if self.noticed[line] then return end
  self.noticed[line] = true
  self.notice(line)
end

local function create_box(self, record)
  local spec = record.spec
  -- No environment here: a driver might show it on a command line. Each exec
  -- brings it along.
  return self.driver.create {
    env = {},
    id = record.id,
    image = spec.docker_image,
    network = spec.network,
    memory_gb = spec.memory_gb,
    cpu_cores = spec.cpu_cores,
    disk_size_gb = spec.disk_size_gb,
    hostname = record.id,
    workdir = sandbox.MOUNT_PATH,
    lifetime = spec.timeout_minutes * self.minute + LIFETIME_SLACK,
    log = function(line)
      record.logs:add(line)
    end,
    notice = function(line)
      record.logs:add(line)
      say_once(self, line)
    end,
  }
end

local function on_exit(self, record, reason)
  if record:ended() then return end
  local text = tostring(reason or "ended by itself")
  record.error_type = text:lower():find("oom", 1, true) and "OOM_KILLED" or "SANDBOX_DIED"
  record.error_message = text
  finish(self, record, "ERROR", text)
end

local function boot_failed(self, record, failure)
  if errors.is_error(failure) and failure.kind == "cancelled" then
    finish(self, record, "TERMINATED", "server stopped")
    error(failure, 0)
  end
  local is_image = errors.is_error(failure) and failure:is("image_pull")
  record.error_type = is_image and "IMAGE_PULL_FAILED" or "BOOT_FAILED"
  record.error_message = tostring(failure)
  finish(self, record, "ERROR", "boot failed: " .. tostring(failure))
end

-- From PENDING to RUNNING. Returns the driver's box, or nil when it failed.
local function boot(self, record)
  if not record:set_status("PROVISIONING") then return nil end
  record.logs:add("starting " .. record.spec.docker_image)
  local ok, made = pcall(create_box, self, record)
  if not ok then
    boot_failed(self, record, made)
    return nil
  end
  record.box = made
  record.facts = {
    image_source = made.image_source,
    image_resolved = made.image_resolved,
    network_enforced = made.network_enforced,
    limits = made.limits,
  }
  made:on_exit(function(reason)
    on_exit(self, record, reason)
  end)
  if record:set_status("RUNNING") then record.logs:add("sandbox is running") end
  release_place(self, record)
  return made
end

-- One task is the whole life of a sandbox: what the driver starts belongs to it
-- and ends with it.
local function live(self, record)
  local made = boot(self, record)
  if not made then return end
  local _ <close> = setmetatable({}, {
    __close = function()
      finish(self, record, "TERMINATED", "server stopped")
      record.box = nil
      task.shield(KILL_SECONDS, made.kill, made)
    end,
  })
  local start_command = task.pspawn(run_start_command, self, record)
  watch_time(self, record)
  start_command:cancel("sandbox ended")
end

function start_boots(self)
  while not self.closed and self.places > 0 and #self.queue > 0 do
    local record = table.remove(self.queue, 1)
    if not record:ended() then
      self.places = self.places - 1
      self.booting[record] = true
      record.life = self.scope:pspawn(live, self, record)
    end
  end
end

-- The sandbox that the same request made before. Raises kind `conflict` when
-- the key was used for another request.
local function made_before(self, key, fingerprint)
  local entry = key and self.made[key]
  if not entry then return nil end
  if entry.at + IDEMPOTENCY_WINDOW < time.wall() then
    self.made[key] = nil
    return nil
  end
  if entry.fingerprint ~= fingerprint then
    errors.raise {
      kind = "conflict",
      message = "idempotency_key was used before for a different sandbox",
    }
  end
  return self.store:get(entry.id)
end

-- Remembers what a key has made. Keys of forgotten sandboxes go when there are
-- many.
local function remember(self, key, fingerprint, id)
  if self.keys >= MAX_KEYS then
    self.keys = 0
    for old, entry in pairs(self.made) do
      if self.store:get(entry.id) then
        self.keys = self.keys + 1
      else
        self.made[old] = nil
      end
    end
  end
  self.keys = self.keys + 1
  self.made[key] = { fingerprint = fingerprint, id = id, at = time.wall() }
end

---Accepts a sandbox, to be booted soon. The same idempotency key with the same
---content gives the sandbox made before; with another one raises `conflict`. Too many
---sandboxes raise `limit`. Does not wait.
---@param spec sbx.server.Spec
---@return sbx.server.Sandbox
function Fleet:create(spec)
  local key = spec.idempotency_key
  spec.idempotency_key = nil
  local fingerprint = key and hash.sha256(json.encode(spec, { sort_keys = true }))
  local before = made_before(self, key, fingerprint)
  if before then return before end
  if self.closed or self.active >= self.max_active then
    errors.raise {
      kind = "limit",
      message = ("this server runs at most %d sandboxes at once"):format(self.max_active),
    }
  end

  local record = sandbox.new(spec)
  self.store:add(record)
  self.active = self.active + 1
  if key then remember(self, key, fingerprint, record.id) end
  self.queue[#self.queue + 1] = record
  start_boots(self)
  return record
end

---Ends all sandboxes at once and waits for it. Nothing is created afterwards.
---@async
---@param reason string
function Fleet:close(reason)
  self.closed = true
  local living = self.store:select(function(record)
    return not record:ended()
  end)
  task.map(living, function(record)
    self:stop(record, "TERMINATED", reason)
  end, { limit = 64, on_error = "collect" })
end

return fleet
