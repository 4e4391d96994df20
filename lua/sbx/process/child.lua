-- The object for a child that was started: talking to it, and ending it with all
-- that it started.

local check = require("sbx.check")
local signal = require("sbx.signal")
local start = require("sbx.process.start")
local task = require("sbx.task")

require("sbx.stream")

local REAP = 5 -- seconds for the kernel to end what got SIGKILL

---A running or ended child. As a `<close>` variable it is stopped at the end.
---@class sbx.Process
---@field pid integer
---@field name string
---@field running boolean
---@field stdin? sbx.Stream   where "pipe" or "socket" was asked for
---@field stdout? sbx.Stream
---@field stderr? sbx.Stream
---@field fds table<integer, sbx.Stream>
---@field package core sbx.core.process.Process
---@field package group boolean
---@field package grace number
---@field package released boolean|nil
local Process = { __name = "sbx.Process" }

function Process.__index(self, key)
  if key == "running" then return rawget(self, "core").running end
  return Process[key]
end

---Waits for the child's end, as often as you like.
---@async
---@return integer code    its exit code; 128 + signal when a signal killed it
---@return integer|nil signal
function Process:wait()
  return self.core:wait()
end

---An iterator over the lines of an output stream, "stdout" by default.
---@param name? "stdout"|"stderr"
---@param keep? boolean  with their line feeds
---@return async fun(): string|nil
function Process:lines(name, keep)
  name = name or "stdout"
  local stream = (name == "stdout" or name == "stderr") and rawget(self, name)
  if not stream then
    error(("lines: no stream %q: start the child with %s = \"pipe\""):format(tostring(name),
      name == "stderr" and name or "stdout"), 2)
  end
  return stream:lines(keep)
end

---Signals the child alone.
---@param name? string|integer  such as "TERM" (default) or 15
---@return boolean sent  false once it has ended
function Process:kill(name)
  return self.core:kill(signal.number(name or "TERM", 2))
end

---Signals the child and its descendants; unless it was started with `session =
---false`, when it has no group of its own.
---@param name? string|integer  such as "TERM" (default) or 15
---@return boolean sent  false once the child has ended
function Process:kill_group(name)
  local number = signal.number(name or "TERM", 2)
  if not self.group then error("kill_group: the child has no group of its own", 2) end
  return self.core:kill_group(number)
end

local TERM, KILL, CONT = signal.number("TERM"), signal.number("KILL"), signal.number("CONT")

local function send(child, number)
  if child.group then
    child.core:kill_group(number)
  else
    child.core:kill(number)
  end
end

-- Waits until the child and its group are gone.
---@async
local function await_end(child)
  child.core:wait()
  local pause = 0.002
  while child.group and child.core:kill_rest() do
    task.sleep(pause)
    pause = math.min(pause * 2, 0.1)
  end
end

-- To all that is left, and for good.
local function kill(child)
  if not child.core.running then
    if child.group then child.core:kill_rest(KILL) end
  elseif child.group then
    child.core:kill_group(KILL, true)
  else
    child.core:kill(KILL)
  end
end

---@async
local function stop(child)
  send(child, TERM)
  send(child, CONT) -- a stopped one would not notice
  if task.move_on(child.grace, await_end, child) then return end
  kill(child)
  await_end(child)
end

---Ends the child: SIGTERM to its group, SIGKILL to what still runs of it after its
---`grace`; waits until they are gone and closes the streams. Works in a cancelled
---task too. Again is harmless. What a child that ended by itself has left behind
---runs on.
---@async
function Process:close()
  -- First, so that a child that blocks on a full pipe or waits for input goes on.
  for _, stream in pairs(self.fds) do
    stream:close()
  end
  if self.core.running and not self.released then
    task.shield(self.grace + REAP, stop, self)
  end
end

Process.__close = Process.close

---Lets the child run on after `close` and the end of the program, which sends
---SIGTERM to every other child that still runs.
function Process:unref()
  self.released = true
  self.core:unref()
end

check.methods(Process, "child")

local child = {}

---Starts a program. `level` is that of error(): 1 names the caller's line.
---@param argv string[]
---@param options table|nil
---@param level integer
---@return sbx.Process
function child.start(argv, options, level)
  local started, name, opts = start.child(argv, options, level + 1)
  return setmetatable({
    core = started,
    name = name,
    group = opts.session,
    grace = opts.grace,
    pid = started.pid,
    stdin = started.stdin,
    stdout = started.stdout,
    stderr = started.stderr,
    fds = started.fds,
  }, Process)
end

return child
