-- A connection to the engine that has left HTTP: what we send reaches a container's
-- standard input as it is; its outputs arrive in frames of `u8 channel | 3 zeros | u32
-- length`. It is a stream, as `sbx.server.agent.attach` wants one.

local errors = require("sbx.errors")

---@class sbx.server.driver.docker.hijack
local hijack = {}

local HEADER = 8
local STDERR = 2
local MAX_HEAD, MAX_BODY = 64 * 1024, 4096
local MAX_COMPLAINT = 4096
local MAX_SKIPPED = 16 * 1024 * 1024

---@class sbx.server.driver.docker.Hijacked
---@field complaint string  what the container has written to its standard error, up to 4 KiB
---@field private stream sbx.Stream
---@field private buffer string   bytes of the engine that nobody has looked at
---@field private channel integer of the frame that we are in
---@field private ahead string    of the standard output, read but not asked for
---@field private left integer    bytes of it that are still to come
local Hijacked = {}
Hijacked.__index = Hijacked

local function broken(why)
  errors.raise {
    kind = "process", op = "engine", code = "EPROTO",
    message = "container engine: its answer makes no sense: " .. why,
  }
end

-- Up to the empty line; returns that and what came behind it.
local function read_head(stream)
  local buffer = ""
  while true do
    local stop, last = buffer:find("\r\n\r\n", 1, true)
    if stop then return buffer:sub(1, stop - 1), buffer:sub(last + 1) end
    if #buffer > MAX_HEAD then broken("an endless head") end
    local bytes = stream:read()
    if not bytes then broken("the connection ended before the answer") end
    buffer = buffer .. bytes
  end
end

-- The beginning of a refusal. Chunks may be left in it; its words are for people.
local function read_body(stream, head, body)
  local length = tonumber(head:lower():match("\r\ncontent%-length: *(%d+)"))
  local wanted = math.min(length or MAX_BODY, MAX_BODY)
  while #body < wanted do
    local bytes = errors.try(stream.read, stream)
    if not bytes then break end
    body = body .. bytes
  end
  return body
end

---Sends a POST that asks for the connection itself. Returns what came behind the
---answer's head, or the status and the body of a refusal.
---@async
---@param stream sbx.Stream
---@param target string
---@return string|integer, string|nil
function hijack.ask(stream, target)
  stream:write("POST " .. target .. " HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\n"
    .. "Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n")
  local head, rest = read_head(stream)
  local status = tonumber(head:match("^HTTP/1%.[01] (%d%d%d)"))
  if not status then broken("it is not HTTP/1") end
  -- 200 is how engines said it that did not know of upgrades.
  if status == 101 or status == 200 then return rest, nil end
  return status, read_body(stream, head, rest)
end

---@param stream sbx.Stream  which it owns from here on
---@param rest string        that came behind the head
---@return sbx.server.driver.docker.Hijacked
function hijack.new(stream, rest)
  return setmetatable({
    stream = stream, buffer = rest, channel = 0, left = 0, complaint = "", ahead = "",
  }, Hijacked)
end

-- Reads on; false at the end.
local function more(self)
  local bytes = self.stream:read()
  if not bytes then return false end
  self.buffer = self.buffer == "" and bytes or self.buffer .. bytes
  return true
end

-- Up to `max` bytes of the frame that we are in.
local function take(self, max)
  local count = math.min(self.left, max, #self.buffer)
  local bytes = self.buffer:sub(1, count)
  self.buffer = self.buffer:sub(count + 1)
  self.left = self.left - count
  return bytes
end

---What the container has written to its standard output, 1 to `max` bytes, or nil at
---the end.
---@async
---@param max? integer
---@return string|nil
function Hijacked:read(max)
  max = max or 65536
  if self.ahead ~= "" then
    local bytes = self.ahead:sub(1, max)
    self.ahead = self.ahead:sub(max + 1)
    return bytes
  end
  while true do
    if self.left == 0 then
      while #self.buffer < HEADER do
        if not more(self) then return nil end
      end
      local channel, length = string.unpack(">Bxxx I4", self.buffer)
      if channel > STDERR then broken("an unknown channel in a container's output") end
      self.channel, self.left = channel, length
      self.buffer = self.buffer:sub(HEADER + 1)
    elseif self.buffer == "" then
      if not more(self) then return nil end
    else
      local bytes = take(self, max)
      if self.channel ~= STDERR then return bytes end
      self.complaint = (self.complaint .. bytes):sub(1, MAX_COMPLAINT)
    end
  end
end

---Drops what arrives up to and with `mark`. Raises when so much else arrives that it
---will not come any more.
---@async
---@param mark string
function Hijacked:skip_past(mark)
  local buffer, dropped = "", 0
  while dropped < MAX_SKIPPED do
    local _, last = buffer:find(mark, 1, true)
    if last then
      self.ahead = buffer:sub(last + 1)
      return
    end
    local keep = math.min(#buffer, #mark - 1)
    dropped = dropped + #buffer - keep
    local bytes = self:read()
    if not bytes then break end
    buffer = buffer:sub(#buffer - keep + 1) .. bytes
  end
  broken("the agent does not greet")
end

---@async
---@param bytes string
function Hijacked:write(bytes)
  self.stream:write(bytes)
end

---Ends the connection in both directions; again is harmless.
function Hijacked:close()
  self.stream:close()
end

Hijacked.__close = Hijacked.close

return hijack
