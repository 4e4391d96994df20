-- A program in a simulated sandbox that one talks to while it runs.

local fields = require("sbx.server.fields")
local pipes = require("sbx.server.driver.sim.pipes")
local process = require("sbx.server.driver.sim.process")
local task = require("sbx.task")

---@class sbx.server.sim.Session : sbx.server.Session
---@field pid integer
---@field exit_code? integer
---@field signal? integer
---@field private process sbx.server.sim.Process
---@field private queue table[]   {channel, bytes}, from `first` to `last`
---@field private waiter? sbx.core.Waiter
---@field private input? table
local Session = {}
Session.__index = Session

local session = {}

local function wake(self)
  if self.waiter then self.waiter:wake() end
end

-- What the program writes to one of its outputs.
local function output(self, channel)
  return {
    write = function(_, bytes)
      self.last = self.last + 1
      self.queue[self.last] = { channel, bytes }
      wake(self)
      return true
    end,
  }
end

-- The program's input, which comes as it is written.
local Input = {}
Input.__index = Input

local function await_more(self)
  return self.process:nap(math.huge)
end

function Input:line()
  while true do
    local line = self.text:match("^[^\n]*\n")
    if not line and self.ended and self.text ~= "" then line = self.text end
    if line then
      self.text = self.text:sub(#line + 1)
      return line
    end
    if self.ended or self.process.killed then return nil end
    await_more(self)
  end
end

function Input:all()
  while not self.ended and not self.process.killed do
    await_more(self)
  end
  local text = self.text
  self.text = ""
  return text
end

---@param main sbx.server.sim.Process
---@param options sbx.server.StartOptions
---@return sbx.server.sim.Session
---@return table fds
function session.new(main, options)
  local self = setmetatable({
    pid = main.pid, process = main, queue = {}, first = 1, last = 0,
  }, Session)
  local fds = { [0] = pipes.null }
  if options.stdin or options.pty then
    self.input = setmetatable({ text = "", ended = false, process = main }, Input)
    fds[0] = self.input
  end
  fds[1] = output(self, options.pty and "pty" or "stdout")
  fds[2] = options.pty and fds[1] or output(self, "stderr")
  return self, fds
end

---@async
function Session:read()
  while self.first > self.last do
    if self.exit_code then return nil end
    self.waiter = task.waiter("a simulated program's output")
    self.waiter:wait()
    self.waiter = nil
  end
  local piece = self.queue[self.first]
  self.queue[self.first] = nil
  self.first = self.first + 1
  return piece[1], piece[2]
end

function Session:write(bytes)
  local input = self.input
  if not input or input.ended or self.exit_code then
    fields.refuse("EPIPE", "write: the program reads no more")
  end
  input.text = input.text .. bytes
  input.process:wake()
end

function Session:close_stdin()
  if not self.input then return end
  self.input.ended = true
  self.process:wake()
end

function Session:kill(number)
  if self.exit_code then return end
  self.process.table:send(-self.process.session, number)
end

function Session.resize() end

function Session:close()
  self:kill(process.signal("KILL"))
end

Session.__close = Session.close

---Told when the program has ended.
---@param main sbx.server.sim.Process
function Session:ended(main)
  self.exit_code, self.signal = main.status, main.killed
  wake(self)
end

return session
