-- Locks, permits and signals between tasks. Whoever waits is served in the order
-- of coming; a cancelled one leaves the line and is never given anything.

local check = require("sbx.check")
local core = require("sbx.core.task")
local queue = require("sbx.task.queue")

---@class sbx.sync
local sync = {}

-- ---------------------------------------------------------------- semaphore

---What `acquire` gives. As a `<close>` variable it is released at the end of the
---block; a second release does nothing.
---@class sbx.sync.Permit
---@field count integer  how much of the semaphore it is
local Permit = {}
Permit.__index = Permit
Permit.__name = "sbx.sync.Permit"

---@class sbx.sync.Semaphore
---@field size integer       permits in all
---@field used integer       of these, given out; more than `size` after a `resize`
---@field waiting integer    tasks in line
---@field private line sbx.task.Queue  each node has the `count` it wants
local Semaphore = {}
Semaphore.__name = "sbx.sync.Semaphore"

function Semaphore:__index(key)
  if key == "waiting" then return rawget(self, "line").count end
  return Semaphore[key]
end

---Makes a semaphore of `size` permits.
---@param size integer
---@param name? string  for reports
---@return sbx.sync.Semaphore
function sync.semaphore(size, name)
  size = check.integer(size, "size", 0)
  if name ~= nil then check.string(name, "name") end
  return setmetatable({ size = size, used = 0, name = name, line = queue.new() }, Semaphore)
end

local function give(self, count)
  self.used = self.used + count
  return setmetatable({ count = count, semaphore = self }, Permit)
end

-- Serves the line as far as the permits go. The first in line is never passed
-- by, so that one who wants many gets them in the end.
local function serve(self)
  local line = self.line
  local node = line:first()
  while node and self.used + node.count <= self.size do
    local permit = give(self, node.count)
    if not line:wake(node, permit) then self.used = self.used - node.count end
    node = line:first()
  end
end

local function is_free(self, count)
  return self.line.count == 0 and self.used + count <= self.size
end

local function check_count(self, count, name)
  count = check.integer(count == nil and 1 or count, name, 1)
  if count > self.size then
    error(("%s: expected at most the semaphore's size of %d, got %d"):format(
      name, self.size, count), 3)
  end
  return count
end

local function describe(self)
  return self.name and "semaphore '" .. self.name .. "'" or "a semaphore"
end

---Waits for `count` permits at once (default 1): `local permit <close> =
---s:acquire()`. Who asks for more than the size has misused it.
---@async
---@param count? integer
---@return sbx.sync.Permit
function Semaphore:acquire(count)
  count = check_count(self, count, "acquire")
  core.checkpoint("acquire")
  if is_free(self, count) then return give(self, count) end
  return self.line:wait({ count = count }, describe(self), function()
    serve(self)
  end)
end

---The same without waiting: nil when there are not enough, or others wait.
---@param count? integer
---@return sbx.sync.Permit|nil
function Semaphore:try_acquire(count)
  count = check_count(self, count, "try_acquire")
  if is_free(self, count) then return give(self, count) end
  return nil
end

---Changes the number of permits. Those given out stay valid: after a smaller
---size the next ones are given when enough have come back.
---@param size integer
function Semaphore:resize(size)
  self.size = check.integer(size, "resize", 0)
  serve(self)
end

---Gives the permits back; once more is harmless.
function Permit:release()
  local semaphore = self.semaphore
  if not semaphore then return end
  self.semaphore = nil
  semaphore.used = semaphore.used - self.count
  serve(semaphore)
end

Permit.__close = Permit.release

local Acquiring = {}
Acquiring.__select = {
  try = function(case)
    local self = case.semaphore
    if is_free(self, case.count) then return true, give(self, case.count) end
    return false
  end,
  queue = function(case) return case.semaphore.line end,
  node = function(case) return { count = case.count } end,
  lost = function(case) serve(case.semaphore) end,
  what = function(case) return describe(case.semaphore) end,
}

---For `task.select`: the case that permits are given; its result is the permit.
---@param count? integer
---@return table
function Semaphore:acquiring(count)
  count = check_count(self, count, "acquiring")
  return setmetatable({ semaphore = self, count = count }, Acquiring)
end

-- -------------------------------------------------------------------- mutex

---@class sbx.sync.Mutex
---@field owner? sbx.Task  who holds it
---@field waiting integer  tasks in line
---@field private permits sbx.sync.Semaphore
local Mutex = {}
Mutex.__name = "sbx.sync.Mutex"

function Mutex:__index(key)
  if key == "waiting" then return rawget(self, "permits").waiting end
  return Mutex[key]
end

---@class sbx.sync.Held
local Held = {}
Held.__index = Held
Held.__name = "sbx.sync.Held"

---Makes a lock that one task holds at a time.
---@param name? string  for reports
---@return sbx.sync.Mutex
function sync.mutex(name)
  local permits = sync.semaphore(1, name)
  permits.name = nil
  return setmetatable({ permits = permits, name = name }, Mutex)
end

local function hold(self, permit)
  self.owner = core.current()
  return setmetatable({ mutex = self, permit = permit }, Held)
end

local function check_owner(self, name)
  if self.owner and self.owner == core.current() then
    error(name .. ": this task holds the lock already", 3)
  end
end

local function describe_mutex(self)
  local text = self.name and "lock '" .. self.name .. "'" or "a lock"
  return self.owner and text .. " held by task " .. self.owner.id or text
end

---Waits until nobody else holds it: `local held <close> = m:lock()`. Raises a
---plain error when this task holds it already, which would wait for ever.
---@async
---@return sbx.sync.Held
function Mutex:lock()
  check_owner(self, "lock")
  core.checkpoint("lock")
  local permits = self.permits
  if is_free(permits, 1) then return hold(self, give(permits, 1)) end
  return hold(self, permits.line:wait({ count = 1 }, describe_mutex(self), function()
    serve(permits)
  end))
end

---The same without waiting: nil when it is held, or others wait for it.
---@return sbx.sync.Held|nil
function Mutex:try_lock()
  check_owner(self, "try_lock")
  local permit = self.permits:try_acquire()
  return permit and hold(self, permit)
end

---Gives the lock to the next in line. A second call does nothing.
function Held:unlock()
  if not self.permit.semaphore then return end
  self.mutex.owner = nil
  self.permit:release()
end

Held.__close = Held.unlock

-- -------------------------------------------------------------------- event

---@class sbx.sync.Event
---@field is_set boolean
---@field waiting integer  tasks that wait for it
---@field private line sbx.task.Queue
local Event = {}
Event.__name = "sbx.sync.Event"

function Event:__index(key)
  if key == "waiting" then return rawget(self, "line").count end
  return Event[key]
end

---Makes a flag that tasks can wait for.
---@param name? string  for reports
---@return sbx.sync.Event
function sync.event(name)
  if name ~= nil then check.string(name, "name") end
  return setmetatable({ is_set = false, name = name, line = queue.new() }, Event)
end

local function describe_event(self)
  return self.name and "event '" .. self.name .. "'" or "an event"
end

---Waits until it is set; returns at once when it is.
---@async
function Event:wait()
  core.checkpoint("wait")
  if not self.is_set then self.line:wait({}, describe_event(self)) end
end

---Sets it and wakes all that wait.
function Event:set()
  self.is_set = true
  self.line:wake_all()
end

---Makes later calls of `wait` wait again.
function Event:clear()
  self.is_set = false
end

Event.__select = {
  try = function(self) return self.is_set end,
  queue = function(self) return self.line end,
  node = function() return {} end,
  what = describe_event,
}

-- -------------------------------------------------------------------- latch

---@class sbx.sync.Latch
---@field count integer    what is missing until it opens
---@field private opened sbx.sync.Event
local Latch = {}
Latch.__index = Latch
Latch.__name = "sbx.sync.Latch"

---Makes a latch that opens, for good, once it was counted down `count` times.
---@param count integer
---@param name? string  for reports
---@return sbx.sync.Latch
function sync.latch(count, name)
  count = check.integer(count, "count", 0)
  local opened = sync.event(name or "latch")
  if count == 0 then opened:set() end
  return setmetatable({ count = count, opened = opened }, Latch)
end

---Counts down; the last one opens the latch. Below zero is misuse.
---@param by? integer  default 1
function Latch:count_down(by)
  by = check.integer(by == nil and 1 or by, "count_down", 1)
  if by > self.count then
    error(("count_down: expected at most the %d that are missing, got %d"):format(
      self.count, by), 2)
  end
  self.count = self.count - by
  if self.count == 0 then self.opened:set() end
end

---Waits until it is open.
---@async
function Latch:wait()
  self.opened:wait()
end

Latch.__select = {
  try = function(self) return self.opened.is_set end,
  queue = function(self) return self.opened.line end,
  node = function() return {} end,
  what = function(self) return describe_event(self.opened) end,
}

check.methods(Permit, "permit")
check.methods(Mutex, "mutex")
check.methods(Held, "held")
check.methods(Semaphore, "semaphore")
check.methods(Event, "event")
check.methods(Latch, "latch")

return sync
