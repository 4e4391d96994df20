-- What the prompt says: values, errors, notices. Values go to stdout, the others to
-- stderr; on a terminal they appear above the line that is being typed.

local errors = require("sbx.errors")
local host = require("sbx.core.host")
local inspect = require("sbx.inspect")
local report = require("sbx.cli.report")

local output = {}

local RED, DIM, RESET = "\27[31m", "\27[2m", "\27[0m"

-- Within a frame that is all of the input there is nothing to learn.
local function is_own_frame(line)
  return line:find("^%s+in%[%d+%]:%d+: in function <in%[%d+%]:%d+>")
    or line:find("^%s+in%[%d+%]:%d+: in main chunk")
end

-- The report without what concerns the prompt and not the input.
local function trim(text)
  local lines, frames, traceback = {}, 0, nil
  for line in (text:gsub("^sbxlua: ", "") .. "\n"):gmatch("([^\n]*)\n") do
    if line == "stack traceback:" then
      traceback = #lines + 1
    elseif traceback and line:find("^%s+[^%s].*: in ") then
      frames = frames + (is_own_frame(line) and 0 or 1)
    end
    if not line:find("^  in task %d+ %(input %d+%)") then lines[#lines + 1] = line end
  end
  if traceback and frames == 0 then
    local at = traceback
    table.remove(lines, at)
    while lines[at] and is_own_frame(lines[at]) do
      table.remove(lines, at)
    end
  end
  return lines
end

-- What was raised is no text and does not speak for itself: what it holds does.
local function raised_value(err)
  if type(err) == "string" or type(err) == "number" or errors.is_error(err) then return nil end
  local meta = debug.getmetatable(err)
  if type(meta) == "table" and rawget(meta, "__tostring") ~= nil then return nil end
  return "raised " .. inspect(err, { width = host.columns(2) or 80, brief = true })
end

---The report of an error as text: what went wrong, and where in the input.
---@param err any
---@return string
function output.error_text(err)
  local lines = trim(report.text(err))
  lines[1] = raised_value(err) or lines[1]
  return table.concat(lines, "\n")
end

---Prints the values of an input, the library's own objects in a line each.
---@async
---@param values table  with `n`
---@param label? string  before each
---@param whole? boolean  with all their fields
function output.values(values, label, whole)
  local options = {
    width = host.columns(1) or 80, colour = inspect.has_colour(1), brief = not whole,
  }
  for i = 1, values.n do
    print((label or "") .. inspect(values[i], options))
  end
end

---Tells of an error, once.
---@async
---@param err any
---@param label? string
function output.error(err, label)
  local text = (label or "") .. output.error_text(err)
  if inspect.has_colour(2) then text = text:gsub("^[^\n]*", RED .. "%0" .. RESET) end
  io.stderr:write(text, "\n")
end

---A word of the prompt's own.
---@async
---@param text string
function output.notice(text)
  if inspect.has_colour(2) then text = DIM .. text .. RESET end
  io.stderr:write(text, "\n")
end

return output
