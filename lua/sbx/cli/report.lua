-- What a person is told when a script dies: once, in one piece, on stderr.

local errors = require("sbx.errors")
local task = require("sbx.task")

local report = {}

-- Exit statuses by error kind; everything else is 1. The first that an error or
-- one of its causes `is` counts.
local statuses = {
  { "usage", 2 },
  { "unauthorized", 4 },
  { "not_found", 5 },
  { "file_not_found", 5 },
  { "conflict", 6 },
  { "payment_required", 7 },
  { "rate_limited", 7 },
  { "connect", 8 },
  { "dns", 8 },
  { "tls", 8 },
  { "api_timeout", 8 },
  { "command_timeout", 124 },
  { "upload_timeout", 124 },
  { "download_timeout", 124 },
}
local by_http_status = { [401] = 4, [403] = 4, [402] = 7, [404] = 5, [409] = 6, [429] = 7 }

-- What a report says of an error object, in this order.
local FIELDS = {
  "kind", "code", "phase", "status", "sandbox_id", "request_id", "attempts", "outcome",
}

---The exit status that a failure of the program ends with.
---@param err any
---@return integer
function report.status(err)
  if not errors.is_error(err) then return 1 end
  if err.kind == "timeout" then return 124 end
  if by_http_status[err.status] then return by_http_status[err.status] end
  for _, entry in ipairs(statuses) do
    if err:is(entry[1]) then return entry[2] end
  end
  return 1
end

local function text_of(err)
  local ok, text = pcall(tostring, err)
  if not ok then return "(an error object that cannot be shown)" end
  if type(err) == "string" or type(err) == "number" or errors.is_error(err) then return text end
  local meta = getmetatable(err)
  if type(meta) == "table" and meta.__tostring then return text end
  -- In the words of stock Lua.
  local message = type(err) == "table" and err.message and ": " .. tostring(err.message) or ""
  return "(error object is a " .. type(err) .. " value" .. message .. ")"
end

-- Frames of the library say nothing about the script, unless they are where it
-- broke.
local MACHINERY = {
  "^%s*sbx/[%w_/]+%.lua:", "%[C%]: in function 'sbx%.", "%[C%]: in function 'x?pcall'",
  "%[C%]: in function 'error'", "^%s*%[C%]: in %?", "^%s*%(%.%.%.tail calls%.%.%.%)",
}

local function is_machinery(line)
  for _, pattern in ipairs(MACHINERY) do
    if line:find(pattern) then return true end
  end
  return false
end

local function without_machinery(traceback)
  local lines = {}
  for line in traceback:gmatch("[^\n]+") do
    if not is_machinery(line) then lines[#lines + 1] = line end
  end
  if #lines <= 1 then return nil end
  return table.concat(lines, "\n")
end

local function add_fields(lines, err)
  local parts = {}
  for _, name in ipairs(FIELDS) do
    local value = rawget(err, name)
    if value ~= nil then parts[#parts + 1] = name .. "=" .. tostring(value) end
  end
  if #parts > 0 then lines[#lines + 1] = "  " .. table.concat(parts, " ") end
end

---The whole report of `err` as text, without a final line feed.
---@param err any
---@return string
function report.text(err)
  local lines = { "sbxlua: " .. text_of(err) }
  local known = task.note_of(err) or {}
  if errors.is_error(err) then
    add_fields(lines, err)
    lines[#lines + 1] = rawget(err, "tree")
  end
  for _, link in ipairs(known.chain or {}) do
    -- The script's own task was spawned by no line of it.
    if not link:find("spawned at $") then lines[#lines + 1] = "  in " .. link end
  end
  local traceback = known.traceback
  local broke_inside = type(err) == "string" and err:find("^sbx/[%w_/]+%.lua:")
  if traceback and not broke_inside then traceback = without_machinery(traceback) end
  if traceback then lines[#lines + 1] = traceback end

  local cause, steps = errors.is_error(err) and rawget(err, "cause"), 0
  while cause and steps < 10 do
    lines[#lines + 1] = "caused by: " .. text_of(cause)
    cause = errors.is_error(cause) and rawget(cause, "cause")
    steps = steps + 1
  end
  local others = known.errors
  if errors.is_error(err) then others = rawget(err, "errors") end
  if others and #others > 0 then
    -- That all have failed, with all of them in `errors`, is no error of its own.
    local heading = err.kind == "all_failed" and "what failed:"
      or string.format("%d more of its tasks failed:", #others)
    lines[#lines + 1] = heading
    for i = 1, math.min(5, #others) do
      lines[#lines + 1] = "  " .. text_of(others[i])
    end
    if #others > 5 then lines[#lines + 1] = "  ..." end
  end
  return table.concat(lines, "\n")
end

---Writes the report to stderr.
---@param err any
function report.print(err)
  io.stdout:flush()
  io.stderr:write(report.text(err), "\n")
end

return report
