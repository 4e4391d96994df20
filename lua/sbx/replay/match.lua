-- Finds the recorded exchange for a request: the first that is left of those with the same
-- method, address and body.

local request = require("sbx.replay.request")
local tokens = require("sbx.replay.tokens")

local match = {}

---@class sbx.replay.Match
---@field private bindings sbx.replay.Bindings
---@field private queues table<string, table>   key → { entries, next }
local Match = {}
Match.__index = Match

local SEPARATOR = "\n"

local function key_of(method, address, kind, body)
  return table.concat({ method, address, kind, body or "" }, SEPARATOR)
end

local function add(self, key, entry)
  local queue = self.queues[key]
  if not queue then
    queue = {}
    self.queues[key] = queue
  end
  queue[#queue + 1] = entry
end

---@param recording sbx.replay.Recording
---@param bindings sbx.replay.Bindings
---@return sbx.replay.Match
function match.new(recording, bindings)
  local self = setmetatable({ bindings = bindings, queues = {}, all = recording.exchanges }, Match)
  for _, exchange in ipairs(recording.exchanges) do
    local address, numbers = tokens.frame(exchange.url)
    local body, more = tokens.frame(exchange.body or "")
    table.move(more, 1, #more, #numbers + 1, numbers)
    local entry = { exchange = exchange, numbers = numbers, used = false }
    add(self, key_of(exchange.method, address, exchange.kind, body), entry)
    -- The same wherever the server is.
    add(self, key_of(exchange.method, request.path(address), exchange.kind, body), entry)
  end
  return self
end

local function take(self, queue, values, again)
  local last
  for _, entry in ipairs(queue or {}) do
    if self.bindings:agree(entry.numbers, values) then
      if not entry.used then
        entry.used = true
        self.bindings:bind(entry.numbers, values)
        return entry.exchange
      end
      last = entry.exchange
    end
  end
  return again and last or nil
end

---The exchange for a request. One that may be sent twice gets the last answer again, once
---there is no other.
---@param sent sbx.replay.Request
---@return sbx.replay.Exchange|nil
function Match:find(sent)
  local address, values = self.bindings:frame(sent.url)
  local body, more = self.bindings:frame(sent.body or "")
  table.move(more, 1, #more, #values + 1, values)
  local exact = self.queues[key_of(sent.method, address, sent.kind, body)]
  local anywhere = self.queues[key_of(sent.method, request.path(address), sent.kind, body)]
  return take(self, exact, values, false) or take(self, anywhere, values, false)
    or take(self, exact, values, sent.again) or take(self, anywhere, values, sent.again)
end

-- ------------------------------------------------------------------- the nearest

-- How much of two texts is the same from their beginning, and where they part.
local function common(a, b)
  local most = math.min(#a, #b)
  for i = 1, most do
    if a:byte(i) ~= b:byte(i) then return i - 1 end
  end
  return most
end

local function score(exchange, sent)
  local points = 0
  if exchange.method == sent.method then points = points + 1000 end
  local a, b = request.path(exchange.url), request.path(sent.url)
  if a == b then points = points + 100000 end
  points = points + math.min(900, 900 * common(a, b) // math.max(1, #a, #b))
  points = points + math.min(90, common(exchange.body or "", sent.body or ""))
  return points
end

---The recorded exchange that is most like a request, and how they differ.
---@param sent sbx.replay.Request
---@return sbx.replay.Exchange|nil, string difference
function Match:nearest(sent)
  local best, most = nil, -1
  for _, exchange in ipairs(self.all) do
    local points = score(exchange, sent)
    if points > most then
      best, most = exchange, points
    end
  end
  if not best then return nil, "" end
  if request.path(best.url) ~= request.path(sent.url) then return best, "" end
  if best.method ~= sent.method then return best, ", with another method" end
  if best.kind ~= sent.kind or best.body ~= sent.body then
    local at = common(best.body or "", sent.body or "") + 1
    return best, (", with another body from byte %d on"):format(at)
  end
  return best, ", which was used before"
end

return match
