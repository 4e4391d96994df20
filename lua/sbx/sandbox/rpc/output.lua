-- What a live process has written to one of its streams and nobody has read yet.

local errors = require("sbx.errors")
local reader = require("sbx.reader")
local sync = require("sbx.sync")
local task = require("sbx.task")

---@class sbx.sandbox.Output
---@field name string        "stdout", "stderr" or "pty"
---@field private pieces table   position → bytes
---@field private first integer  position of the oldest
---@field private last integer
---@field private size integer   what the pieces cost, in bytes
---@field private most integer   from which on it is full
---@field private read_at? number  when a piece was last taken
---@field private lost? integer  bytes thrown away since it was cut
---@field private room table     an event: it is not full
---@field reader sbx.Reader
---@field reading sbx.sync.Mutex  one task reads at a time
local Output = {}
Output.__index = Output

local output = {}

local PIECE_COST = 64 -- bytes that a piece costs besides its own
local PATIENCE = 30 -- seconds for which a full one holds up the others

---@param name string
---@param most integer  bytes
---@param await async fun(done: fun(): boolean)  waits until there is something new
---@param is_over fun(): boolean  no more will come
---@return sbx.sandbox.Output
function output.new(name, most, await, is_over)
  local self = setmetatable({
    name = name, pieces = {}, first = 1, last = 0, size = 0, most = most,
    room = sync.event(), reading = sync.mutex(name),
  }, Output)
  local function is_due() return self.last >= self.first or self.lost ~= nil or is_over() end
  self.reader = reader.new(function()
    self.read_at = task.now()
    await(is_due)
    return self:take()
  end)
  return self
end

---@param bytes string
function Output:put(bytes)
  if self.lost then
    self.lost = self.lost + #bytes
  elseif bytes ~= "" then
    self.last = self.last + 1
    self.pieces[self.last] = bytes
    self.size = self.size + #bytes + PIECE_COST
  end
end

-- The oldest piece, or nil when there is none.
---@private
function Output:take()
  if self.last < self.first then
    if self.lost then self:raise_lost() end
    return nil
  end
  local bytes = self.pieces[self.first]
  self.pieces[self.first] = nil
  self.first = self.first + 1
  self.size = self.size - #bytes - PIECE_COST
  self.read_at = task.now()
  self.room:set()
  return bytes
end

---@private
function Output:raise_lost()
  errors.raise({
    kind = "limit",
    op = "read",
    message = ("read %s: %d bytes were thrown away: nobody read them, and another task waited"
      .. " for what came behind them"):format(self.name, self.lost),
  })
end

---Waits until it takes more. One that is full, and that nobody has read for a while,
---is cut: it keeps what it has, and what comes then is thrown away.
---@async
function Output:make_room()
  while self.size >= self.most and not self.lost do
    local left = self.read_at and self.read_at + PATIENCE - task.now() or 0
    if left > 0.001 then -- less may be an error of rounding, which no clock gets over
      self.room:clear()
      task.move_on(left, self.room.wait, self.room)
    else
      self.lost = 0
    end
  end
end

---From now on everything is thrown away.
function Output:cut()
  self.lost = self.lost or 0
  self.room:set()
end

return output
