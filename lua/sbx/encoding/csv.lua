-- CSV by RFC 4180: fields in quotes may hold separators, quotes and line ends.

local check = require("sbx.check")
local errors = require("sbx.errors")
local reader = require("sbx.reader")

local find, sub = string.find, string.sub

local csv = {}

local MAX_ROW = 16 * 1024 * 1024 -- bytes
local MAX_FIELDS = 65536

local function check_separator(separator, level)
  if type(separator) ~= "string" or #separator ~= 1 or separator:find('["\r\n]') then
    error("separator: expected one character other than a quote or a line end", level + 1)
  end
end

-- -------------------------------------------------------------------- writing

local function write_field(value, separator, place, level)
  if value == nil then return "" end
  local kind = type(value)
  if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
    error(("values[%d]: expected a string, a number or a boolean, got a %s"):format(place, kind),
      level + 1)
  end
  local text = tostring(value)
  if not find(text, '["\r\n]') and not find(text, separator, 1, true) then return text end
  return '"' .. text:gsub('"', '""') .. '"'
end

---@param values table
---@param options? table
---@return string
function csv.row(values, options)
  check.table(values, "values", 3)
  local separator = ","
  if options ~= nil then
    separator = check.options(options, { separator = "," }, 3).separator
    check_separator(separator, 3)
  end
  local fields = {}
  for place = 1, values.n or #values do
    fields[place] = write_field(values[place], separator, place, 3)
  end
  -- One empty field must not look like no field at all.
  if #fields == 1 and fields[1] == "" then return '""' end
  return table.concat(fields, separator)
end

-- -------------------------------------------------------------------- reading

---@class sbx.csv.Rows
---@field from sbx.Reader
---@field separator string
---@field max_row integer    bytes
---@field line integer       number of the line that is read
---@field names? string[]    of the columns, where the first row has them
---@field fields string[]|nil  of the row that is read
---@field open string[]|nil  pieces of a field whose closing quote is still to come
---@field opened integer     number of the line where that field begins
---@field size integer       bytes of the row so far

local function refuse(rows, problem, line)
  rows.fields, rows.open = nil, nil
  line = line or rows.line
  errors.raise {
    kind = "syntax",
    op = "csv_rows",
    line = line,
    message = ("csv: line %d: %s"):format(line, problem),
  }
end

local function over_limit(rows, what)
  rows.fields, rows.open = nil, nil
  errors.raise {
    kind = "limit",
    op = "csv_rows",
    line = rows.line,
    message = ("csv: line %d: a row of more than %s"):format(rows.line, what),
  }
end

local function add_field(rows, text)
  local fields = rows.fields
  if #fields >= MAX_FIELDS then over_limit(rows, MAX_FIELDS .. " fields") end
  fields[#fields + 1] = text
end

-- Reads a field in quotes on from `at`. Returns where the next field begins, 0
-- when it was the last one of the row, or nil when the field goes on.
local function read_quoted(rows, line, at)
  local open = rows.open
  while true do
    local quote = find(line, '"', at, true)
    if not quote then
      open[#open + 1] = sub(line, at) .. "\n"
      return nil
    end
    open[#open + 1] = sub(line, at, quote - 1)
    at = quote + 1
    if sub(line, at, at) ~= '"' then break end
    open[#open + 1] = '"'
    at = at + 1
  end
  rows.open = nil
  add_field(rows, table.concat(open))
  local after = sub(line, at, at + 1)
  if after == "" or after == "\r" then return 0 end
  if after:sub(1, 1) ~= rows.separator then refuse(rows, "text after a closing quote") end
  return at + 1
end

-- Reads a field without quotes. Returns where the next one begins, or 0.
local function read_plain(rows, line, at)
  local stop = find(line, rows.separator, at, true)
  local text = sub(line, at, (stop or 0) - 1)
  if not stop then text = text:gsub("\r$", "") end
  if find(text, '["\r]') then
    refuse(rows, find(text, '"', 1, true) and "a quote in a field without quotes"
      or "a carriage return in a field without quotes")
  end
  add_field(rows, text)
  return stop and stop + 1 or 0
end

-- Takes one more line of the file. Returns whether the row is complete.
local function read_line(rows, line)
  rows.size = rows.size + #line + 1
  if rows.size > rows.max_row then over_limit(rows, rows.max_row .. " bytes") end
  local at = 1
  repeat
    if not rows.open and sub(line, at, at) == '"' then
      rows.open, rows.opened, at = {}, rows.line, at + 1
    end
    if rows.open then
      at = read_quoted(rows, line, at)
    else
      at = read_plain(rows, line, at)
    end
    if not at then return false end
  until at == 0
  return true
end

-- The next row, or nil. What was read of it stays in `rows` when the source
-- fails or the call is cancelled.
---@async
local function next_row(rows)
  while true do
    local line = rows.from:line()
    if not line then
      if rows.open then
        refuse(rows, "the closing quote of a field is missing", rows.opened)
      end
      return nil
    end
    rows.line = rows.line + 1
    if rows.line == 1 then line = line:gsub("^\xEF\xBB\xBF", "") end
    local fresh = not rows.fields
    if not fresh or (line ~= "" and line ~= "\r") then
      if fresh then
        rows.fields, rows.size = {}, 0
      end
      if read_line(rows, line) then
        local fields = rows.fields
        rows.fields = nil
        return fields
      end
    end
  end
end

local function name_fields(rows, fields)
  local names, named = rows.names, {}
  if #fields ~= #names then
    refuse(rows, ("%d fields under %d names"):format(#fields, #names))
  end
  for place, name in ipairs(names) do
    named[name] = fields[place]
  end
  return named
end

---@param source any
---@param options? table
---@return async fun(): table|nil
function csv.rows(source, options)
  local opts = check.options(options, { separator = ",", header = false, max_row = MAX_ROW }, 3)
  check_separator(opts.separator, 3)
  check.boolean(opts.header, "header", 3)
  local max_row = check.integer(opts.max_row, "max_row", 1)
  local rows = {
    from = reader.of(source, { max_line = max_row }, 3),
    separator = opts.separator,
    max_row = max_row,
    line = 0,
    size = 0,
  }
  return function()
    if opts.header and not rows.names then
      rows.names = next_row(rows)
      if not rows.names then return nil end
    end
    local fields = next_row(rows)
    if fields and rows.names then return name_fields(rows, fields) end
    return fields
  end
end

return csv
