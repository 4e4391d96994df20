-- Requests in a trace: from the moment they are asked for to the last byte of the answer.

local exchange = require("sbx.http.exchange")
local trace = require("sbx.trace")

local requests = {}

local count = 0
local open = {} -- of those that have not ended: id → the event that begins it

local function begin(wire)
  count = count + 1
  local url = trace.address(wire.url)
  local event = {
    ph = "b", cat = "http", id = ("%x"):format(count), pid = trace.REQUESTS, tid = 0,
    name = wire.method .. " " .. (url:match("^%a[%w+.-]*://[^/]*(/.*)$") or "/"),
    args = { task = trace.task(), url = url },
  }
  trace.emit(event)
  open[event.id] = event
  return event
end

local function milliseconds(seconds)
  return seconds and math.floor(seconds * 1e6 + 0.5) / 1000 or nil
end

local function finish(event, args)
  if not open[event.id] then return end
  open[event.id] = nil
  trace.emit({
    ph = "e", cat = "http", id = event.id, pid = event.pid, tid = 0, name = event.name, args = args,
  })
end

local function facts(answer)
  local timing = answer.timing or {}
  return {
    status = answer.status, size = answer.size, reused = timing.reused,
    queue_ms = milliseconds(timing.queue), dns_ms = milliseconds(timing.dns),
    connect_ms = milliseconds(timing.connect), tls_ms = milliseconds(timing.tls),
    first_byte_ms = milliseconds(timing.first_byte),
  }
end

-- The stream's own exchange, which tells when it is over.
local Watched = {}
Watched.__index = Watched

---@async
function Watched:read(most)
  local ok, bytes = pcall(self.exchange.read, self.exchange, most)
  if not ok then
    finish(self.event, { status = self.answer.status, error = trace.cause(bytes) })
    error(bytes, 0)
  end
  if bytes then
    self.size = self.size + #bytes
    return bytes
  end
  local args = facts(self.answer)
  args.size = self.size
  finish(self.event, args)
end

function Watched:timing()
  return self.exchange:timing()
end

function Watched:close()
  self.exchange:close()
  local args = facts(self.answer)
  args.size, args.closed = self.size, true
  finish(self.event, args)
end

---@async
local function traced(transmit, wire)
  local event = begin(wire)
  local ok, answer = pcall(transmit, wire)
  if not ok then
    finish(event, { error = trace.cause(answer) })
    error(answer, 0)
  end
  if wire.streamed then
    answer.exchange = setmetatable({
      exchange = answer.exchange, event = event, answer = answer, size = 0,
    }, Watched)
  else
    finish(event, facts(answer))
  end
  return answer
end

---From now on requests are traced.
function requests.start()
  exchange.wrap(function(transmit)
    return function(wire) return (traced(transmit, wire)) end
  end)
end

---Ends those that have not ended.
function requests.stop()
  local left = {}
  for _, event in pairs(open) do
    left[#left + 1] = event
  end
  table.sort(left, function(a, b) return tonumber(a.id, 16) < tonumber(b.id, 16) end)
  for _, event in ipairs(left) do
    finish(event, { unfinished = true })
  end
end

return requests
