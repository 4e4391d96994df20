-- JSON, exact in both directions; lua-cjson does the reading and the writing.
--
-- Whole numbers are integers, all other numbers floats; `json.null` is null. A
-- table that came from [...], or went through json.array, is written as [...].

local check = require("sbx.check")
local core = require("sbx.core.json")
local errors = require("sbx.errors")
local reader = require("sbx.reader")

local MAX_LINE = 16 * 1024 * 1024 -- bytes

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
  if type(text) ~= "string" then check.string(text, "text") end
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

-- ----------------------------------------------------------------------- lines

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

-- Throws away what is left of a line that is too long.
---@async
local function skip_line(from)
  for piece in function() return from:some() end do
    local stop = piece:find("\n", 1, true)
    if stop then
      from:unread(piece:sub(stop + 1))
      return
    end
  end
end

local TOO_LONG = {}

-- Returns a function for the next line; for one that is too long it returns
-- TOO_LONG and goes on behind it.
local function line_reader(source, max)
  local from = reader.of(source, { max_line = max }, 3)
  local long = false
  return function()
    if long then
      skip_line(from)
      long = false
    end
    local ok, line = pcall(from.line, from)
    if ok then return line end
    long = errors.is_error(line) and line.kind == "limit" and line.op == "read"
    if not long then error(line, 0) end
    return TOO_LONG
  end
end

---Iterates over text that has one JSON value on each line, such as a log; blank
---lines are skipped. `source` is the whole text, a reader, what has `read`, such as
---a file or a stream, or a function that returns the next line; it may wait, and
---then so does the iterator. An error names the `line`; its `byte` counts within
---that line. A line over `max_line` bytes raises kind `limit`. The iterator can go
---on after either, with the next line.
---@param source string|sbx.Reader|{ read: function }|(async fun(): string|nil)
---@param options? { max_line?: integer }  bytes (default 16 MiB)
---@return async fun(): any
function json.lines(source, options)
  local max = check.options(options, { max_line = MAX_LINE }).max_line
  check.integer(max, "max_line", 1)
  local next_line = type(source) == "function" and source or line_reader(source, max)
  local number = 0
  return function()
    while true do
      local line = next_line()
      if line == nil then return nil end
      if line ~= TOO_LONG then check.string(line, "source: what the function returned") end
      number = number + 1
      if line == TOO_LONG or #line > max then
        errors.raise {
          kind = "limit",
          op = "lines",
          line = number,
          message = ("json: line %d: too long"):format(number),
        }
      end
      if line:find("%S") then return decode_line(line, number) end
    end
  end
end

return json
