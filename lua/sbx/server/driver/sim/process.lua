-- The processes of a simulated sandbox. Each is a task, or a part of one, that looks
-- for signals between two commands and while it sleeps; nothing is ever cancelled.

local task = require("sbx.task")

local process = {}

---@class sbx.server.sim.Process
---@field pid integer
---@field parent integer
---@field session integer   the pid of its leader; stands for its group too
---@field root integer      the pid of the command that it comes from
---@field env table<string, string>
---@field status? integer   once it has ended
---@field killed? integer   the signal that ends it
---@field traps table<string, string>  by the signal's name
---@field pending string[]  signals that a trap waits for
---@field child? sbx.server.sim.Process  that it waits for
---@field private sleeper? sbx.core.Waiter
---@field private awaiting sbx.core.Waiter[]  those who wait for its end
---@field private table sbx.server.sim.Processes
local Process = {}
Process.__index = Process

---@class sbx.server.sim.Processes
---@field by_pid table<integer, sbx.server.sim.Process>
---@field private last integer
---@field private statuses table<integer, integer>  of children that have ended
local Processes = {}
Processes.__index = Processes

local SIGNALS = { HUP = 1, INT = 2, QUIT = 3, KILL = 9, USR1 = 10, USR2 = 12, PIPE = 13, ALRM = 14,
  TERM = 15, CHLD = 17, CONT = 18, STOP = 19 }
local HARMLESS = { [17] = true, [18] = true, [19] = true }
local NAMES = {}
for name, number in pairs(SIGNALS) do
  NAMES[number] = name
end

local MAX_PROCESSES = 512
local MAX_NAP = 1e8

---@return sbx.server.sim.Processes
function process.table()
  return setmetatable({ by_pid = {}, last = 1, statuses = {}, count = 0 }, Processes)
end

---The number of a signal from its name or number, or nil.
---@param text string
---@return integer|nil
function process.signal(text)
  local number = math.tointeger(tonumber(text))
  if number then return number >= 0 and number <= 64 and number or nil end
  return SIGNALS[text:upper():gsub("^SIG", "")]
end

---@param number integer
---@return string
function process.signal_name(number)
  return NAMES[number] or tostring(number)
end

---A new process, or nil where there are too many.
---@param parent? sbx.server.sim.Process
---@param env table<string, string>
---@return sbx.server.sim.Process|nil
function Processes:spawn(parent, env)
  if self.count >= MAX_PROCESSES then return nil end
  self.last = self.last + 1
  self.count = self.count + 1
  local made = setmetatable({
    pid = self.last, parent = parent and parent.pid or 1,
    root = parent and parent.root or self.last,
    session = parent and parent.session or self.last, env = env, traps = {}, pending = {},
    awaiting = {}, table = self,
  }, Process)
  self.by_pid[made.pid] = made
  return made
end

---@param pid integer|nil
---@return sbx.server.sim.Process|nil
function Processes:find(pid)
  return self.by_pid[pid]
end

---The exit status of a process that has ended and was not asked for yet.
---@param pid integer
---@return integer|nil
function Processes:status_of(pid)
  local status = self.statuses[pid]
  self.statuses[pid] = nil
  return status
end

---Ends all of them, or those that come from one command.
---@param root? integer
function Processes:kill_all(root)
  for _, one in pairs(self.by_pid) do
    if not root or one.root == root then one:signal(SIGNALS.KILL) end
  end
end

---Sends a signal as kill does: to a pid, or with a negative one to a session.
---@param pid integer
---@param number integer
---@return boolean found
function Processes:send(pid, number)
  if pid >= 0 then
    local one = self.by_pid[pid]
    if one then one:signal(number) end
    return one ~= nil
  end
  local found = false
  for _, one in pairs(self.by_pid) do
    if one.session == -pid then
      found = true
      one:signal(number)
    end
  end
  return found
end

---@param number integer  0 does nothing
function Process:signal(number)
  if self.status or number == 0 then return end
  local name = process.signal_name(number)
  local trap = number ~= SIGNALS.KILL and self.traps[name]
  if trap == "" or (not trap and HARMLESS[number]) then return end
  if trap then
    self.pending[#self.pending + 1] = name
  else
    self.killed = self.killed or number
    if self.child then self.child:signal(SIGNALS.KILL) end
  end
  if self.sleeper then self.sleeper:wake() end
end

---Whether it is to do something else than what it does.
---@return boolean
function Process:interrupted()
  return self.killed ~= nil or #self.pending > 0
end

---Lets it look around before its nap is over.
function Process:wake()
  if self.sleeper then self.sleeper:wake() end
end

---Waits. False when a signal came before the time was over.
---@async
---@param seconds number
---@return boolean
function Process:nap(seconds)
  if self:interrupted() then return false end
  self.sleeper = task.waiter("a simulated command")
  local woken = task.move_on(math.min(seconds, MAX_NAP), self.sleeper.wait, self.sleeper)
  self.sleeper = nil
  return not woken
end

---Waits for the end of another one, and returns its status; nil when a signal came.
---@async
---@param other sbx.server.sim.Process
---@return integer|nil
function Process:await(other)
  while not other.status do
    if self:interrupted() then return nil end
    local waiter = task.waiter("the end of a simulated process")
    other.awaiting[#other.awaiting + 1] = waiter
    self.sleeper = waiter
    waiter:wait()
    self.sleeper = nil
  end
  return other.status
end

---Marks its end. `remember`: somebody may ask for its status.
---@param status integer
---@param remember boolean
function Process:finish(status, remember)
  if self.status then return end
  self.status = self.killed and 128 + self.killed or status
  self.table.by_pid[self.pid] = nil
  self.table.count = self.table.count - 1
  if remember then self.table.statuses[self.pid] = self.status end
  for _, waiter in ipairs(self.awaiting) do
    waiter:wake()
  end
end

---What /proc/PID/stat says.
---@return string
function Process:stat()
  return ("%d (sim) S %d %d %d 0 -1\n"):format(self.pid, self.parent, self.session, self.session)
end

---What /proc/PID/environ says.
---@return string
function Process:environ()
  local list = {}
  for name, value in pairs(self.env) do
    list[#list + 1] = name .. "=" .. value .. "\0"
  end
  table.sort(list)
  return table.concat(list)
end

return process
