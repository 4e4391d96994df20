-- Signals to this program, taken by a task that waits for them; and to others.

local check = require("sbx.check")
local core = require("sbx.core.signal")

---@class sbx.signal
local signal = {}

-- The same numbers on all machines that we run on.
local numbers = {
  HUP = 1, INT = 2, QUIT = 3, ILL = 4, TRAP = 5, ABRT = 6, BUS = 7, FPE = 8, KILL = 9, USR1 = 10,
  SEGV = 11, USR2 = 12, PIPE = 13, ALRM = 14, TERM = 15, CHLD = 17, CONT = 18, STOP = 19,
  TSTP = 20, TTIN = 21, TTOU = 22, URG = 23, XCPU = 24, XFSZ = 25, VTALRM = 26, PROF = 27,
  WINCH = 28, IO = 29, PWR = 30, SYS = 31,
}

local names = {}
for name, number in pairs(numbers) do
  names[number] = name
end

-- Why a script cannot listen to these.
local refused = {
  KILL = "no program can", STOP = "no program can",
  CHLD = "sbx.process waits for children with it",
  ILL = "it reports a fault of the program", TRAP = "it reports a fault of the program",
  ABRT = "it reports a fault of the program", BUS = "it reports a fault of the program",
  FPE = "it reports a fault of the program", SEGV = "it reports a fault of the program",
  SYS = "it reports a fault of the program",
  ["64"] = "the runtime's watchdog uses it",
}

---The number of a signal: of "TERM", "SIGTERM" or 15. Raises for anything else.
---@param value string|integer
---@param level? integer  whose line an error names (default 1: the caller's)
---@return integer
function signal.number(value, level)
  level = (level or 1) + 1
  if math.type(value) == "integer" then
    if value < 1 or value > 64 then error("signal: expected 1 to 64, got " .. value, level) end
    return value
  end
  if type(value) ~= "string" then
    error("signal: expected a name such as \"TERM\", got a " .. type(value), level)
  end
  local number = numbers[(value:gsub("^SIG", ""))]
  if not number then error(("signal: unknown: %q"):format(value), level) end
  return number
end

---The name of a signal's number, such as "TERM"; the number as text where it has
---none.
---@param number integer
---@return string
function signal.name(number)
  return names[number] or tostring(number)
end

---What a script listens to. Signals that come are kept until `wait` takes them.
---@class sbx.signal.Listener
---@field package core sbx.core.signal.Listener
local Listener = {}
Listener.__index = Listener
Listener.__name = "sbx.signal.Listener"

---Waits for the next signal and returns its name, or nil once the listener is
---closed. One task at a time.
---@async
---@return string|nil
function Listener:wait()
  local number = self.core:wait()
  return number and signal.name(number)
end

---Iterates over the signals as they come, until the listener is closed.
---@return async fun(): string|nil
function Listener:each()
  return function()
    return self:wait()
  end
end

---Stops listening: the signals do again what they do by default. What has come
---and was not taken is dropped. Again is harmless.
function Listener:close()
  self.core:close()
end

Listener.__close = Listener.close
check.methods(Listener, "listener")

---Listens to signals: `local s <close> = signal.listen("USR1", "HUP")`. As long as
---the listener lives, they go to it and do nothing else: TERM, INT and HUP do not
---end the script.
---@param ... string|integer  names or numbers
---@return sbx.signal.Listener
function signal.listen(...)
  local wanted = table.pack(...)
  if wanted.n == 0 then error("listen: expected the name of a signal", 2) end
  for i = 1, wanted.n do
    local number = signal.number(wanted[i], 2)
    local reason = refused[signal.name(number)]
    if reason then
      error(("signal: a script cannot listen to %s: %s"):format(signal.name(number), reason), 2)
    end
    wanted[i] = number
  end
  return setmetatable({ core = core.listen(table.unpack(wanted, 1, wanted.n)) }, Listener)
end

---Sends a signal to a process. Raises kind `io`, code `ESRCH`, where there is none,
---`EPERM` where it is another user's. A child is better signalled by its own
---`kill`, which cannot hit another process that got its number.
---@param pid integer
---@param value string|integer  name or number
function signal.send(pid, value)
  check.integer(pid, "pid", 1, 0x7fffffff)
  core.send(pid, signal.number(value, 2))
end

return signal
