-- Server-sent events, by the rules of the WHATWG's HTML standard (9.2.6). Bytes
-- go in as they come, events come out.

local errors = require("sbx.errors")

---@class sbx.http.Event
---@field event string   "message", unless the server names another
---@field data string    its lines, joined by line feeds
---@field id string      the last id that the server has sent; "" for none
---@field retry? number  seconds to wait before connecting again, if it said so

---@class sbx.http.EventParser
---@field last_id string
---@field retry? number  seconds
---@field private events sbx.http.Event[]
local Parser = {}
Parser.__index = Parser

local events = {}

---@param most integer  bytes of one event
---@return sbx.http.EventParser
function events.parser(most)
  return setmetatable({
    most = most, size = 0, first = true, pieces = {}, data = {}, last_id = "", id = "",
    events = {}, head = 1,
  }, Parser)
end

local function count(self, size)
  self.size = self.size + size
  if self.size <= self.most then return end
  errors.raise {
    kind = "limit",
    op = "read",
    message = ("read an event: it is longer than %d bytes"):format(self.most),
  }
end

local function dispatch(self)
  self.last_id = self.id
  if #self.data > 0 then
    self.events[#self.events + 1] = {
      event = self.type or "message",
      data = table.concat(self.data, "\n"),
      id = self.last_id,
      retry = self.new_retry,
    }
  end
  self.type, self.data, self.size, self.new_retry = nil, {}, 0, nil
end

local function take_field(self, name, value)
  if name == "data" then
    self.data[#self.data + 1] = value
  elseif name == "event" then
    self.type = value ~= "" and value or nil
  elseif name == "id" then
    if not value:find("\0", 1, true) then self.id = value end
  elseif name == "retry" and value:find("^%d+$") and #value < 16 then
    self.retry = tonumber(value) / 1000
    self.new_retry = self.retry
  end
end

local function take_line(self, line)
  if self.first then
    self.first = false
    line = line:gsub("^\xEF\xBB\xBF", "") -- the byte order mark
  end
  if line == "" then return dispatch(self) end
  local colon = line:find(":", 1, true)
  if colon == 1 then return end -- a comment
  if not colon then return take_field(self, line, "") end
  local start = line:byte(colon + 1) == 32 and colon + 2 or colon + 1
  take_field(self, line:sub(1, colon - 1), line:sub(start))
end

---Takes the next bytes of the stream, cut anywhere. Raises kind `limit` for an
---event that is too long.
---@param bytes string
function Parser:feed(bytes)
  local at = 1
  -- A line ends with CR LF, LF or CR, also when the CR came with the last bytes.
  if self.after_cr and bytes ~= "" then
    if bytes:byte(1) == 10 then at = 2 end
    self.after_cr = false
  end
  while true do
    local stop = bytes:find("[\r\n]", at)
    local piece = bytes:sub(at, stop and stop - 1)
    count(self, #piece)
    self.pieces[#self.pieces + 1] = piece
    if not stop then return end
    local line = table.concat(self.pieces)
    self.pieces = {}
    -- Only the data of an event piles up.
    if line:sub(1, 4) ~= "data" then self.size = self.size - #line end
    at = stop + 1
    if bytes:byte(stop) == 13 then
      if stop == #bytes then self.after_cr = true end
      if bytes:byte(at) == 10 then at = at + 1 end
    end
    take_line(self, line)
  end
end

---The next whole event, or nil when more bytes are needed.
---@return sbx.http.Event|nil
function Parser:next()
  local event = self.events[self.head]
  if not event then
    self.events, self.head = {}, 1
    return nil
  end
  self.head = self.head + 1
  return event
end

return events
