-- An answer whose body is read piece by piece. What is not read yet holds up the
-- server, so that a body of any length needs little memory.

local check = require("sbx.check")
local core = require("sbx.core.http")
local errors = require("sbx.errors")
local events = require("sbx.http.events")
local reader = require("sbx.reader")
local response = require("sbx.http.response")
local task = require("sbx.core.task")
local upload = require("sbx.http.upload")

local MAX_BODY = 64 * 1024 * 1024
local MAX_EVENT = 16 * 1024 * 1024

---@class sbx.http.Stream: sbx.http.Answer
---@field last_event_id? string    of the events that were read
---@field reconnect_after? number  seconds, if the server said so in an event
---@field private exchange userdata
---@field private reader sbx.Reader
---@field private upload? sbx.http.Upload
local Stream = {}
Stream.__name = "sbx.http.Stream"

local stream = { class = Stream }

-- Why the exchange came to its end: what the sending side did is told before what
-- it led to, and a cancellation before both.
local function fail(err, sender)
  task.checkpoint()
  error(sender and sender.failure or err, 0)
end

-- The bytes of the body as they come, for the reader.
local function source_of(self)
  return function()
    local ok, bytes = pcall(self.exchange.read, self.exchange)
    if not ok then fail(bytes, self.upload) end
    if not bytes then self.timing = self.exchange:timing() end
    return bytes
  end
end

---Sends a request and waits for the head of the answer.
---@async
---@param wire table
---@return sbx.http.Stream
function stream.open(wire)
  local exchange = core.start(wire, true)
  local sender = wire.feeds and upload.start(exchange, wire)
  local ok, head = pcall(exchange.head, exchange)
  if not ok then
    exchange:close()
    if sender then sender:close() end
    fail(head, sender)
  end
  head.method, head.max_body = wire.method, wire.max_body or MAX_BODY
  head.exchange, head.upload = exchange, sender or nil
  head.reader = reader.new(source_of(head))
  return setmetatable(head, Stream)
end

---Up to `n` bytes, as soon as there are any; nil at the end of the body. All
---reading functions share one position. They raise what http.request raises when
---the connection breaks or a clock runs out, after the bytes that came before.
---@async
---@param n? integer  default: what is at hand
---@return string|nil
function Stream:read(n)
  if n ~= nil then check.integer(n, "n", 1) end
  return self.reader:some(n)
end

---The next line, or nil at the end. Raises kind `limit` for one over 16 MiB.
---@async
---@param keep? boolean  with its line feed (default: without)
---@return string|nil
function Stream:line(keep)
  return self.reader:line(keep)
end

---An iterator over the lines that are left.
---@param keep? boolean  with their line feeds
---@return async fun(): string|nil
function Stream:lines(keep)
  return self.reader:lines(keep)
end

---An iterator over what is left, in pieces as they come.
---@return async fun(): string|nil
function Stream:chunks()
  return function() return self.reader:some() end
end

---All that is left. Raises kind `limit` beyond `max` bytes.
---@async
---@param max? integer  bytes (default: the request's `max_body`, else 64 MiB)
---@return string
function Stream:all(max)
  if max ~= nil then check.integer(max, "max", 0) end
  return self.reader:all(max or self.max_body)
end

---All that is left, as JSON. Raises an error of kind `json` when it is none.
---@async
---@return any
function Stream:json()
  return response.decode(self, self:all())
end

---An iterator over server-sent events. One that the end of the body cuts short is
---dropped. Raises kind `limit` for one over 16 MiB.
---@return async fun(): sbx.http.Event|nil
function Stream:events()
  local parser = self.parser or events.parser(MAX_EVENT)
  self.parser = parser
  return function()
    while true do
      local event = parser:next()
      if event then
        self.last_event_id = event.id
        return event
      end
      self.last_event_id, self.reconnect_after = parser.last_id, parser.retry
      local bytes = self.reader:some()
      if not bytes then return nil end
      parser:feed(bytes)
    end
  end
end

---Writes what is left to a file, whatever the status. The file has its name only
---once it is whole; it keeps the mode of the one that it replaces.
---@async
---@param path string
---@return integer size  bytes
function Stream:save(path)
  check.string(path, "path")
  return (require("sbx.http.save")(path, self:chunks()))
end

local function refuse_reading()
  errors.raise { kind = "io", op = "http", code = "EBADF", message = "http: the answer is closed" }
end

---Lets go of the answer; a connection with bytes left on it is closed. Closing
---twice is harmless.
---@async
function Stream:close()
  self.exchange:close()
  self.reader = reader.new(refuse_reading)
  if self.upload then self.upload:close() end
end

check.methods(Stream, "res")
Stream.__index = Stream
Stream.__close = function(self) self:close() end
Stream.__tostring = response.describe

return stream
