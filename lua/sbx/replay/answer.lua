-- Makes answers of what was recorded: whole ones, files, and streams that go on.

local errors = require("sbx.errors")
local file = require("sbx.replay.file")
local reader = require("sbx.reader")
local task = require("sbx.task")

local answer = {}

local MAX_BODY = 64 * 1024 * 1024

---@class sbx.replay.Context
---@field bindings sbx.replay.Bindings
---@field began number  on task.now

local function bytes_of(context, piece)
  local bytes, is_text = file.bytes(piece)
  return is_text and context.bindings:fill(bytes) or bytes
end

-- Seconds without a connection: they were all spent on the answer.
local function timing_of(seconds)
  return {
    queue = 0, dns = 0, connect = 0, tls = 0, first_byte = seconds, total = seconds, reused = true,
  }
end

local function head_of(context, exchange)
  local recorded = exchange.answer
  local url = context.bindings:fill(recorded.url or exchange.url)
  local headers = {}
  for name, value in pairs(recorded.headers or {}) do
    headers[name] = type(value) == "string" and context.bindings:fill(value) or nil
  end
  return {
    status = recorded.status, reason = recorded.reason or "", headers = headers,
    url = url, label = url:match("^[^?]*"), retry_after = recorded.retry_after,
    timing = timing_of(exchange.seconds),
  }
end

local function whole_body(context, exchange)
  if #exchange.pieces == 0 then return bytes_of(context, exchange.answer) end
  local parts = {}
  for i, piece in ipairs(exchange.pieces) do
    parts[i] = bytes_of(context, piece)
  end
  return table.concat(parts)
end

---@async
local function save(path, body)
  local at = 1
  local pieces = function()
    if at > #body then return nil end
    local piece = body:sub(at, at + 262143)
    at = at + #piece
    return piece
  end
  require("sbx.http.save")(path, pieces)
end

---An answer that is read whole.
---@async
---@param context sbx.replay.Context
---@param exchange sbx.replay.Exchange
---@param wire table
---@return table
function answer.whole(context, exchange, wire)
  local made = head_of(context, exchange)
  local body = whole_body(context, exchange)
  made.size = #body
  local moved = wire.redirects and made.status >= 300
  if wire.save and made.status < 400 and not moved then
    save(wire.save, body)
    made.saved = wire.save
  else
    made.body = body
  end
  return made
end

---The error that a request ended with.
---@param fields table
---@return sbx.Error
function answer.error(fields)
  local copy = {}
  for name, value in pairs(fields) do
    copy[name] = value
  end
  copy.kind, copy.message = copy.kind or "http", copy.message or "http: failed"
  return errors.new(copy)
end

-- In place of the exchange of a stream.
local Played = {}
Played.__index = Played

local function refuse_reading()
  errors.raise({ kind = "io", op = "http", code = "EBADF", message = "http: the answer is closed" })
end

-- Sleeps until the moment at which it happened.
---@async
local function await(self, at)
  local left = at and self.context.began + at + self.late - task.now() or 0
  if left > 0 then task.sleep(left) end
end

---@async
function Played:read(most)
  if self.closed then refuse_reading() end
  if self.rest == "" then
    local piece = self.exchange.pieces[self.next]
    if not piece then
      local last = self.exchange.last or {}
      await(self, last.at)
      if last.error then error(answer.error(last.error), 0) end
      -- The recording knows no more: the script had closed it here.
      return nil
    end
    await(self, piece.at)
    self.next = self.next + 1
    self.rest = bytes_of(self.context, piece)
  end
  local bytes = most and self.rest:sub(1, most) or self.rest
  self.rest = self.rest:sub(#bytes + 1)
  return bytes
end

function Played:timing()
  return timing_of(self.exchange.seconds)
end

function Played:close()
  self.closed = true
end

---An answer that is read piece by piece; each comes so long after the head as it did.
---@param context sbx.replay.Context
---@param exchange sbx.replay.Exchange
---@param wire table
---@return table
function answer.stream(context, exchange, wire)
  local made = head_of(context, exchange)
  if not exchange.stream then
    exchange = setmetatable({
      pieces = #exchange.pieces > 0 and exchange.pieces or { exchange.answer },
    }, { __index = exchange })
  end
  local played = setmetatable({
    context = context, exchange = exchange, next = 1, rest = "", closed = false,
    late = task.now() - (context.began + exchange.at + exchange.seconds),
  }, Played)
  made.max_body = wire.max_body or MAX_BODY
  made.exchange = played
  made.reader = reader.new(function()
    repeat
      local bytes = played:read()
      if bytes ~= "" then return bytes end
    until false
  end)
  return made
end

return answer
