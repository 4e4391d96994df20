-- What a `Range` header asks for: one window of a file (RFC 9110, 14.2). Anything
-- else than one window of bytes counts as none: the whole is a valid answer.

local range = {}

---A validator: it changes when the file does.
---@param stat { size: integer, mtime: number }
---@return string
function range.tag(stat)
  return ('"%x-%x"'):format(stat.size, math.floor(stat.mtime * 1e6) & math.maxinteger)
end

-- First and last byte of "a-b", "a-" or "-n", as far as the file goes; nil for
-- what is none of them.
local function window(first, last, size)
  local from = first == "" and 0 or math.tointeger(tonumber(first))
  local to = last == "" and math.maxinteger or math.tointeger(tonumber(last))
  if not from or not to or to < from then return nil end
  if first == "" then return math.max(0, size - to), to == 0 and -1 or size - 1 end
  return from, math.min(to, size - 1)
end

---The offset and length that a request wants of a file; nil for all of it, and
---false when there is no such window.
---@param headers table<string, string>
---@param stat { size: integer, mtime: number }
---@return integer|false|nil offset, integer|nil length
function range.wanted(headers, stat)
  local first, last = (headers.range or ""):match("^%s*[Bb][Yy][Tt][Ee][Ss]=%s*(%d*)%-(%d*)%s*$")
  if not first or (first == "" and last == "") then return nil end
  local condition = headers["if-range"]
  if condition and condition ~= range.tag(stat) then return nil end
  local from, to = window(first, last, stat.size)
  if not from then return nil end
  if from >= stat.size or to < from then return false end
  return from, to - from + 1
end

return range
