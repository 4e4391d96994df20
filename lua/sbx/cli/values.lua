-- The types of options and arguments: from a word of the command line to a value.
--
-- `values.convert(item, word)` returns the value, or nil and what was expected
-- in its place: "expected a whole number, got 'x'".

local fs = require("sbx.fs")
local log = require("sbx.log")
local time = require("sbx.time")

local values = {}

---A word as it is shown in a message.
---@param word string
---@return string
function values.quoted(word)
  return "'" .. log.clean(word, 200) .. "'"
end

-- -------------------------------------------------------------------- numbers

local function to_integer(word)
  local digits = word:match("^[+-]?%d+$")
  local value = digits and math.tointeger(tonumber(digits))
  if value then return value end
  return nil, digits and "a whole number below 2^63" or "a whole number"
end

local function to_number(word)
  -- No hexadecimal, "inf" or "nan": those are names, not numbers, to people.
  local value = word:find("^[+-]?[%d.]+[eE]?[+-]?%d*$") and tonumber(word)
  if value and value - value == 0 then return value end
  return nil, "a number"
end

local function to_duration(word)
  local ok, seconds = pcall(time.duration, word)
  if ok then return math.tointeger(seconds) or seconds end
  return nil, "a time such as 90, 30s, 10m or 1h30m"
end

local POWERS = { [""] = 0, K = 1, M = 2, G = 3, T = 4 }
local MOST_BYTES = 2.0 ^ 62

local function to_size(word)
  local digits, prefix, unit = word:match("^(%d+%.?%d*)%s*([kKMGT]?)(i?B?)$")
  local power = digits and POWERS[prefix:upper()]
  if not power or (prefix == "" and unit == "iB") or unit == "i" then
    return nil, "a size such as 4096, 64KiB, 1.5GiB or 200MB"
  end
  -- MB are millions; MiB and plain M are powers of 1024.
  local bytes = tonumber(digits) * (unit == "B" and 1000 or 1024) ^ power
  if bytes > MOST_BYTES then return nil, "a size below 4 EiB" end
  return math.floor(bytes)
end

-- ---------------------------------------------------------------------- words

local YES = { ["1"] = true, yes = true, ["true"] = true, on = true }
local NO = { ["0"] = true, no = true, ["false"] = true, off = true }

local function to_flag(word)
  local lower = word:lower()
  if YES[lower] then return true end
  if NO[lower] then return false end
  return nil, "yes or no"
end

local function to_choice(word, item)
  for _, choice in ipairs(item.choices) do
    if choice == word then return choice end
  end
  return nil, values.listed(item.choices)
end

---"a, b or c".
---@param words string[]
---@return string
function values.listed(words)
  if #words <= 1 then return words[1] or "" end
  return table.concat(words, ", ", 1, #words - 1) .. " or " .. words[#words]
end

local function to_path(word, item)
  local found, stat = pcall(fs.stat, word)
  if not found then
    if type(stat) ~= "table" or stat.kind ~= "io" then error(stat, 0) end
    local reason = tostring(stat):match("[^:]*$")
    return nil, nil, values.quoted(word) .. ":" .. reason
  end
  if item.type == "file" and stat.type == "directory" then
    return nil, nil, values.quoted(word) .. ": is a directory"
  end
  return word
end

local converters = {
  flag = to_flag,
  string = function(word) return word end,
  integer = to_integer,
  number = to_number,
  duration = to_duration,
  size = to_size,
  choice = to_choice,
  path = to_path,
  file = to_path,
}

---The types of one word each; `list` and `map` hold many of them.
values.simple = converters

---What stands for the value in usage lines, unless `metavar` says otherwise.
values.metavars = {
  integer = "N", number = "N", duration = "TIME", size = "SIZE", path = "PATH", file = "FILE",
}

---Types whose values have an order, and so bounds.
values.ordered = { integer = true, number = true, duration = true, size = true }

-- -------------------------------------------------------------------- bounds

---"1 to 9", "at least 1", "at most 9", or nil.
---@param item table
---@return string|nil
function values.range(item)
  if item.min ~= nil and item.max ~= nil then return ("%s to %s"):format(item.min, item.max) end
  if item.min ~= nil then return "at least " .. item.min end
  if item.max ~= nil then return "at most " .. item.max end
  return nil
end

---A bound or default as a value: `min = "1m"` may be written as on the command line.
---@param kind string  the type
---@param bound any
---@return any
function values.of_spec(kind, bound)
  if type(bound) == "string" and values.ordered[kind] then return (converters[kind](bound)) end
  return bound
end

local function within(kind, item, value)
  local least, most = values.of_spec(kind, item.min), values.of_spec(kind, item.max)
  return not (least and value < least) and not (most and value > most)
end

-- --------------------------------------------------------------------- public

-- One word as `kind`: the value, or nil and what is wrong with it.
local function convert_simple(kind, item, word)
  local value, expected, problem = converters[kind](word, item)
  if value ~= nil and values.ordered[kind] and not within(kind, item, value) then
    value, expected = nil, values.range(item)
  end
  if value ~= nil then return value end
  if item.secret then return nil, "expected " .. (expected or "something else") end
  return nil, problem or "expected " .. expected .. ", got " .. values.quoted(word)
end

---Converts one word by the type of `item`. Of a list it makes an element, of a
---map a value and, third, its key.
---@async
---@param item table  an option or argument
---@param word string
---@return any value, string|nil problem, string|nil key
function values.convert(item, word)
  local kind = item.type or "string"
  if kind == "list" then return convert_simple(item.of or "string", item, word) end
  if kind ~= "map" then return convert_simple(kind, item, word) end
  local key, rest = word:match("^([^=]+)=(.*)$")
  if not key then
    return nil, "expected KEY=VALUE" .. (item.secret and "" or ", got " .. values.quoted(word))
  end
  local value, problem = convert_simple(item.of or "string", item, rest)
  if value == nil then return nil, log.clean(key, 100) .. ": " .. problem end
  return value, nil, key
end

return values
