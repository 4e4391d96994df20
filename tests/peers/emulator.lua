-- A small terminal: what the bytes of our own drawing leave on a screen. It knows what
-- we write and no more: text, CR, LF, and the sequences A, C, H, J and K.

local letters = require("sbx.repl.text")

local emulator = {}

---@class tests.Emulator
---@field lines string[][]  cells by row; those that scrolled off come first
local Emulator = {}
Emulator.__index = Emulator

---@param columns integer
---@param rows integer
---@return tests.Emulator
function emulator.new(columns, rows)
  return setmetatable({ columns = columns, rows = rows, lines = { {} }, row = 1, column = 0,
    top = 1 }, Emulator)
end

local function line_feed(self)
  self.row = self.row + 1
  self.lines[self.row] = self.lines[self.row] or {}
  self.top = math.max(self.top, self.row - self.rows + 1)
end

local function put(self, shown, cells)
  if cells == 0 then
    local at = math.max(self.column, 1)
    local line = self.lines[self.row]
    line[at] = (line[at] or "") .. shown
    return
  end
  if self.column + cells > self.columns then
    self.column = 0
    line_feed(self)
  end
  local line = self.lines[self.row]
  for column = #line + 1, self.column do
    line[column] = " "
  end
  line[self.column + 1] = shown
  for more = 2, cells do
    line[self.column + more] = ""
  end
  self.column = self.column + cells
end

local sequences = {}

function sequences.A(self, count)
  local to = self.row - math.max(count, 1)
  assert(to >= self.top, "the cursor goes up beyond the screen")
  self.row = to
end

function sequences.C(self, count)
  self.column = math.min(self.column + math.max(count, 1), self.columns - 1)
end

function sequences.K(self)
  local line = self.lines[self.row]
  for column = #line, self.column + 1, -1 do
    line[column] = nil
  end
end

function sequences.J(self, count)
  if count == 2 then
    for row = self.top, #self.lines do
      self.lines[row] = {}
    end
    return
  end
  sequences.K(self)
  for row = #self.lines, self.row + 1, -1 do
    self.lines[row] = {}
  end
end

function sequences.H(self)
  self.row, self.column = self.top, 0
end

function sequences.m() end

---Takes what a program writes; a line feed also returns, as terminals are set.
---@param bytes string
function Emulator:write(bytes)
  local at = 1
  while at <= #bytes do
    local number, final, after = bytes:match("^\27%[(%d*)(%a)()", at)
    if final then
      assert(sequences[final], "unknown sequence " .. final)(self, tonumber(number) or 0)
      at = after
    elseif bytes:find("^[\r\n]", at) then
      self.column = 0
      if bytes:byte(at) == 10 then line_feed(self) end
      at = at + 1
    else
      after = letters.next(bytes, at)
      local letter = bytes:sub(at, after - 1)
      assert(not letter:find("^%c"), "a control character")
      put(self, letters.show(letter))
      at = after
    end
  end
end

---The text of all rows, without blanks at their ends.
---@return string[] rows, integer row, integer column  the cursor's, from 1 and 0
function Emulator:text()
  local rows = {}
  for row, line in ipairs(self.lines) do
    rows[row] = table.concat(line):gsub("%s+$", "")
  end
  while #rows > 0 and rows[#rows] == "" do
    rows[#rows] = nil
  end
  return rows, self.row, self.column
end

return emulator
