-- A set of records in the order of their `number`, of which a page anywhere costs little.
-- It is kept in pieces, so that neither a change nor the way to a page touches all of it.

---@class sbx.server.Ordered
---@field size integer
---@field [integer] {number: integer}[]  pieces, none of them empty
local Ordered = {}
Ordered.__index = Ordered

local ordered = {}

local MAX_PIECE = 512

---@return sbx.server.Ordered
function ordered.new()
  return setmetatable({ size = 0 }, Ordered)
end

-- The piece where `number` is or would be, and the place in it; nil without any piece.
-- Each change goes through here, mostly near the end.
local function find(self, number)
  local count = #self
  if count == 0 then return nil end
  local low, high = 1, count
  local newest = self[count]
  if newest[1].number <= number then low = count end
  while low < high do
    local middle = (low + high) // 2
    local piece = self[middle]
    if piece[#piece].number < number then low = middle + 1 else high = middle end
  end
  local piece = self[low]
  local from, to = 1, #piece + 1
  if piece[to - 1].number < number then from = to end
  while from < to do
    local middle = (from + to) // 2
    if piece[middle].number < number then from = middle + 1 else to = middle end
  end
  return low, from
end

---Takes up a record that is not there yet.
---@param record {number: integer}
function Ordered:add(record)
  self.size = self.size + 1
  local at, place = find(self, record.number)
  if not at then
    self[1] = { record }
    return
  end
  local piece = self[at]
  if #piece >= MAX_PIECE and at == #self and place > #piece then
    self[at + 1] = { record } -- the usual case: the newest, behind what is full
    return
  end
  table.insert(piece, place, record)
  if #piece <= MAX_PIECE then return end
  local half = #piece // 2
  table.insert(self, at + 1, table.move(piece, half + 1, #piece, 1, {}))
  -- A table keeps the memory of what it has lost.
  self[at] = table.move(piece, 1, half, 1, {})
end

---Gives up a record; harmless when it is not there.
---@param record {number: integer}
function Ordered:remove(record)
  local at, place = find(self, record.number)
  if not at or self[at][place] ~= record then return end
  self.size = self.size - 1
  table.remove(self[at], place)
  if #self[at] == 0 then table.remove(self, at) end
end

---The records from the `first` to the `last`, counted from the end.
---@param first integer
---@param last integer|number  may lie beyond the beginning
---@return table[]  the one with the highest number first
function Ordered:page(first, last)
  local found, before = {}, 0
  for at = #self, 1, -1 do
    local piece = self[at]
    if before >= last then break end
    local from, to = math.max(1, first - before), math.min(#piece, last - before)
    for place = from, to do
      found[#found + 1] = piece[#piece - place + 1]
    end
    before = before + #piece
  end
  return found
end

---Calls `fn` with each record, the one with the highest number first. It must change nothing.
---@param fn fun(record: table)
function Ordered:each(fn)
  for at = #self, 1, -1 do
    local piece = self[at]
    for place = #piece, 1, -1 do
      fn(piece[place])
    end
  end
end

return ordered
