-- A running container as the server sees it: its end, its memory, its removal.

local container = require("sbx.server.driver.docker.container")
local errors = require("sbx.errors")
local log = require("sbx.log")
local task = require("sbx.task")

---@class sbx.server.driver.docker.box
local box = {}

---@class sbx.server.driver.docker.Box: sbx.server.Box
---@field id string         of the sandbox
---@field container string  its id at the engine
---@field private engine sbx.server.driver.docker.Engine
---@field private keep boolean
---@field private ended? string       why it has ended
---@field private error_type? string
---@field private let_go boolean      we ended it, or do not care any more
---@field private listener? fun(reason: string, error_type: string|nil)
---@field private link_ended table    waiter
local Box = {}
Box.__index = Box

local INSPECT_SECONDS = 10

-- Where the kernel counts, by version of control groups, as seen from inside. The
-- first one first: there, files like the second can be made by whoever is root inside.
local OOM_COUNTERS = { "/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/memory.events" }
local MAX_COUNTERS = 4096

-- ---------------------------------------------------------------------- its end

local function report_end(self)
  local listener = self.listener
  if not self.ended or self.let_go or not listener then return end
  self.listener = nil
  local ok, failure = pcall(listener, self.ended, self.error_type)
  if ok then return end
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
  log.error("sandbox end was not handled: " .. tostring(failure), { sandbox = self.id })
end

-- Why a container is not there any more: reason and type of the error.
local function cause_of(self, link_reason)
  local found, failure = errors.try(task.timeout, INSPECT_SECONDS, container.inspect, self.engine,
    self.container)
  if failure then
    return ("the connection to its container ended, and %s"):format(tostring(failure)), nil
  elseif not found then
    return "its container was removed", nil
  end
  local state = found.State or {}
  if state.OOMKilled then return "its container ran out of memory", "OOM_KILLED" end
  if state.Running then return "its agent was lost: " .. link_reason, nil end
  return ("its container ended with exit code %d"):format(state.ExitCode or -1), nil
end

local function watch(self)
  local reason = self.link_ended:wait()
  if self.let_go then return end
  self.ended, self.error_type = cause_of(self, reason)
  report_end(self)
end

---@param fn fun(reason: string, error_type: string|nil)
function Box:on_exit(fn)
  self.listener = fn
  report_end(self)
end

-- ------------------------------------------------------------------- its memory

local function read_counter(agent, path)
  local text = ""
  agent:get(path, function(bytes)
    text = (text .. bytes):sub(1, MAX_COUNTERS)
  end)
  return math.tointeger(tonumber(text:match("oom_kill (%d+)")))
end

---@async
---@return integer|nil
function Box:memory_kills()
  for _, path in ipairs(OOM_COUNTERS) do
    local count = errors.try(read_counter, self.agent, path)
    if count then return count end
  end
  return nil
end

-- ----------------------------------------------------------------------- the rest

---Refused: the engine's networks are all or nothing.
---@async
function Box.set_network()
  errors.raise {
    kind = "unsupported",
    message = "the docker driver cannot change the network of a running sandbox",
  }
end

---@async
function Box:kill()
  self.let_go = true
  local ok, failure = pcall(container.remove, self.engine, self.container)
  if self.agent then self.agent:close() end
  self.link_ended:wake("it was ended")
  if ok then return end
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
  log.warn(("container %s may be left behind: %s"):format(self.container:sub(1, 12),
    tostring(failure)), { sandbox = self.id })
end

---@async
function Box:release()
  if not self.keep then return self:kill() end
  self.let_go = true
  self.agent:close()
  self.link_ended:wake("it was let go")
end

---@class sbx.server.driver.docker.BoxFields
---@field engine sbx.server.driver.docker.Engine
---@field id string
---@field container string
---@field keep boolean

---The box of a container whose agent is still to be attached.
---@param fields sbx.server.driver.docker.BoxFields
---@return sbx.server.driver.docker.Box
function box.new(fields)
  local self = setmetatable(fields, Box)
  self.let_go = false
  self.link_ended = task.waiter("the end of a container")
  return self
end

---To be given to the agent as what it calls when its link ends.
---@param self sbx.server.driver.docker.Box
---@return fun(reason: string)
function box.on_link_end(self)
  return function(reason)
    self.link_ended:wake(reason)
  end
end

---Begins to watch over it, in a daemon of the current task or scope.
---@param self sbx.server.driver.docker.Box
function box.watch(self)
  task.daemon(watch, self)
end

return box
