-- What a command says: data on stdout, in the form that was asked for, and words for
-- people on stderr. Data are rows, plain tables that JSON can carry; a table shows some of
-- their fields, in columns.

local errors = require("sbx.errors")
local host = require("sbx.core.host")
local json = require("sbx.json")
local log = require("sbx.log")
local width = require("sbx.cli.width")

local output = {}

local VERSION = 1 -- of the JSON: changes when a field loses its meaning
local MOST_CELL = 200 -- bytes
local EPIPE = 32
local GAP = "  "

---@class sbx.cli.Column
---@field [1] string   its title
---@field [2] string|fun(row: table): string|nil  the field's name, or what makes its text
---@field wide? boolean  only with `-o wide`

---@class sbx.cli.Output
---@field format "table"|"wide"|"json"|"jsonl"|"name"
---@field quiet boolean
---@field verb string
local Output = {}
Output.__index = Output

---@param given { output?: string, quiet?: boolean }
---@param verb string  what stands before notes
---@return sbx.cli.Output
function output.new(given, verb)
  local format = given.output or "table"
  if given.quiet and (format == "table" or format == "wide") then format = "name" end
  return setmetatable({ format = format, quiet = given.quiet or false, verb = verb }, Output)
end

---Whether stdout gets JSON, so that stderr is for programs, too.
---@return boolean
function Output:is_json()
  return self.format == "json" or self.format == "jsonl"
end

-- -------------------------------------------------------------------- colours

---Whether colours are for this descriptor.
---@param fd 1|2
---@return boolean
function output.colored(fd)
  local no = os.getenv("NO_COLOR") or ""
  local ci = os.getenv("CI") or ""
  return no == "" and ci == "" and os.getenv("TERM") ~= "dumb" and host.isatty(fd)
end

-- ------------------------------------------------------------------------ data

local function with_version(row)
  local copy = { v = VERSION }
  for key, value in pairs(row) do
    copy[key] = value
  end
  return copy
end

local function encode(value, pretty)
  return json.encode(value, { sort_keys = true, pretty = pretty }) .. "\n"
end

local function cell(column, row)
  local field = column[2]
  local value
  if type(field) == "function" then value = field(row) else value = row[field] end
  if value == nil or value == json.null then return "-" end
  local text = log.clean(tostring(value), MOST_CELL)
  return text ~= "" and text or "-"
end

local function shown_columns(columns, format)
  local list = {}
  for _, column in ipairs(columns) do
    if format == "wide" or not column.wide then list[#list + 1] = column end
  end
  return list
end

---The lines of a table, with its titles.
---@param rows table[]
---@param columns sbx.cli.Column[]
---@return string
function output.table(rows, columns)
  local lines, widths = { {} }, {}
  for i, column in ipairs(columns) do
    lines[1][i] = column[1]
  end
  for _, row in ipairs(rows) do
    local line = {}
    for i, column in ipairs(columns) do
      line[i] = cell(column, row)
    end
    lines[#lines + 1] = line
  end
  for _, line in ipairs(lines) do
    for i, text in ipairs(line) do
      widths[i] = math.max(widths[i] or 0, width.of(text))
    end
  end
  local parts = {}
  for _, line in ipairs(lines) do
    for i = 1, #line - 1 do
      line[i] = width.pad(line[i], widths[i])
    end
    parts[#parts + 1] = table.concat(line, GAP) .. "\n"
  end
  return table.concat(parts)
end

---Writes a list: a table, a JSON array, a line of JSON each, or a name each.
---@async
---@param rows table[]
---@param columns sbx.cli.Column[]
---@param name? string  the field that is its name (default "id")
function Output:rows(rows, columns, name)
  local format = self.format
  if format == "json" then
    local list = {}
    for i, row in ipairs(rows) do
      list[i] = with_version(row)
    end
    io.stdout:write(encode(json.array(list), true))
  elseif format == "jsonl" then
    for _, row in ipairs(rows) do
      io.stdout:write(encode(with_version(row)))
    end
  elseif format == "name" then
    for _, row in ipairs(rows) do
      io.stdout:write(log.clean(tostring(row[name or "id"]), MOST_CELL), "\n")
    end
  elseif #rows > 0 then
    io.stdout:write(output.table(rows, shown_columns(columns, format)))
  end
end

---Writes one thing: a JSON object, or as its only line `text`.
---@async
---@param row table
---@param text string  what people and shells get of it
---@param name? string  with `-o name` and `-q`: the field (default `text`)
function Output:one(row, text, name)
  if self:is_json() then
    io.stdout:write(encode(with_version(row), self.format == "json"))
  elseif self.format == "name" and name then
    io.stdout:write(log.clean(tostring(row[name]), MOST_CELL), "\n")
  else
    io.stdout:write(log.clean(text, 4096), "\n")
  end
end

---Waits until all that was written has got through. Raises kind `io` where it has not.
---@async
function output.flush()
  local ok, problem, number = io.stdout:flush()
  if ok then return end
  errors.raise({
    kind = "io", op = "write", code = number == EPIPE and "EPIPE" or nil,
    message = "write to stdout: " .. tostring(problem),
  })
end

-- ----------------------------------------------------------------------- words

---Says something to people, on stderr; not with `-q`, and not beside JSON.
---@param text string
---@param ... any  for string.format
function Output:note(text, ...)
  if self.quiet or self:is_json() then return end
  if select("#", ...) > 0 then text = text:format(...) end
  pcall(host.write, 2, ("sbxlua %s: %s\n"):format(self.verb, text))
end

local FIELDS = {
  "kind", "message", "code", "status", "sandbox_id", "request_id", "retryable", "retry_after",
  "outcome", "attempts",
}

-- The causes that the message itself does not have, a line each.
local function causes_of(err, text)
  local lines, cause = {}, err.cause
  for _ = 1, 5 do
    if type(cause) ~= "table" or type(cause.message) ~= "string" then break end
    if not text:find(cause.message, 1, true) then
      lines[#lines + 1] = "  caused by: " .. log.clean(tostring(cause), 1000)
    end
    cause = rawget(cause, "cause")
  end
  return lines
end

---Says what failed, on stderr: a line for people, or one JSON object.
---@param err table  with `message` and what else is known
---@param status integer  the exit status
function Output:failure(err, status)
  io.stdout:flush()
  if not self:is_json() then
    local text = tostring(err.message or err)
    -- What failed is often called as the command is.
    if text:sub(1, #self.verb + 2) == self.verb .. ": " then text = text:sub(#self.verb + 3) end
    if err.request_id then text = ("%s (request %s)"):format(text, tostring(err.request_id)) end
    local lines = causes_of(err, text)
    table.insert(lines, 1, ("sbxlua %s: %s"):format(self.verb, text))
    pcall(host.write, 2, table.concat(lines, "\n") .. "\n")
    return
  end
  local shown = {}
  for _, name in ipairs(FIELDS) do
    local value = err[name]
    local kind = type(value)
    if kind == "string" then value = log.clean(value, 4096) end
    if kind == "string" or kind == "number" or kind == "boolean" then shown[name] = value end
  end
  pcall(host.write, 2, encode({ v = VERSION, error = shown, exit_status = status }))
end

---"1 sandbox", "2 sandboxes".
---@param number integer
---@param what string
---@return string
function output.count(number, what)
  return ("%d %s%s"):format(number, what, number == 1 and "" or what:find("x$") and "es" or "s")
end

return output
