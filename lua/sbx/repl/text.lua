-- A line of text as a terminal shows it: in letters with what combines with them,
-- and none of it taken for a command.

local width = require("sbx.cli.width")

local text = {}

-- ------------------------------------------------------------------- letters

local JOINER = 0x200d

local function is_regional(code)
  return code >= 0x1f1e6 and code <= 0x1f1ff
end

local function is_modifier(code)
  return code >= 0x1f3fb and code <= 0x1f3ff
end

-- The code at `at` and where the next one begins. A byte that is no UTF-8 is nil.
local function code_at(line, at)
  local last = line:match("^[\xc2-\xf4][\x80-\xbf]+()", at)
  if line:byte(at) < 0x80 then return line:byte(at), at + 1 end
  if not last then return nil, at + 1 end
  local first = line:byte(at)
  local size = first < 0xe0 and 2 or first < 0xf0 and 3 or 4
  local ok, code = pcall(utf8.codepoint, line, at)
  if not ok or last - at < size then return nil, at + 1 end
  return code, at + size
end

local function is_combining(code)
  return code >= 0x300 and width.of(utf8.char(code)) == 0
end

-- Direction marks and the like would move what stands beside them.
local function is_treacherous(code)
  return (code >= 0x80 and code < 0xa0) or (code >= 0x202a and code <= 0x202e)
    or (code >= 0x2066 and code <= 0x2069) or code == 0x2028 or code == 0x2029
end

---Where the letter at `at` ends: the first byte of the next one. Marks, joined
---emoji and the two halves of a flag are one letter.
---@param line string
---@param at integer  its first byte
---@return integer
function text.next(line, at)
  local code, after = code_at(line, at)
  if not code or code < 0x20 or is_treacherous(code) then return after end
  local regional = is_regional(code)
  while after <= #line do
    local following, beyond = code_at(line, after)
    if not following then return after end
    if following == JOINER and beyond <= #line then
      local joined, behind = code_at(line, beyond)
      local joins = joined and joined > 0x2000 and not is_treacherous(joined)
      after = joins and behind or beyond
    elseif regional and is_regional(following) then
      regional, after = false, beyond
    elseif (is_modifier(following) and code > 0x2000)
      or (is_combining(following) and not is_treacherous(following)) then
      after = beyond
    else
      return after
    end
  end
  return after
end

---Where the letter before `at` begins.
---@param line string
---@param at integer  the first byte behind it, above 1
---@return integer
function text.previous(line, at)
  -- Letters are found from a safe place on: a plain one, some way back.
  local from = at - 1
  while from > 1 and at - from < 64 do
    if line:byte(from) < 0x80 and from < at - 1 then break end
    from = from - 1
  end
  while from > 1 and line:find("^[\x80-\xbf]", from) do
    from = from - 1
  end
  while true do
    local after = text.next(line, from)
    if after >= at then return from end
    from = after
  end
end

-- ------------------------------------------------------------------- display

local TAB = "    "

---What stands for a letter on the screen, and its cells.
---@param letter string
---@return string shown, integer cells
function text.show(letter)
  local byte = letter:byte()
  if byte >= 0x20 and byte < 0x7f and #letter == 1 then return letter, 1 end
  if letter == "\t" then return TAB, #TAB end
  if byte < 0x20 or byte == 0x7f then return "^" .. string.char(byte ~ 0x40), 2 end
  local code = code_at(letter, 1)
  if not code then
    local shown = ("\\x%02x"):format(byte)
    return shown, #shown
  end
  if is_treacherous(code) then
    local shown = ("\\u{%x}"):format(code)
    return shown, #shown
  end
  return letter, width.of(letter)
end

---What stands for a text on the screen, on one line.
---@param line string
---@return string
function text.shown(line)
  local parts, from = {}, 1
  while from <= #line do
    local after = text.next(line, from)
    parts[#parts + 1] = text.show(line:sub(from, after - 1))
    from = after
  end
  return table.concat(parts)
end

local function is_plain(line)
  return not line:find("[^\x20-\x7e]")
end

---The rows that `line` takes in so many cells, behind a prompt of `indent` cells on
---the first; and the place of the byte `at` in them.
---@param line string
---@param cells integer   of a row, at least 2
---@param indent integer  below `cells`
---@param at? integer
---@return string[] rows, integer row, integer column  the place, from 1 and 0
function text.wrap(line, cells, indent, at)
  local rows, row, column = {}, nil, nil
  local parts, used = {}, indent
  local function finish_row()
    rows[#rows + 1] = table.concat(parts)
    parts, used = {}, 0
  end
  if is_plain(line) then
    local from = 1
    repeat
      local last = from + cells - used - 1
      if at and not row and at <= last then
        row, column = #rows + 1, used + at - from
      end
      parts[1] = line:sub(from, last)
      finish_row()
      from = last + 1
    until from > #line
    if at and not row then
      -- Behind the last letter of a full row.
      rows[#rows + 1] = ""
      row, column = #rows, 0
    end
    return rows, row, column
  end
  local from = 1
  while from <= #line do
    local after = text.next(line, from)
    local shown, wanted = text.show(line:sub(from, after - 1))
    if used + wanted > cells and used > 0 then finish_row() end
    if wanted > cells then shown, wanted = width.prefix(shown, cells) end
    if at and not row and at < after then
      row, column = #rows + 1, used
    end
    parts[#parts + 1] = shown
    used = used + wanted
    from = after
  end
  if at and not row then
    if used >= cells then finish_row() end
    row, column = #rows + 1, used
  end
  finish_row()
  return rows, row, column
end

return text
