-- Processes that need not be our children: known by their number together with the time
-- of their start, since numbers are used again.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_process
local processes = {}

local LEAST_PAUSE, MOST_PAUSE = 0.002, 0.1

---@class sbx.server.driver.Identity
---@field pid integer
---@field start string  as in /proc/PID/stat

local function look(pid)
  local stat = errors.try(fs.read, ("/proc/%d/stat"):format(pid))
  -- The name in brackets may hold anything.
  local rest = stat and stat:match("^.*%) (.*)$")
  if not rest then return nil end
  local state, number, start = nil, 0, nil
  for word in rest:gmatch("%S+") do
    number = number + 1
    if number == 1 then state = word end
    if number == 20 then start = word end
  end
  if not start or state == "Z" or state == "X" then return nil end
  return start
end

---What makes out a living process; nil when there is none.
---@async
---@param pid integer
---@return sbx.server.driver.Identity|nil
function processes.identify(pid)
  local start = look(pid)
  return start and { pid = pid, start = start }
end

---Whether it still runs. Anything may be asked, also what came from a file.
---@async
---@param identity any
---@return boolean
function processes.is_alive(identity)
  if type(identity) ~= "table" then return false end
  local pid = math.tointeger(identity.pid)
  if not pid or pid <= 1 or type(identity.start) ~= "string" then return false end
  return look(pid) == identity.start
end

---Kills it, or the process group that it leads, when it still runs.
---@async
---@param identity any
---@param group? boolean
function processes.kill(identity, group)
  if not processes.is_alive(identity) then return end
  local target = (group and "-" or "") .. math.tointeger(identity.pid)
  errors.try(process.run, { "/bin/sh", "-c", "kill -s KILL -- " .. target }, { timeout = 30 })
end

---Waits until it has ended.
---@async
---@param identity any
---@param seconds number
---@return boolean ended
function processes.await_end(identity, seconds)
  local deadline, pause = task.now() + seconds, LEAST_PAUSE
  while processes.is_alive(identity) do
    if task.now() >= deadline then return false end
    task.sleep(pause)
    pause = math.min(pause * 2, MOST_PAUSE)
  end
  return true
end

---The only child of a process, or nil.
---@async
---@param pid integer
---@return integer|nil
function processes.child_of(pid)
  local path = ("/proc/%d/task/%d/children"):format(pid, pid)
  local text = errors.try(fs.read, path)
  return text and math.tointeger(tonumber(text:match("^%d+")))
end

return processes
