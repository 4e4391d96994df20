-- Frames to and from the program that speaks SSH. The same in runtime/ssh_link.h, which
-- says what each letter means.

local task = require("sbx.task")

local pack, unpack = string.pack, string.unpack

local link = {}

---Bytes of a channel on their way, each way.
link.WINDOW = 131072
---Bytes of output in a frame.
link.PIECE = 32768

local HEAD = 6
local MAX = 65536

---@class sbx.server.ssh.Link
---@field private stream sbx.Stream
---@field private queue string[]
---@field private waiter? sbx.core.Waiter
---@field private rest string
local Link = {}
Link.__index = Link

---@param stream sbx.Stream
---@return sbx.server.ssh.Link
function link.new(stream)
  return setmetatable({ stream = stream, queue = {}, rest = "" }, Link)
end

---Puts a frame into the queue. Never waits: windows bound what can be in there.
---@param type string
---@param channel integer
---@param bytes? string
function Link:send(type, channel, bytes)
  table.insert(self.queue, pack(">c1Bs4", type, channel, bytes or ""))
  if self.waiter then self.waiter:wake() end
end

---Writes what is in the queue, until it is cancelled or the program has ended. In a task
---of its own, because a write that is cut off would break every channel.
---@async
function Link:write_all()
  while true do
    if #self.queue == 0 then
      self.waiter = task.waiter("something to tell the SSH program")
      self.waiter:wait()
      self.waiter = nil
    end
    local bytes = table.concat(self.queue)
    self.queue = {}
    self.stream:write(bytes)
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
