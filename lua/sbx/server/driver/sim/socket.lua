-- A connection to a simulated server: it is asked once, and answers once.

local fields = require("sbx.server.fields")
local task = require("sbx.task")

---@class sbx.server.sim.Socket
---@field private answer async fun(request: string): string
---@field private request string
---@field private reply? string     what is still to be read
---@field private closed boolean
---@field private waiter? sbx.core.Waiter
local Socket = {}
Socket.__index = Socket

local socket = {}

local MAX_REQUEST = 1024 * 1024

---@param answer async fun(request: string): string
---@return sbx.server.sim.Socket
function socket.new(answer)
  return setmetatable({ answer = answer, request = "", closed = false }, Socket)
end

local function ask(self)
  if self.reply then return end
  self.reply = ""
  self.reply = self.answer(self.request)
  self.ready = true
  if self.waiter then self.waiter:wake() end
end

---@async
---@param bytes string
function Socket:write(bytes)
  if self.closed or self.shut then fields.refuse("EPIPE", "write: the connection is closed") end
  if self.reply then return end -- it listens no more
  self.request = self.request .. bytes
  local is_whole = self.request:find("\r\n\r\n", 1, true) or #self.request > MAX_REQUEST
  if is_whole then ask(self) end
end

---Says that no more will be written.
function Socket:shutdown()
  self.shut = true
  if self.waiter then self.waiter:wake() end
end

---@async
---@param max? integer
---@return string|nil
function Socket:read(max)
  while not self.ready do
    if self.closed then return nil end
    if self.shut and not self.reply then
      ask(self)
    else
      self.waiter = task.waiter("a simulated server's answer")
      self.waiter:wait()
      self.waiter = nil
    end
  end
  if self.closed or self.reply == "" then return nil end
  local bytes = self.reply:sub(1, max or #self.reply)
  self.reply = self.reply:sub(#bytes + 1)
  return bytes
end

function Socket:close()
  self.closed = true
  if self.waiter then self.waiter:wake() end
end

Socket.__close = Socket.close

return socket
