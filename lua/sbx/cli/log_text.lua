-- The log of a sandbox as lines: which are new, which were asked for. The API gives the
-- whole of it each time, and only its newest part when there is much.

local errors = require("sbx.errors")
local log = require("sbx.log")
local time = require("sbx.time")

local log_text = {}

local MOST_LINE = 65536 -- bytes shown of one

---@param text string
---@return string[]
local function lines_of(text)
  local lines = {}
  for line in text:gmatch("([^\n]*)\n?") do
    lines[#lines + 1] = line
  end
  if lines[#lines] == "" then lines[#lines] = nil end
  return lines
end

---The time at the beginning of a line, as RFC 3339 in UTC, and the rest; without one the
---whole line.
---@param line string
---@return string|nil, string
function log_text.split(line)
  local stamp, rest = line:match("^(%d%d%d%d%-%d%d%-%d%dT[%d:.]+[Z+-][%d:]*) (.*)$")
  local at = stamp and errors.try(time.parse_iso, stamp)
  if not at then return nil, line end
  return time.iso(at), rest
end

---A line as it may go to a terminal: whoever wrote it cannot move the cursor. Elsewhere it
---stays as it is.
---@param line string
---@param on_terminal boolean
---@return string
function log_text.safe(line, on_terminal)
  return on_terminal and log.clean(line, MOST_LINE) or line
end

---The lines that were asked for.
---@param text string
---@param tail integer|nil   the last so many
---@param since number|nil   seconds
---@return string[]
function log_text.chosen(text, tail, since)
  local lines = lines_of(text)
  local from = 1
  if since then
    local limit = time.wall() - since
    -- A line without a time belongs to the one before it.
    for i = #lines, 1, -1 do
      local stamp = log_text.split(lines[i])
      if stamp and time.parse_iso(stamp) < limit then
        from = i + 1
        break
      end
    end
  end
  if tail then from = math.max(from, #lines - tail + 1) end
  return table.move(lines, from, #lines, 1, {})
end

---The lines of `now` that come after those of `before`. Where the beginning has been
---dropped meanwhile, the last lines seen are looked for.
---@param before string
---@param now string
---@return string[]
function log_text.fresh(before, now)
  if now:sub(1, #before) == before then return lines_of(now:sub(#before + 1)) end
  -- The longest end of what was seen that `now` begins with, by its lines.
  local at = 1
  while at do
    local rest = before:sub(at)
    if now:sub(1, #rest) == rest then return lines_of(now:sub(#rest + 1)) end
    local next_line = before:find("\n", at, true)
    at = next_line and next_line + 1
  end
  return lines_of(now)
end

return log_text
