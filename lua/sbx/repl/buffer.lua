-- The text that is being edited: lines, a place in them, and what was cut. Knows
-- nothing of keys or screens.

local letters = require("sbx.repl.text")

---@class sbx.repl.Buffer
---@field lines string[]  at least one
---@field row integer     of the cursor
---@field at integer      the byte in its line that it stands before
---@field cut string      what `yank` puts back
local Buffer = {}
Buffer.__index = Buffer

local buffer = {}

local MOST_UNDO, LARGE, MOST_UNDO_LARGE = 100, 1000, 10 -- lines that are large

---@return sbx.repl.Buffer
function buffer.new()
  return setmetatable({ lines = { "" }, row = 1, at = 1, cut = "", undo = {} }, Buffer)
end

local function split(text)
  local lines, from = {}, 1
  while true do
    local found = text:find("\n", from, true)
    lines[#lines + 1] = text:sub(from, (found or #text + 1) - 1)
    if not found then return lines end
    from = found + 1
  end
end

---@return string
function Buffer:text()
  return table.concat(self.lines, "\n")
end

---Whether there is nothing in it.
---@return boolean
function Buffer:is_empty()
  return #self.lines == 1 and self.lines[1] == ""
end

---The text before the cursor.
---@return string
function Buffer:before()
  local lines = table.move(self.lines, 1, self.row - 1, 1, {})
  lines[self.row] = self.lines[self.row]:sub(1, self.at - 1)
  return table.concat(lines, "\n")
end

---Replaces all; the cursor stands at the end.
---@param text string
function Buffer:set(text)
  self.lines = split(text)
  self.row, self.at = #self.lines, #self.lines[#self.lines] + 1
end

-- ------------------------------------------------------------------------ undo

---Remembers the text as it is. Changes of one kind in a row are one step.
---@param kind string
function Buffer:note(kind)
  if kind == self.last_kind and kind ~= "other" then return end
  self.last_kind = kind
  local undo = self.undo
  undo[#undo + 1] = {
    lines = table.move(self.lines, 1, #self.lines, 1, {}), row = self.row, at = self.at,
  }
  local most = #self.lines > LARGE and MOST_UNDO_LARGE or MOST_UNDO
  while #undo > most do
    table.remove(undo, 1)
  end
end

---Goes back by one step.
function Buffer:go_back()
  local step = table.remove(self.undo)
  self.last_kind = nil
  if step then self.lines, self.row, self.at = step.lines, step.row, step.at end
end

---What was done before is not to be undone.
function Buffer:forget()
  self.undo, self.last_kind = {}, nil
end

-- --------------------------------------------------------------------- changes

---Puts text, perhaps of several lines, before the cursor.
---@param text string
function Buffer:insert(text)
  local line = self.lines[self.row]
  local head, tail = line:sub(1, self.at - 1), line:sub(self.at)
  if not text:find("\n", 1, true) then
    self.lines[self.row] = head .. text .. tail
    self.at = self.at + #text
    return
  end
  local added = split(text)
  local count = #added - 1
  table.move(self.lines, self.row + 1, #self.lines, self.row + 1 + count)
  table.move(added, 1, #added, self.row, self.lines)
  self.lines[self.row] = head .. added[1]
  self.row = self.row + count
  self.at = #added[#added] + 1
  if count > 0 then self.lines[self.row] = added[#added] .. tail end
end

-- Takes away what lies between two places; returns it.
local function remove(self, row, at, to_row, to_at)
  local lines = self.lines
  local taken
  if row == to_row then
    taken = lines[row]:sub(at, to_at - 1)
  else
    local parts = table.move(lines, row, to_row, 1, {})
    parts[1] = parts[1]:sub(at)
    parts[#parts] = lines[to_row]:sub(1, to_at - 1)
    taken = table.concat(parts, "\n")
  end
  lines[row] = lines[row]:sub(1, at - 1) .. lines[to_row]:sub(to_at)
  local gone = to_row - row
  if gone > 0 then
    local count = #lines
    table.move(lines, to_row + 1, count + gone, row + 1)
  end
  self.row, self.at = row, at
  return taken
end

---Takes away what lies between the cursor and another place, either way.
---@param row integer
---@param at integer
---@return string taken
function Buffer:remove_to(row, at)
  if row < self.row or (row == self.row and at < self.at) then
    return remove(self, row, at, self.row, self.at)
  end
  return remove(self, self.row, self.at, row, at)
end

-- ---------------------------------------------------------------------- places

-- Each returns a row and a byte in it.

function Buffer:left()
  if self.at > 1 then return self.row, letters.previous(self.lines[self.row], self.at) end
  if self.row > 1 then return self.row - 1, #self.lines[self.row - 1] + 1 end
  return self.row, self.at
end

function Buffer:right()
  local line = self.lines[self.row]
  if self.at <= #line then return self.row, letters.next(line, self.at) end
  if self.row < #self.lines then return self.row + 1, 1 end
  return self.row, self.at
end

local WORD, NO_WORD = "[%w_\x80-\xff]", "[^%w_\x80-\xff]"

function Buffer:word_left()
  local row, at = self.row, self.at
  while at == 1 and row > 1 do
    row = row - 1
    at = #self.lines[row] + 1
  end
  local line = self.lines[row]
  while at > 1 and line:find("^" .. NO_WORD, at - 1) do
    at = at - 1
  end
  while at > 1 and line:find("^" .. WORD, at - 1) do
    at = at - 1
  end
  return row, at
end

function Buffer:word_right()
  local row, at = self.row, self.at
  while at > #self.lines[row] and row < #self.lines do
    row, at = row + 1, 1
  end
  local line = self.lines[row]
  at = line:match("^" .. NO_WORD .. "*()", at)
  return row, line:match("^" .. WORD .. "*()", at)
end

-- The beginning of what stands between blanks before the cursor.
function Buffer:blank_left()
  if self.at == 1 then return self:left() end
  local line = self.lines[self.row]:sub(1, self.at - 1)
  return self.row, line:match("^.-()%S*%s*$")
end

function Buffer:line_start()
  return self.row, 1
end

function Buffer:line_end()
  return self.row, #self.lines[self.row] + 1
end

-- A line up or down, as far to the right as it goes.
function Buffer:vertical(by)
  local row = self.row + by
  local line = self.lines[row]
  local wanted = utf8.len(self.lines[self.row], 1, self.at - 1, true) or self.at - 1
  local at = 1
  while wanted > 0 and at <= #line do
    at, wanted = letters.next(line, at), wanted - 1
  end
  return row, at
end

---Moves the cursor.
---@param row integer
---@param at integer
function Buffer:go(row, at)
  self.row, self.at = row, at
  self.last_kind = nil
end

return buffer
