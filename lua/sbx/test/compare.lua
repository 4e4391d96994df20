-- Whether two values are equal all the way down, and where they are not, in
-- words for people. Metatables do not count: what a value holds does.

local compare = {}

local MOST_DIFFERENCES = 10
local WIDTH = 70 -- bytes of a value in a message
local CONTEXT = 2 -- equal lines around those that differ
local MOST_LINES = 12 -- of each side in a diff

-- ------------------------------------------------------------------ one value

local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\" }

local function quote(text)
  return '"' .. text:gsub('[%c"\\\127-\255]', function(byte)
    if byte:byte() > 127 and utf8.len(text) then return byte end
    return escapes[byte] or ("\\x%02x"):format(byte:byte())
  end) .. '"'
end

-- Cuts a text after so many bytes, between two characters.
local function clip(text, most)
  if #text <= most then return text end
  local last = most - 3
  while last > 1 and (text:byte(last + 1) or 0) & 0xC0 == 0x80 do
    last = last - 1
  end
  return text:sub(1, last) .. "..."
end

local function is_name(key)
  return type(key) == "string" and key:find("^[%a_][%w_]*$") ~= nil
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

local show_table

local function show(value, depth)
  if type(value) == "string" then return quote(clip(value, WIDTH)) end
  if type(value) ~= "table" then return tostring(value) end
  local meta = getmetatable(value)
  if type(meta) == "table" and meta.__tostring then
    local ok, text = pcall(tostring, value)
    return ok and text or "a " .. tostring(meta.__name or "table")
  end
  return show_table(value, depth)
end

function show_table(value, depth)
  if next(value) == nil then return "{}" end
  if depth > 3 then return "{...}" end
  local parts, size, array = {}, 0, 1
  for _, key in ipairs(sorted_keys(value)) do
    local text = show(rawget(value, key), depth + 1)
    if key == array then
      array = array + 1
    elseif is_name(key) then
      text = key .. " = " .. text
    else
      text = "[" .. show(key, depth + 1) .. "] = " .. text
    end
    parts[#parts + 1] = text
    size = size + #text
    if size > WIDTH then break end
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

---A value in one short line.
---@param value any
---@return string
function compare.show(value)
  return clip(show(value, 1), WIDTH + 10)
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
    "- " .. quote(mark .. clip(expected:sub(from), WIDTH)),
    "+ " .. quote(mark .. clip(got:sub(from), WIDTH)),
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

local walk

local function add(found, path, got, expected)
  found.count = found.count + 1
  if #found >= MOST_DIFFERENCES then return end
  local text = type(got) == "string" and type(expected) == "string" and text_diff(got, expected)
  if text then
    local place = path == "" and text[1] or path .. ": " .. text[1]
    found[#found + 1] = table.concat(table.move(text, 2, #text, 2, { place }), "\n")
    return
  end
  local a, b = compare.show(got), compare.show(expected)
  if a == b then
    a, b = a .. " (" .. type(got) .. ")", b .. " (" .. type(expected) .. ")"
  end
  if got == nil then a = "nothing" end
  if expected == nil then b = "nothing" end
  local place = path == "" and "" or path .. ": "
  found[#found + 1] = ("%sgot %s, expected %s"):format(place, a, b)
end

local function step(path, key)
  if is_name(key) then return path .. "." .. key end
  return path .. "[" .. compare.show(key) .. "]"
end

-- A pair of tables that is being compared further up is taken for equal.
local function walk_tables(found, path, got, expected)
  local seen = found.seen[got] or {}
  if seen[expected] then return end
  seen[expected] = true
  found.seen[got] = seen
  for _, key in ipairs(sorted_keys(expected)) do
    walk(found, step(path, key), rawget(got, key), rawget(expected, key))
  end
  for _, key in ipairs(sorted_keys(got)) do
    if rawget(expected, key) == nil then
      add(found, step(path, key), rawget(got, key), nil)
    end
  end
end

function walk(found, path, got, expected)
  if same(got, expected) then return end
  if type(got) == "table" and type(expected) == "table" then
    return walk_tables(found, path, got, expected)
  end
  return add(found, path, got, expected)
end

---Where two values differ, a text for each place, the first ones only; `count`
---is how many there are. Empty when they are equal.
---@param got any
---@param expected any
---@return string[]|{ count: integer }
function compare.differences(got, expected)
  local found = { count = 0, seen = {} }
  walk(found, "", got, expected)
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
