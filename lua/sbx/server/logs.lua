-- The log of one sandbox: lines with their time, the newest kept when there are
-- too many bytes.

local text = require("sbx.server.text")
local time = require("sbx.core.time")

---@class sbx.server.Logs
---@field private lines string[]
---@field private first integer  index of the oldest line kept
---@field private last integer
---@field size integer  bytes kept
---@field private limit integer
---@field private dropped integer
local Logs = {}
Logs.__index = Logs

local logs = {}

local MAX_LINE = 16384

---@param limit? integer  bytes to keep (default 1 MiB)
---@return sbx.server.Logs
function logs.new(limit)
  return setmetatable({
    lines = {}, first = 1, last = 0, size = 0, dropped = 0, limit = limit or 1048576,
  }, Logs)
end

local function drop_oldest(self)
  self.size = self.size - #self.lines[self.first]
  self.lines[self.first] = nil
  self.first = self.first + 1
  self.dropped = self.dropped + 1
end

function Logs:push(line)
  self.last = self.last + 1
  self.lines[self.last] = line
  self.size = self.size + #line
  while self.size > self.limit and self.first < self.last do
    drop_oldest(self)
  end
end

---Keeps only the newest lines, of `limit` bytes in all, now and from now on. Returns
---how many bytes were dropped.
---@param limit integer
---@return integer
function Logs:trim(limit)
  local before = self.size
  self.limit = math.min(self.limit, limit)
  while self.size > limit do
    drop_oldest(self)
  end
  return before - self.size
end

---Appends `message`, one entry for each of its lines.
---@async
---@param message string
function Logs:add(message)
  local stamp = text.timestamp(time.wall()) .. " "
  for line in text.valid_utf8(message):gmatch("[^\n]+") do
    if #line > MAX_LINE then
      line = text.valid_utf8(line:sub(1, MAX_LINE)) .. " [cut]"
    end
    self:push(stamp .. line .. "\n")
  end
end

---The lines after the one numbered `after`, the newest of them where that is more than
---`limit` bytes; the number of the last line; whether some between are gone.
---@param after integer
---@param limit integer
---@return string lines
---@return integer last
---@return boolean lost
function Logs:since(after, limit)
  local from, size = self.last + 1, 0
  while from > self.first and from > after + 1 do
    size = size + #self.lines[from - 1]
    if size > limit then break end
    from = from - 1
  end
  return table.concat(self.lines, "", from, self.last), self.last, from > after + 1
end

---All that is kept, as one text; empty when nothing was logged.
---@return string
function Logs:text()
  local kept = table.concat(self.lines, "", self.first, self.last)
  if self.dropped == 0 then return kept end
  return ("[%d older lines dropped]\n"):format(self.dropped) .. kept
end

return logs
