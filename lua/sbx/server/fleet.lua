-- The sandboxes of one server from the first request to the end: boots them a few at a
-- time, ends them when their time is up, and leaves none behind that is not to be. What
-- it answers for is on the disk before it returns, where there is a state.

local errors = require("sbx.errors")
local events = require("sbx.server.events")
local exposure = require("sbx.server.exposure")
local hash = require("sbx.hash")
local json = require("sbx.json")
local keys = require("sbx.server.fleet_keys")
local life = require("sbx.server.fleet_life")
local log = require("sbx.log")
local recover = require("sbx.server.fleet_recover")
local rows = require("sbx.server.state_rows")
local sandbox = require("sbx.server.sandbox")
local state = require("sbx.server.state")
local store = require("sbx.server.store")
local task = require("sbx.task")

---@class sbx.server.Fleet
---@field store sbx.server.Store
---@field state sbx.server.State
---@field events sbx.server.Events
---@field driver sbx.server.Driver
---@field keep boolean         sandboxes outlive the server
---@field minute number        seconds in a minute of a lifetime
---@field keys sbx.server.fleet.Keys
---@field living table<sbx.server.Sandbox, boolean>  those that have not ended
---@field notice fun(text: string)
---@field scope sbx.Scope  where boots and clocks run
---@field expose_at {host: string, name?: string}|nil
---@field resume? fun(record: sbx.server.Sandbox, session: sbx.server.Session, noted: table)  goes on with a client's program that an earlier server has started
---@field private max_active integer
---@field private queue sbx.server.Sandbox[]  waiting to be booted, from `first` to `last`
---@field private first integer
---@field private last integer
---@field private booting table<sbx.server.Sandbox, boolean>
---@field private places integer        how many more may boot now
---@field private active integer        how many
---@field private noticed table<string, boolean>
---@field private stopping boolean      nothing is created any more
---@field private closed boolean        nor booted
local Fleet = {}
Fleet.__index = Fleet

local fleet = {}

local MAX_BOOTS = 8
local STOP_SECONDS = 10
local CHORE_SECONDS = 2
local RETRY_SECONDS = 5

---@class sbx.server.FleetOptions
---@field driver sbx.server.Driver
---@field scope sbx.Scope
---@field notice fun(text: string)  told once what people must know
---@field minute? number            seconds in a minute of a lifetime (default 60)
---@field max_active? integer       sandboxes at once (default: the driver's, or 2000)
---@field state? sbx.server.State   default: nothing is remembered
---@field keep? boolean             sandboxes outlive the server; needs `state`
---@field expose_at? {host: string, name?: string}  address and name of exposed ports (default: loopback)
---@field records? sbx.server.store.Options  how long ended ones are remembered

---@param options sbx.server.FleetOptions
---@return sbx.server.Fleet
function fleet.new(options)
  local kept = options.state or state.none()
  local features = options.driver.features or {}
  local records = {}
  for name, value in pairs(options.records or {}) do
    records[name] = value
  end
  function records.on_forget(record)
    kept:remove_sandbox(record.id)
  end
  return setmetatable({
    store = store.new(records),
    state = kept,
    events = events.new(kept),
    keys = keys.new(kept),
    driver = options.driver,
    keep = options.keep and options.state ~= nil or false,
    scope = options.scope,
    notice = options.notice,
    expose_at = options.expose_at,
    minute = options.minute or 60,
    max_active = options.max_active or features.capacity or 2000,
    queue = {},
    first = 1,
    last = 0,
    booting = {},
    places = features.boots or MAX_BOOTS,
    living = {},
    active = 0,
    noticed = {},
    stopping = false,
    closed = false,
  }, Fleet)
end

-- ------------------------------------------------------- for the life of a sandbox

---Tells people something, once.
---@param line string
function Fleet:say_once(line)
  if self.noticed[line] then return end
  self.noticed[line] = true
  self.notice(line)
end

---Notes how a sandbox stands, for the disk. Never waits.
---@param record sbx.server.Sandbox
function Fleet:save(record)
  self.state:put_sandbox(rows.of_sandbox(record, self.keep and not record:ended()))
end

local function start_boots(self)
  while not self.closed and self.places > 0 and self.first <= self.last do
    local record = self.queue[self.first]
    self.queue[self.first] = nil
    self.first = self.first + 1
    if not record:ended() then
      self.places = self.places - 1
      self.booting[record] = true
      record.life = self.scope:pspawn(life.live, self, record)
    end
  end
end

---Puts a sandbox among those that wait to be booted. Boots none.
---@param record sbx.server.Sandbox
function Fleet:enqueue(record)
  self.last = self.last + 1
  self.queue[self.last] = record
end

---Lets the next one boot, when `record` held a place.
---@param record sbx.server.Sandbox
function Fleet:release_place(record)
  if not self.booting[record] then return end
  self.booting[record] = nil
  self.places = self.places + 1
  start_boots(self)
end

---Marks the end of a sandbox, whoever causes it, and tells its task. False when it had
---ended before. Never waits.
---@param record sbx.server.Sandbox
---@param status string  "TERMINATED", "TIMEOUT" or "ERROR"
---@param reason string
---@return boolean
function Fleet:finish(record, status, reason)
  if not record:set_status(status) then return false end
  self.active = self.active - 1
  self.living[record] = nil
  record.termination_reason = reason
  record.saved = nil
  if record:forget_secrets() and self.keep then self.state:forget_secrets() end
  record.logs:add("sandbox ended: " .. reason)
  for id, one in pairs(record.exposures) do
    one:close()
    self.state:remove_exposure(id)
  end
  record.exposures = {}
  self:save(record)
  self.events:add("ended", record.id, status .. ": " .. reason)
  self.store:retire(record)
  if record.life then record.life:cancel("sandbox ended") end
  self:release_place(record)
  return true
end

-- ---------------------------------------------------------------------- requests

-- The sandbox that the same request made before. Raises kind `conflict` when the key
-- was used for another request, or what it made is forgotten.
local function made_before(self, key, fingerprint)
  local id = key and self.keys:find(key, fingerprint)
  if not id then return nil end
  local record = self.store:get(id)
  if record then return record end
  errors.raise {
    kind = "conflict",
    message = "idempotency_key was used before; what it made has ended and is forgotten",
  }
end

local function check_room(self)
  if self.stopping then
    errors.raise {
      kind = "unavailable", message = "the server is stopping", retry_after = RETRY_SECONDS,
    }
  elseif self.active >= self.max_active then
    errors.raise {
      kind = "limit",
      message = ("this server runs at most %d sandboxes at once"):format(self.max_active),
    }
  end
end

---Counts a sandbox that has not ended among ours.
---@param record sbx.server.Sandbox
function Fleet:take_in(record)
  self.living[record] = true
  self.active = self.active + 1
end

-- Nobody was told of it, so nobody may find it.
local function undo(self, record, key, failure)
  if key then self.keys:forget(key) end
  record.error_type, record.error_message = "NOT_RECORDED", tostring(failure)
  self:stop(record, "ERROR", "could not be recorded")
  error(failure, 0)
end

---Accepts a sandbox, to be booted soon, and waits until it is recorded. The same
---idempotency key with the same content gives the sandbox made before; with another
---one raises `conflict`. Too many sandboxes raise `limit`; a server that stops, or
---cannot record, `unavailable`.
---@async
---@param spec sbx.server.Spec
---@return sbx.server.Sandbox
function Fleet:create(spec)
  local key = spec.idempotency_key
  spec.idempotency_key = nil
  local fingerprint = key and hash.sha256(json.encode(spec, { sort_keys = true }))
  local before = made_before(self, key, fingerprint)
  if before then
    self.state:sync()
    return before
  end
  check_room(self)

  local record = sandbox.new(spec)
  record.facts.limits = self.driver.enforced
  self.store:add(record)
  self:take_in(record)
  if key then self.keys:remember(key, fingerprint, record.id) end
  self:save(record)
  self.events:add("created", record.id)
  self:enqueue(record)
  start_boots(self)
  local ok, failure = pcall(self.state.sync, self.state)
  if not ok then undo(self, record, key, failure) end
  return record
end

---Ends a sandbox with `status` and waits until nothing of it runs any more.
---@async
---@param record sbx.server.Sandbox
---@param status string  "TERMINATED", "TIMEOUT" or "ERROR"
---@param reason string
function Fleet:stop(record, status, reason)
  self:finish(record, status, reason)
  -- Whoever loses interest meanwhile: what was begun is completed.
  if record.life then task.shield(STOP_SECONDS, record.life.pjoin, record.life) end
end

---Ends a sandbox because somebody asked, and waits until that is recorded; harmless
---when it has ended.
---@async
---@param record sbx.server.Sandbox
function Fleet:delete(record)
  self:stop(record, "TERMINATED", "deleted")
  self.state:sync()
end

---Opens a port of a running sandbox, and waits until that is recorded.
---@async
---@param record sbx.server.Sandbox
---@param options {port: integer, name?: string, protocol: string}
---@return sbx.server.Exposure
function Fleet:expose(record, options)
  local made = exposure.open {
    sandbox = record, scope = self.scope, at = self.expose_at,
    port = options.port, name = options.name, protocol = options.protocol,
  }
  record.exposures[made.id] = made
  self.state:put_exposure(rows.of_exposure(made))
  local ok, failure = pcall(self.state.sync, self.state)
  if not ok then
    record.exposures[made.id] = nil
    made:close()
    self.state:remove_exposure(made.id)
    error(failure, 0)
  end
  self.events:add("exposed", record.id, tostring(made.port))
  return made
end

---Closes an exposed port, and waits until that is recorded.
---@async
---@param one sbx.server.Exposure
function Fleet:unexpose(one)
  one.sandbox.exposures[one.id] = nil
  one:close()
  self.state:remove_exposure(one.id)
  self.events:add("unexposed", one.sandbox.id, tostring(one.port))
  self.state:sync()
end

---Whether a sandbox has lost a process for want of memory, which ends it as it would
---end a container. To be asked after a command that was killed.
---@async
---@param record sbx.server.Sandbox
---@return boolean
function Fleet:out_of_memory(record)
  local made = record.box
  if record:ended() or not made or not made.memory_kills then
    return record.error_type == "OOM_KILLED"
  end
  local kills = errors.try(made.memory_kills, made) or 0
  if kills > record.memory_kills and not record:ended() then
    record.memory_kills = kills
    record.error_type = "OOM_KILLED"
    record.error_message = "the kernel killed a process that had no memory left"
    self:finish(record, "ERROR", "out of memory")
  end
  return record.error_type == "OOM_KILLED"
end

-- ------------------------------------------------------------------------ chores

-- Sandboxes that were used since the last look, or are.
local function used_lately(self)
  local used = {}
  for record in pairs(self.living) do
    if record.calls > 0 or record.last_used > (record.looked_at or 0) then
      used[#used + 1] = record
    end
  end
  return used
end

local function look_after(self, record)
  if record.calls > 0 then record.last_used = task.now() end
  record.looked_at = record.last_used
  self:out_of_memory(record)
  if self.keep and record.spec.idle_timeout_minutes and not record:ended() then
    self:save(record)
  end
end

local function do_round(self)
  self.store:expire()
  self.keys:expire()
  task.map(used_lately(self), function(record)
    look_after(self, record)
  end, { limit = 16 })
end

-- What goes wrong with one round is told, and does not end the server.
local function do_chores(self)
  while true do
    task.sleep(CHORE_SECONDS)
    local ok, failure = pcall(do_round, self)
    if not ok then
      if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
      log.error("looking after sandboxes failed", { error = failure })
    end
  end
end

-- --------------------------------------------------------------- start and end

---Takes up what earlier servers left: sandboxes that live where the driver keeps them,
---the others as ended ("server restarted"), the keys of creates, exposed ports. Of a
---fleet that keeps, what had not been booted yet is booted now. To be called once,
---before the first request.
---@async
function Fleet:recover()
  recover.run(self)
  self.scope:daemon(do_chores, self)
  start_boots(self)
end

---From now on nothing is created: `unavailable`.
function Fleet:drain()
  self.stopping = true
end

---Whether nothing is created any more: the server is about to end.
---@return boolean
function Fleet:is_stopping()
  return self.stopping
end

---Ends all sandboxes at once, or lets go of them where they are kept, and waits for it.
---Nothing is created afterwards.
---@async
---@param reason string
function Fleet:close(reason)
  self.stopping, self.closed = true, true
  local living = {}
  for record in pairs(self.living) do
    living[#living + 1] = record
  end
  task.map(living, function(record)
    local waits = self.keep and not record.box -- for the next server to boot it
    if waits or life.may_outlive(self, record) then
      if not record.life then return end
      record.life:cancel(reason)
      task.shield(STOP_SECONDS, record.life.pjoin, record.life)
    else
      self:stop(record, "TERMINATED", reason)
    end
  end, { limit = 64, on_error = "collect" })
  self.events:add("stopped")
end

return fleet
