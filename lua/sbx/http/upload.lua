-- Bodies from iterators. Each runs in a task of its own, which asks it for bytes
-- only when the connection wants them, and ends with the request.

local core = require("sbx.core.http")
local errors = require("sbx.errors")
local task = require("sbx.task")

---@class sbx.http.upload
local upload = {}

local PIECE = 256 * 1024 -- bytes handed over at once

local function wrong_length(wire, feed, sent, and_more)
  errors.raise {
    kind = "usage",
    op = "http",
    code = "ELENGTH",
    method = wire.method,
    message = ("%s: the body was to be %d bytes long, its iterator gave %s%d"):format(
      wire.method, feed.size, and_more or "", sent),
  }
end

-- False when nobody wants the bytes any more.
---@async
local function hand_over(exchange, part, bytes)
  local at = 1
  repeat
    local piece = #bytes <= PIECE and bytes or bytes:sub(at, at + PIECE - 1)
    if not exchange:feed(part, piece) then return false end
    at = at + #piece
  until at > #bytes
  return true
end

---@async
local function send_feed(exchange, wire, feed)
  if not exchange:wanted(feed.part) then return false end
  wire.begun = true
  local sent = 0
  while true do
    local bytes = feed.read()
    if bytes == nil then break end
    if type(bytes) ~= "string" then
      error("body: its iterator must return a string or nil, not a " .. type(bytes), 0)
    end
    sent = sent + #bytes
    if feed.size and sent > feed.size then wrong_length(wire, feed, sent, "at least ") end
    if not hand_over(exchange, feed.part, bytes) then return false end
  end
  if feed.size and sent < feed.size then wrong_length(wire, feed, sent) end
  exchange:finish(feed.part)
  return true
end

---@async
local function send_all(exchange, wire)
  for _, feed in ipairs(wire.feeds) do
    if not send_feed(exchange, wire, feed) then return end
  end
end

---Sends a request with iterators in its body and waits for the whole answer. A
---failure of an iterator is raised as it is.
---@async
---@param wire table
---@return table answer
function upload.request(wire)
  return task.scope(function(scope)
    local exchange <close> = core.start(wire, false)
    scope:daemon(send_all, exchange, wire)
    return exchange:answer()
  end)
end

---The sending side of a stream. It ends with the scope that it was started in,
---with the stream, or when all is sent.
---@class sbx.http.Upload
---@field failure? any
---@field private task sbx.Task
local Upload = {}
Upload.__index = Upload

---Starts sending the body of an exchange.
---@param exchange userdata
---@param wire table
---@return sbx.http.Upload
function upload.start(exchange, wire)
  local self = setmetatable({}, Upload)
  self.task = task.daemon(function()
    local ok, err = pcall(send_all, exchange, wire)
    if ok then return end
    if errors.is_error(err) and err.kind == "cancelled" then
      err = errors.new {
        kind = "http",
        op = "http",
        code = "ECANCELED",
        message = wire.method .. ": the task that sent the body was cancelled with its scope",
      }
    end
    self.failure = err
    exchange:close()
  end)
  return self
end

---Ends the sending, wherever it is, and waits for its end.
---@async
function Upload:close()
  self.task:cancel()
  self.task:pjoin()
end

return upload
