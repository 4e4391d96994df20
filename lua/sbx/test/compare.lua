-- Whether two values are equal all the way down, and where they are not, in
-- words for people. Metatables do not count: what a value holds does.

local inspect = require("sbx.inspect")

local compare = {}

local MOST_DIFFERENCES = 10
local WIDTH = 70 -- bytes of a value in a message
local CONTEXT = 2 -- equal lines around those that differ
local MOST_LINES = 12 -- of each side in a diff
local ONE_LINE = { depth = 3, max_items = 20, width = 1000000 }

-- ------------------------------------------------------------------ one value

-- Cuts a text after so many bytes, between two characters.
local function clip(text, most)
  if #text <= most then return text end
  local last = most - #"..."
  while last > 1 and (text:byte(last + 1) or 0) & 0xC0 == 0x80 do
    last = last - 1
  end
  return text:sub(1, last) .. "..."
end

---A value in one short line.
---@param value any
---@return string
function compare.show(value)
  if type(value) == "string" then value = clip(value, WIDTH) end
  return clip(inspect(value, ONE_LINE), WIDTH + 10)
end

local ranks = { number = "1", string = "2" }

-- Numbers first, then texts, then the rest: the same order in every run.
local function key_order(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then return (ranks[ta] or ta) < (ranks[tb] or tb) end
  if ranks[ta] then return a < b end
  return tostring(a) < tostring(b)
end

local function sorted_keys(value)
  local keys = {}
  for key in next, value do
    keys[#keys + 1] = key
  end
  table.sort(keys, key_order)
  return keys
end

-- ------------------------------------------------------------------- two texts

local function lines_of(text)
  local lines = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = line
  end
  return lines
end

local function add_lines(out, mark, lines, first, last)
  for i = first, math.min(last, first + MOST_LINES - 1) do
    out[#out + 1] = mark .. " " .. clip(lines[i], WIDTH)
  end
  local left = last - first + 1 - MOST_LINES
  if left > 0 then out[#out + 1] = ("%s (%d more lines)"):format(mark, left) end
end

-- The lines in which two texts differ, with a few equal ones around them.
local function line_diff(got, expected)
  local a, b = lines_of(got), lines_of(expected)
  local head, tail = 0, 0
  while head < #a and head < #b and a[head + 1] == b[head + 1] do
    head = head + 1
  end
  while tail < #a - head and tail < #b - head and a[#a - tail] == b[#b - tail] do
    tail = tail + 1
  end
  local out = { ("from line %d on: - expected, + got"):format(head + 1) }
  add_lines(out, " ", b, math.max(1, head - CONTEXT + 1), head)
  add_lines(out, "-", b, head + 1, #b - tail)
  add_lines(out, "+", a, head + 1, #a - tail)
  add_lines(out, " ", b, #b - tail + 1, math.min(#b, #b - tail + CONTEXT))
  return out
end

local function first_difference(a, b)
  for i = 1, math.min(#a, #b) do
    if a:byte(i) ~= b:byte(i) then return i end
  end
  return math.min(#a, #b) + 1
end

-- Long texts: the stretch where they part.
local function byte_diff(got, expected)
  local at = first_difference(got, expected)
  local from = math.max(1, at - WIDTH // 3)
  local mark = from > 1 and "..." or ""
  return {
    ("at byte %d of %d, expected %d bytes"):format(at, #got, #expected),
    "- " .. inspect(mark .. clip(expected:sub(from), WIDTH)),
    "+ " .. inspect(mark .. clip(got:sub(from), WIDTH)),
  }
end

local function text_diff(got, expected)
  local lines = got:find("\n", 1, true) and expected:find("\n", 1, true)
  if lines then return line_diff(got, expected) end
  if #got > WIDTH or #expected > WIDTH then return byte_diff(got, expected) end
  return nil
end

-- ------------------------------------------------------------------ two values

local function same(a, b)
  return rawequal(a, b) or a == b or (a ~= a and b ~= b)
end

-- A place is { outer, key }, or nil for the whole: most are never shown.
local function show_place(place)
  local parts = {}
  while place do
    local key = place.key
    local is_name = type(key) == "string" and key:find("^[%a_][%w_]*$")
    table.insert(parts, 1, is_name and "." .. key or "[" .. compare.show(key) .. "]")
    place = place.outer
  end
  return clip(table.concat(parts), 2 * WIDTH)
end

local function add(found, place, got, expected)
  found.count = found.count + 1
  if #found >= MOST_DIFFERENCES then return end
  local where = place and show_place(place) .. ": " or ""
  local text = type(got) == "string" and type(expected) == "string" and text_diff(got, expected)
  if text then
    found[#found + 1] = where .. table.concat(text, "\n")
    return
  end
  local a, b = compare.show(got), compare.show(expected)
  if a == b then b = "another " .. b end
  if got == nil then a = "nothing" end
  if expected == nil then b = "nothing" end
  found[#found + 1] = ("%sgot %s, expected %s"):format(where, a, b)
end

local walk

-- A pair of tables that is being compared further up is taken for equal.
local function walk_tables(found, place, got, expected)
  local seen = found.seen[got] or {}
  if seen[expected] then return end
  seen[expected] = true
  found.seen[got] = seen
  for _, key in ipairs(sorted_keys(expected)) do
    walk(found, { outer = place, key = key }, rawget(got, key), rawget(expected, key))
  end
  for _, key in ipairs(sorted_keys(got)) do
    if rawget(expected, key) == nil then
      add(found, { outer = place, key = key }, rawget(got, key), nil)
    end
  end
end

function walk(found, place, got, expected)
  if same(got, expected) then return end
  if type(got) == "table" and type(expected) == "table" then
    return walk_tables(found, place, got, expected)
  end
  return add(found, place, got, expected)
end

---Where two values differ, a text for each place, the first ones only; `count`
---is how many there are. Empty when they are equal.
---@param got any
---@param expected any
---@return string[]|{ count: integer }
function compare.differences(got, expected)
  local found = { count = 0, seen = {} }
  walk(found, nil, got, expected)
  found.seen = nil
  return found
end

---@param a any
---@param b any
---@return boolean
function compare.equal(a, b)
  return compare.differences(a, b).count == 0
end

return compare
