-- A WebSocket server of bare bytes, for what a well-behaved one would not send.
-- Runs in the test's own process. Loaded with dofile by the tests that need it.

local net = require("sbx.net")
local task = require("sbx.task")
local core = require("sbx.core.websocket")

local raw = {}

---@class raw.Peer
---@field stream sbx.Stream
---@field request string  what the client asked, head and all
---@field private buffer string
local Peer = {}
Peer.__index = Peer

function Peer:write(...)
  self.stream:write(table.concat({ ... }))
end

-- Exactly `n` bytes, or nil where the client ends before.
function Peer:take(n)
  while #self.buffer < n do
    local piece = self.stream:read()
    if not piece then return nil end
    self.buffer = self.buffer .. piece
  end
  local bytes = self.buffer:sub(1, n)
  self.buffer = self.buffer:sub(n + 1)
  return bytes
end

---The next frame of the client, unmasked; nil once it has gone.
---@return integer|nil opcode
---@return string payload
---@return boolean last
function Peer:frame()
  local head = self:take(2)
  if not head then return nil end
  local first, second = head:byte(1, 2)
  assert(first & 0x70 == 0, "reserved bits")
  assert(second & 0x80 ~= 0, "the client must mask")
  local size = second & 0x7F
  if size == 126 then size = string.unpack(">I2", self:take(2)) end
  if size == 127 then size = string.unpack(">I8", self:take(8)) end
  local mask = self:take(4)
  local payload = self:take(size)
  if not payload then return nil end
  -- Long ones are not looked at byte by byte.
  if size <= 4096 then
    local bytes = {}
    for i = 1, size do
      bytes[i] = string.char(payload:byte(i) ~ mask:byte((i - 1) % 4 + 1))
    end
    payload = table.concat(bytes)
  end
  return first & 0x0F, payload, first & 0x80 ~= 0
end

---Reads frames up to a Close; its code, or nil when the client just went away.
---@return integer|nil code
function Peer:await_close()
  while true do
    local opcode, payload = self:frame()
    if not opcode then return nil end
    if opcode == 8 then return #payload >= 2 and string.unpack(">I2", payload) or 1005 end
  end
end

---A frame as a server writes it.
---@param opcode integer
---@param payload? string
---@param first_bits? integer  instead of 0x80, which says that it is the last one
---@return string
function raw.frame(opcode, payload, first_bits)
  payload = payload or ""
  local size = #payload
  local head = string.char((first_bits or 0x80) | opcode)
  if size <= 125 then return head .. string.char(size) .. payload end
  if size <= 0xFFFF then return head .. string.pack(">BI2", 126, size) .. payload end
  return head .. string.pack(">BI8", 127, size) .. payload
end

---What a Close frame holds.
function raw.code(code, reason)
  return string.pack(">I2", code) .. (reason or "")
end

local function read_head(peer)
  while not peer.buffer:find("\r\n\r\n", 1, true) do
    local piece = peer.stream:read()
    if not piece then return nil end
    peer.buffer = peer.buffer .. piece
  end
  local head, rest = peer.buffer:match("^(.-\r\n\r\n)(.*)$")
  peer.buffer = rest
  return head
end

---The answer of a server that agrees.
---@param request string
---@param more? string  header lines
function raw.agree(request, more)
  local key = request:match("[Ss]ec%-WebSocket%-Key: ([^\r\n]+)")
  return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: " ..
    "keep-alive, Upgrade\r\nSec-WebSocket-Accept: " .. core.accept_for(key) .. "\r\n" ..
    (more or "") .. "\r\n"
end

---Listens; each connection whose head has come is handed to `serve(peer)`, which
---has said nothing yet, and is closed when that returns.
---@async
---@param serve async fun(peer: raw.Peer)
---@param path? string  of a Unix socket instead of a port
---@return table listener  closable; `url`
function raw.listen(serve, path)
  local listener = path and net.listen_unix(path) or net.listen("127.0.0.1", 0)
  local scope = task.open_scope()
  scope:daemon(function()
    while true do
      local stream = listener:accept()
      scope:daemon(function()
        local accepted <close> = stream
        local peer = setmetatable({ stream = accepted, buffer = "" }, Peer)
        peer.request = read_head(peer)
        if peer.request then serve(peer) end
      end)
    end
  end)
  return setmetatable({ url = "ws://127.0.0.1:" .. (listener.port or 80) }, {
    __close = function()
      scope:cancel()
      getmetatable(scope).__close(scope)
      listener:close()
    end,
  })
end

---As raw.listen, after an answer that agrees.
---@async
---@param serve async fun(peer: raw.Peer)
---@param path? string
function raw.serve(serve, path)
  return raw.listen(function(peer)
    peer:write(raw.agree(peer.request))
    serve(peer)
  end, path)
end

return raw
