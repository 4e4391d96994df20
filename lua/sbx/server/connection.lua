-- A connection to a server inside the sandbox, relayed by its agent.

local check = require("sbx.check")
local fields = require("sbx.server.fields")
local link = require("sbx.server.link")

---@class sbx.server.connection
local connection = {}

-- What has arrived on a connection. Apart from it, so that a connection that
-- nobody holds any more is collected and closed.
---@class sbx.server.Inbox
---@field pieces string[]   [first, last] are there
---@field first integer
---@field last integer
---@field opened boolean
---@field eof boolean       the peer sends no more

---A connection to a server inside the sandbox. A `<close>` value; one task may
---read while another writes.
---@class sbx.server.Connection
---@field private call sbx.server.Call
---@field private inbox sbx.server.Inbox
---@field private shut boolean   we send no more
local Connection = {}
Connection.__index = Connection

local function take(inbox, max)
  local bytes = inbox.pieces[inbox.first]
  if max and #bytes > max then
    inbox.pieces[inbox.first] = bytes:sub(max + 1)
    return bytes:sub(1, max)
  end
  inbox.pieces[inbox.first] = nil
  inbox.first = inbox.first + 1
  return bytes
end

---What has arrived, 1 to `max` bytes, or nil at the end.
---@async
---@param max? integer
---@return string|nil
function Connection:read(max)
  if max then check.integer(max, "max", 1) end
  local call, inbox = self.call, self.inbox
  while inbox.first > inbox.last do
    if inbox.eof or call.abandoned then return nil end
    if call.failure then error(call.failure, 0) end
    if call.over then return nil end
    call:pause("data from a sandbox")
  end
  local bytes = take(inbox, max)
  call:allow(#bytes)
  return bytes
end

---Sends all of `bytes`; waits while the server inside is slow to take them.
---@async
---@param bytes string
function Connection:write(bytes)
  check.string(bytes, "bytes")
  if self.shut then fields.refuse("EPIPE", "write: after the end") end
  if self.call:send_data(bytes) then return end
  if self.call.failure then error(self.call.failure, 0) end
  fields.refuse("EPIPE", "write: the connection is closed")
end

---Says that no more will be written. Never waits.
function Connection:shutdown()
  if self.shut or self.call.over or self.call.abandoned then return end
  self.shut = true
  self.call:send(link.EOF)
end

---Closes the connection in both directions. Never waits.
function Connection:close()
  self.call:abandon()
end

Connection.__close = Connection.close
Connection.__gc = Connection.close

local function inbox_handlers(inbox)
  return {
    [link.OPENED] = function(call)
      inbox.opened = true
      call:wake()
    end,
    [link.DATA] = function(call, bytes)
      call:arrived(bytes)
      if call.abandoned then return end
      inbox.last = inbox.last + 1
      inbox.pieces[inbox.last] = bytes
      call:wake()
    end,
    [link.EOF] = function(call)
      inbox.eof = true
      call:wake()
    end,
  }
end

---Connects to a port on the sandbox's loopback, IPv4 first. Raises `connect`
---errors such as ECONNREFUSED.
---@async
---@param to sbx.server.Link
---@param port integer
---@return sbx.server.Connection
function connection.open(to, port)
  check.integer(port, "port", 1, 65535)
  local inbox = { pieces = {}, first = 1, last = 0, opened = false, eof = false }
  local call = to:call("connect to port " .. port, inbox_handlers(inbox))
  local self = setmetatable({ call = call, inbox = inbox, shut = false }, Connection)
  call:send(link.DIAL, string.pack(">I2", port))

  local ok, failure = pcall(function()
    while not inbox.opened and not call.over do
      call:pause("a connection into a sandbox")
    end
    if inbox.opened then return end
    if not call.failure then to:fail("dial") end
    if call.failure.kind == "io" then call.failure.kind = "connect" end
    error(call.failure, 0)
  end)
  if ok then return self end
  self:close()
  error(failure, 0)
end

return connection
