-- The life of one sandbox, in one task: booted or taken up again, watched for its time,
-- ended or let go. What the driver starts belongs to that task.

local egress = require("sbx.server.egress")
local errors = require("sbx.errors")
local note = require("sbx.server.rpc.note")
local sandbox = require("sbx.server.sandbox")
local start = require("sbx.server.fleet_start")
local task = require("sbx.task")
local time = require("sbx.core.time")

local life = {}

local KILL_SECONDS, TAKE_UP_SECONDS = 10, 10
-- Past its lifetime a sandbox ends by itself, should the server have forgotten.
local LIFETIME_SLACK = 300

-- ---------------------------------------------------------------------- its time

-- Seconds until the sandbox is over its time, or the reason why it is.
local function time_left(fleet, record)
  local now = time.now()
  if now >= record.deadline then
    return nil, ("lifetime of %d min is over"):format(record.spec.timeout_minutes)
  end
  local left = record.deadline - now
  local idle_minutes = record.spec.idle_timeout_minutes
  if not idle_minutes then return left end

  local idle = idle_minutes * fleet.minute
  if record.calls > 0 then return math.min(left, idle) end
  local idle_left = record.last_used + idle - now
  if idle_left <= 0 then return nil, ("idle for %d min"):format(idle_minutes) end
  return math.min(left, idle_left)
end

-- Returns when the sandbox has outlived its time.
local function watch_time(fleet, record)
  while not record:ended() do
    local left, reason = time_left(fleet, record)
    if left then
      task.sleep(left)
    else
      record.error_type, record.error_message = "TIMEOUT", reason
      fleet:finish(record, "TIMEOUT", reason)
    end
  end
end

-- ----------------------------------------------------------------------- its box

-- What the driver is asked for. No environment: a driver might show it on a command
-- line. Each exec brings it along.
local function driver_spec(fleet, record, seconds)
  local spec = record.spec
  local network, network_rules = egress.for_driver(record, fleet.driver)
  return {
    env = {},
    id = record.id,
    image = spec.docker_image,
    registry_login = spec.registry_credentials_id ~= "" and spec.registry_credentials_id or nil,
    network = network,
    network_rules = network_rules,
    memory_gb = spec.memory_gb,
    cpu_cores = spec.cpu_cores,
    disk_size_gb = spec.disk_size_gb,
    hostname = record.id,
    workdir = sandbox.MOUNT_PATH,
    lifetime = seconds + LIFETIME_SLACK,
    log = function(line)
      record.logs:add(line)
    end,
    notice = function(line)
      record.logs:add(line)
      fleet:say_once(line)
    end,
  }
end

local function on_exit(fleet, record, reason, error_type)
  if record:ended() then return end
  local text = tostring(reason or "ended by itself")
  local is_oom = error_type == "OOM_KILLED" or text:lower():find("oom", 1, true)
  record.error_type = error_type or (is_oom and "OOM_KILLED" or "SANDBOX_DIED")
  record.error_message = text
  fleet:finish(record, "ERROR", text)
end

-- From here on the record has a box.
local function attach(fleet, record, made)
  record.box = made
  record.saved = fleet.keep and made.saved or nil
  record.facts = {
    image_source = made.image_source,
    image_resolved = made.image_resolved,
    network_enforced = made.network_enforced,
    limits = made.limits,
  }
  made:on_exit(function(reason, error_type)
    on_exit(fleet, record, reason, error_type)
  end)
end

local function is_cancelled(failure)
  return errors.is_error(failure) and failure.kind == "cancelled"
end

local function boot_failed(fleet, record, failure)
  if is_cancelled(failure) then
    -- Of a fleet that keeps, the next server boots it.
    if not fleet.keep then fleet:finish(record, "TERMINATED", "server stopped") end
    error(failure, 0)
  end
  local is_image = errors.is_error(failure) and failure:is("image_pull")
  record.error_type = is_image and "IMAGE_PULL_FAILED" or "BOOT_FAILED"
  record.error_message = tostring(failure)
  fleet:finish(record, "ERROR", "boot failed: " .. tostring(failure))
end

-- A box that has just been made is that of the record.
local function begin(fleet, record, made, seconds, generation)
  egress.booted(record, generation)
  attach(fleet, record, made)
  if not record:set_status("RUNNING") then return end
  record.deadline = time.now() + seconds
  record.last_used = time.now()
  record.logs:add("sandbox is running")
  fleet:save(record)
  fleet.events:add("running", record.id)
end

-- From PENDING to RUNNING. Returns the driver's box, or nil when it failed.
local function boot(fleet, record)
  if not record:set_status("PROVISIONING") then return nil end
  fleet.events:note("booting", record.id)
  fleet:save(record)
  record.logs:add("starting " .. record.spec.docker_image)
  local seconds = record.spec.timeout_minutes * fleet.minute
  local generation = egress.generation(record)
  local ok, made = pcall(fleet.driver.create, fleet.driver, driver_spec(fleet, record, seconds))
  if not ok then
    boot_failed(fleet, record, made)
    return nil
  end
  local begun, failure = pcall(begin, fleet, record, made, seconds, generation)
  if not begun then
    record.box = nil
    task.shield(KILL_SECONDS, made.kill, made)
    boot_failed(fleet, record, failure)
    return nil
  end
  fleet:release_place(record)
  return made
end

-- ----------------------------------------------------------------------- its end

local function let_go(record, made)
  for _, exposure in pairs(record.exposures) do
    exposure:close()
  end
  record.box = nil
  record.logs:add("the server let go of it; the next one takes it up")
  task.shield(KILL_SECONDS, made.release, made)
end

local function kill(fleet, record, made)
  fleet:finish(record, "TERMINATED", "server stopped")
  record.box = nil
  task.shield(KILL_SECONDS, made.kill, made)
end

---Whether a sandbox may live on without this server.
---@param fleet sbx.server.Fleet
---@param record sbx.server.Sandbox
---@return boolean
function life.may_outlive(fleet, record)
  local made = record.box
  return fleet.keep and made ~= nil and made.saved ~= nil and made.release ~= nil
    and not record:ended()
end

-- From RUNNING to the end of the sandbox or of the server. `running` is the start command,
-- where it has begun before.
local function live_on(fleet, record, made, running)
  local _ <close> = setmetatable({}, {
    __close = function()
      if life.may_outlive(fleet, record) then
        let_go(record, made)
      else
        kill(fleet, record, made)
      end
    end,
  })
  local start_command = task.pspawn(start.run, record, function()
    fleet:save(record)
  end, running)
  watch_time(fleet, record)
  start_command:cancel("sandbox ended")
end

---Boots a sandbox and lives its life.
---@async
---@param fleet sbx.server.Fleet
---@param record sbx.server.Sandbox
function life.live(fleet, record)
  local made = boot(fleet, record)
  if made then live_on(fleet, record, made) end
end

local function adopt(fleet, record)
  local driver = fleet.driver
  if not (fleet.keep and record.saved and driver.adopt) then return nil end
  local spec = driver_spec(fleet, record, math.max(0, record.deadline - time.now()))
  local ok, made, problem = pcall(driver.adopt, driver, spec, record.saved)
  if not ok then
    if is_cancelled(made) then error(made, 0) end
    made, problem = nil, made
  end
  return made or nil, problem
end

-- A box that was taken up is that of the record.
local function go_on(fleet, record, made)
  attach(fleet, record, made)
  record.logs:add("taken up by a new server; what was logged before is gone")
  fleet:save(record)
  fleet.events:add("adopted", record.id)
end

-- Takes up one program that an earlier server has started. Returns it if it is the start
-- command.
local function take_up_program(fleet, record, held)
  local noted = note.decode(held.note)
  local session = record.box.agent:attach(held)
  if noted and noted.kind == "start" then return session end
  if noted and noted.kind == "rpc" and fleet.resume then
    fleet.resume(record, session, noted)
  else
    session:close() -- nobody could ever name it
  end
  return nil
end

-- The same for all of them. One that cannot be had is no reason to give up the sandbox, nor
-- is an agent that says nothing of them one to wait for it.
local function take_up_programs(fleet, record)
  local agent, running = record.box.agent, nil
  if not agent.holds then return nil end
  local in_time = task.move_on(TAKE_UP_SECONDS, function()
    for _, held in ipairs(errors.try(agent.held, agent) or {}) do
      local found, problem = errors.try(take_up_program, fleet, record, held)
      running = running or found
      if problem then record.logs:add("a program was not taken up: " .. tostring(problem)) end
    end
  end)
  if not in_time then record.logs:add("its programs were not taken up in time") end
  return running
end

local function report_gone(fleet, record, problem)
  local reason = "server restarted"
  if problem then reason = reason .. ": " .. tostring(problem) end
  fleet:finish(record, "TERMINATED", reason)
end

---Takes up a sandbox that an earlier server left running, and lives the rest of its
---life; `settled` is woken once it is known whether there is one.
---@async
---@param fleet sbx.server.Fleet
---@param record sbx.server.Sandbox
---@param settled sbx.core.Waiter
function life.take_up(fleet, record, settled)
  record.deadline = record.deadline or time.now()
  local made, problem = adopt(fleet, record)
  if not made then
    report_gone(fleet, record, problem)
    return
  end
  local ok, failure = pcall(go_on, fleet, record, made)
  if not ok then
    record.box = nil
    task.shield(KILL_SECONDS, made.kill, made)
    report_gone(fleet, record, failure)
    return
  end
  local running = take_up_programs(fleet, record)
  settled:wake()
  live_on(fleet, record, made, running)
end

return life
