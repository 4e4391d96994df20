-- A running bubblewrap sandbox, started by us or taken up again: its end, its memory,
-- its network, its removal.

local agent = require("sbx.server.agent")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local log = require("sbx.log")
local network = require("sbx.server.driver.bwrap_network")
local processes = require("sbx.server.driver.bwrap_process")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_box
local bwrap_box = {}

local STOP_SECONDS = 5
-- How often a sandbox that is not our child is looked at.
local LOOK_SECONDS = 1

---@class sbx.server.driver.bwrap.Box: sbx.server.Box
---@field id string
---@field agent sbx.server.Agent
---@field image_source string
---@field image_resolved string
---@field network_enforced boolean  it has the network that was asked for, no more and no less
---@field limits table<string, string|integer>  what is enforced, and by what
---@field saved? table        what `adopt` needs; nil when it ends with the server
---@field pid? integer        of its first process, as seen from here
---@field uid? integer        that it runs as on this machine; nil: our own
---@field child? sbx.core.process.Process  bubblewrap, where we started it
---@field inner? sbx.server.driver.Identity  its first process
---@field outer? sbx.server.driver.Identity  bubblewrap
---@field group? sbx.server.driver.cgroup.Group
---@field helper? sbx.server.driver.Helper   its way out
---@field as_root boolean
---@field keep boolean
---@field reachable boolean   a network can still be given to it
---@field note fun(line: string)   into its log
---@field save fun(self: sbx.server.driver.bwrap.Box)  writes `saved` anew
---@field cleanup fun()[]     what must be undone when it has ended
---@field private ended? string     why it has ended
---@field private killed? boolean    we ended it, or let it go
---@field private lost? string       why the agent's link ended
---@field private link_over? sbx.core.Waiter
---@field private watcher? sbx.Task
---@field private listener? fun(reason: string, error_type: string|nil)
local Box = {}
Box.__index = Box

---@param fields table
---@return sbx.server.driver.bwrap.Box
function bwrap_box.new(fields)
  fields.cleanup = fields.cleanup or {}
  return setmetatable(fields, Box)
end

-- ---------------------------------------------------------------------- its end

local function is_cancelled(failure)
  return errors.is_error(failure) and failure.kind == "cancelled"
end

-- Tells the listener, once, of an end that was not asked for.
local function report_end(self)
  local listener = self.listener
  if not self.ended or self.killed or not listener then return end
  self.listener = nil
  local ok, failure = pcall(listener, self.ended, self.error_type)
  if ok then return end
  if is_cancelled(failure) then error(failure, 0) end
  log.error("sandbox end was not handled: " .. tostring(failure), { sandbox = self.id })
end

local force

-- Waits until all of it has ended. Returns how.
local function await_end(self)
  if self.child and not self.keep then
    local code, signal = self.child:wait()
    return signal and "signal " .. signal or "exit code " .. code
  end
  while not self.lost and processes.is_alive(self.inner) do
    self.link_over = task.waiter("a sandbox's agent to be lost")
    task.move_on(LOOK_SECONDS, self.link_over.wait, self.link_over)
  end
  -- An agent that listens would go on without us, but what breaks the link is no friend.
  if not self.killed and not processes.await_end(self.inner, LOOK_SECONDS) then force(self) end
  return self.lost or "nobody saw how"
end

local function watch(self)
  local how = await_end(self)
  if self.killed then return end
  if (self:memory_kills() or 0) > 0 then self.error_type = "OOM_KILLED" end
  self.agent:close()
  self.ended = "the sandbox's first process ended (" .. how .. ")"
  report_end(self)
end

---Watches over it from here on, in the current task.
function Box:start_watch()
  self.watcher = task.daemon(watch, self)
end

---@param fn fun(reason: string, error_type: string|nil)
function Box:on_exit(fn)
  self.listener = fn
  report_end(self)
end

---@async
---@return integer|nil
function Box:memory_kills()
  return self.group and self.group:memory_kills()
end

-- For a sandbox that does not end when it is told: its first process is killed, and
-- with it all the others; then bubblewrap's outer one has no more to wait for.
function force(self)
  if not self.inner and self.child then
    local pid = processes.child_of(self.child.pid)
    self.inner = pid and processes.identify(pid)
  end
  processes.kill(self.inner)
  if self.group then self.group:kill() end
  if not self.child then return processes.await_end(self.inner, STOP_SECONDS) end
  if task.move_on(STOP_SECONDS, self.child.wait, self.child) then return end
  self.child:kill(9)
  self.child:wait()
end

local function await_stop(self)
  if self.child then return task.move_on(STOP_SECONDS, self.child.wait, self.child) end
  return processes.await_end(self.inner, STOP_SECONDS)
    and processes.await_end(self.outer, STOP_SECONDS)
end

-- Tells the agent, which as first process takes all others with it; bubblewrap ends
-- when they are gone.
local function tell(self)
  if self.agent and self.keep then
    self.agent:shutdown()
  elseif self.agent then
    self.agent:close()
  elseif self.child and self.child.fds[3] then
    self.child.fds[3]:close()
  elseif self.child then
    self.child:kill(9)
  end
end

---Ends the sandbox and waits until every process of it is gone. Harmless when it has
---ended.
---@async
function Box:kill()
  self.killed = true
  tell(self)
  if not await_stop(self) then force(self) end
  if self.agent then self.agent:close() end
  if self.child then self.child.stderr:close() end
  if self.helper then
    self.helper:stop()
    self.helper = nil
  end
  if self.group then self.group:remove() end
  for index = #self.cleanup, 1, -1 do
    local undo = table.remove(self.cleanup, index)
    local ok, failure = pcall(undo)
    if not ok then log.warn("after a sandbox: " .. tostring(failure), { sandbox = self.id }) end
  end
end

---Lets go of it, so that it lives on; where nothing is kept, ends it.
---@async
function Box:release()
  if not self.keep then return self:kill() end
  self.killed = true
  if self.watcher then self.watcher:cancel("let go") end
  self.agent:close()
end

-- ------------------------------------------------------------------ its network

---Whether it is what it was asked to be, as far as that can be seen from outside: the
---user that it is on this machine. Raises otherwise.
---@async
function Box:verify_user()
  local status = fs.read("/proc/" .. self.pid .. "/status")
  local real, effective = status:match("\nUid:%s+(%d+)%s+(%d+)")
  if real and real ~= "0" and real == effective then return end
  errors.raise { kind = "process", message = "a sandbox would run as this machine's root" }
end

---Connects to the agent, that of `spec` at `stream` or, for one that listens, `path`.
---@async
---@param stream table|nil
---@param path string|nil
function Box:attach(stream, path)
  local function on_end(reason)
    self.lost = reason
    if self.link_over then self.link_over:wake() end
  end
  self.agent = path and agent.connect(path, on_end) or agent.attach(stream, on_end)
end

---Replaces what it may reach. Raises `process` when that cannot be had, and `unsupported`
---for a rule that has no addresses.
---@async
---@param rules {allowlist: string[]|nil, denylist: string[]|nil}
function Box:set_network(rules)
  local plan = network.plan(rules)
  for _, line in ipairs(plan.remarks) do
    self.note("network: " .. line)
  end
  if not self.helper then
    if plan.closed then return end
    if not self.reachable then
      errors.raise {
        kind = "unsupported",
        message = "this sandbox was created without a network, and none can be added any more",
      }
    end
    self.helper = network.attach(self.pid, self.as_root, self.keep, plan)
    if self.saved then self.saved.helper = self.helper.identity end
  else
    network.apply(self.pid, self.as_root, plan)
  end
  self.network_enforced = true
  if self.saved then self:save() end
end

return bwrap_box
