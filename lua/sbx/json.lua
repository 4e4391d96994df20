-- JSON, exact in both directions; lua-cjson does the reading and the writing.
--
-- Whole numbers are integers, all other numbers floats; `json.null` is null. A
-- table that came from [...], or went through json.array, is written as [...].

local check = require("sbx.check")
local core = require("sbx.core.json")
local errors = require("sbx.errors")

---@class sbx.json
---@field null lightuserdata  stands for null; true in a condition
local json = { null = core.null }

---@class sbx.json.Options
---@field pretty? boolean     one value a line, two spaces a level (default false)
---@field sort_keys? boolean  names in the order of their bytes (default false)

---Returns the value that `text` describes: one JSON value in UTF-8 and nothing
---after it. Of two equal names in an object the last wins. Raises an error of
---kind `json` whose `byte`, `line` and `column`, all from 1, say where the text
---is wrong; the column counts characters. Never waits.
---@param text string
---@return any
function json.decode(text)
  return core.decode(text)
end

---Returns `value` as JSON text. A table without items is an object unless
---json.array marked it. Raises an error of kind `json` for what JSON cannot say,
---with the place in its field `path`, such as `$.a[3].b`. Never waits.
---@param value any
---@param options? sbx.json.Options
---@return string
function json.encode(value, options)
  if options == nil then return core.encode(value) end
  local opts = check.options(options, { pretty = false, sort_keys = false })
  return core.encode(value, opts.pretty, opts.sort_keys)
end

local function check_markable(t)
  check.table(t, "t", 3)
  local current = getmetatable(t)
  if current ~= nil and current ~= core.array and current ~= core.object then
    error("t: has a metatable already", 3)
  end
end

---Marks `t`, or a new table, to be written as [...] also while it is empty. The
---mark is a metatable without metamethods. Raises when `t` has another one.
---@generic T: table
---@param t? T
---@return T
function json.array(t)
  if t == nil then t = {} end
  check_markable(t)
  return setmetatable(t, core.array)
end

---Marks `t`, or a new table, to be written as {...}: positions in it are then an
---error. Raises when `t` has another metatable.
---@generic T: table
---@param t? T
---@return T
function json.object(t)
  if t == nil then t = {} end
  check_markable(t)
  return setmetatable(t, core.object)
end

-- Decodes one line, and corrects the line in the error to its number.
local function decode_line(line, number)
  local ok, result = pcall(core.decode, line)
  if ok then return result end
  if errors.is_error(result) then
    result.line = number + result.line - 1
    result.message = result.message:gsub("line %d+", "line " .. result.line, 1)
  end
  error(result, 0)
end

---Iterates over text that has one JSON value on each line, such as a log; blank
---lines are skipped. `source` is the whole text, or a function that returns the
---next line, or nil at the end; it may wait, and then so does the iterator. An
---error names the line; its `byte` counts within that line. The iterator can go
---on after an error, with the next line.
---@param source string|(async fun(): string?)
---@return async fun(): any
function json.lines(source)
  local next_line = source
  if type(source) == "string" then
    next_line = source:gmatch("[^\n]*")
  else
    check.fn(source, "source")
  end
  local number = 0
  return function()
    for line in next_line do
      number = number + 1
      if line:find("%S") then return decode_line(line, number) end
    end
    return nil
  end
end

return json
