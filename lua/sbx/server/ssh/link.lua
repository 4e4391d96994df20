-- Frames to and from the program that speaks SSH. The same in runtime/ssh_link.h, which
-- says what each letter means.

local task = require("sbx.task")

local pack, unpack = string.pack, string.unpack

local link = {}

---Bytes of a channel on their way, each way.
link.WINDOW = 131072
---Bytes of output in a frame.
link.PIECE = 32768

---Channels of a connection; a frame carries no higher number.
link.CHANNELS = 10
---How often a peer may show a key.
link.TRIES = 20

local HEAD = 6
local MAX = 65536

---@class sbx.server.ssh.Link
---@field private stream sbx.Stream
---@field private queue string[]
---@field private credits table<integer, integer>   channel → bytes of input that were used
---@field private forgotten table<integer, boolean>  channels whose "z" is in the queue
---@field private waiter? sbx.core.Waiter
---@field private rest string
local Link = {}
Link.__index = Link

---@param stream sbx.Stream
---@return sbx.server.ssh.Link
function link.new(stream)
  return setmetatable({
    stream = stream, queue = {}, credits = {}, forgotten = {}, rest = "",
  }, Link)
end

local function wake(self)
  if self.waiter then self.waiter:wake() end
end

---Puts a frame into the queue. Never waits: windows bound what can be in there, also
---where the program reads nothing.
---@param type string
---@param channel integer
---@param bytes? string
function Link:send(type, channel, bytes)
  table.insert(self.queue, pack(">c1Bs4", type, channel, bytes or ""))
  wake(self)
end

---Says that so many bytes of a channel's input were used. Never waits; what was not
---written yet is said at once.
---@param channel integer
---@param count integer
function Link:credit(channel, count)
  self.credits[channel] = (self.credits[channel] or 0) + count
  wake(self)
end

---Says that a channel's number may be used again. Never waits.
---@param channel integer
function Link:forget(channel)
  self.credits[channel] = nil
  self.forgotten[channel] = true
  self:send("z", channel)
end

---Whether the program cannot know yet that the number may be used again.
---@param channel integer
---@return boolean
function Link:is_taken(channel)
  return self.forgotten[channel] == true
end

-- All that there is to say.
local function take(self)
  local frames = self.queue
  for channel, count in pairs(self.credits) do
    table.insert(frames, 1, pack(">c1Bs4", "w", channel, pack(">I4", count)))
  end
  self.queue, self.credits, self.forgotten = {}, {}, {}
  return table.concat(frames)
end

---Writes what is in the queue, until it is cancelled or the program has ended. In a task
---of its own, because a write that is cut off would break every channel.
---@async
function Link:write_all()
  while true do
    if #self.queue == 0 and next(self.credits) == nil then
      self.waiter = task.waiter("something to tell the SSH program")
      self.waiter:wait()
      self.waiter = nil
    end
    self.stream:write(take(self))
  end
end

local function fill(self, size)
  while #self.rest < size do
    local bytes = self.stream:read()
    if not bytes then return false end
    self.rest = self.rest .. bytes
  end
  return true
end

---The next frame; nil once the program has ended.
---@async
---@return string|nil type
---@return integer|nil channel
---@return string|nil bytes
function Link:receive()
  if not fill(self, HEAD) then return nil end
  local type, channel, size = unpack(">c1BI4", self.rest)
  if size > MAX then error("an SSH frame that is too large", 0) end
  if not fill(self, HEAD + size) then return nil end
  local bytes = self.rest:sub(HEAD + 1, HEAD + size)
  self.rest = self.rest:sub(HEAD + size + 1)
  return type, channel, bytes
end

return link
