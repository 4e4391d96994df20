-- Makes bytes fit for JSON. A command may print anything, JSON only carries
-- Unicode: what is not UTF-8 becomes U+FFFD, everything else stays as it was.

local task = require("sbx.task")

---@class sbx.server.text
local text = {}

local REPLACEMENT = "\u{FFFD}"

-- Repairs between two pauses: a megabyte of noise must not stop the others.
local BURST = 20000

-- What may follow a lead byte: how many bytes, and the range of the first.
local function follows(lead)
  if lead >= 0xC2 and lead <= 0xDF then return 1, 0x80, 0xBF end
  if lead == 0xE0 then return 2, 0xA0, 0xBF end
  if lead == 0xED then return 2, 0x80, 0x9F end
  if lead >= 0xE1 and lead <= 0xEF then return 2, 0x80, 0xBF end
  if lead == 0xF0 then return 3, 0x90, 0xBF end
  if lead >= 0xF1 and lead <= 0xF3 then return 3, 0x80, 0xBF end
  if lead == 0xF4 then return 3, 0x80, 0x8F end
  return 0, 0, 0
end

-- The length of the broken character at `at`: its lead byte and all that could
-- have belonged to it, so that a character cut in half is replaced once.
local function broken_length(bytes, at)
  local more, least, most = follows(bytes:byte(at))
  local length = 1
  while length <= more do
    local byte = bytes:byte(at + length)
    if not byte or byte < least or byte > most then break end
    length, least, most = length + 1, 0x80, 0xBF
  end
  return length
end

---Returns `bytes` as valid UTF-8: each broken or cut character becomes U+FFFD.
---Valid text comes back unchanged. Waits now and then on very broken input.
---@async
---@param bytes string
---@return string
function text.valid_utf8(bytes)
  local _, bad = utf8.len(bytes)
  if not bad then return bytes end

  local parts, from, repairs = {}, 1, 0
  while bad do
    parts[#parts + 1] = bytes:sub(from, bad - 1)
    parts[#parts + 1] = REPLACEMENT
    from = bad + broken_length(bytes, bad)
    repairs = repairs + 1
    if repairs % BURST == 0 then task.yield() end
    if from > #bytes then break end
    _, bad = utf8.len(bytes, from)
  end
  parts[#parts + 1] = bytes:sub(from)
  return table.concat(parts)
end

---Returns `bytes` without the character at its end that is cut short, if any.
---@param bytes string
---@return string
function text.whole_characters(bytes)
  for back = 1, math.min(3, #bytes) do
    local byte = bytes:byte(-back)
    if byte < 0x80 or byte > 0xBF then
      return follows(byte) >= back and bytes:sub(1, -back - 1) or bytes
    end
  end
  return bytes
end

---True when `value` is a table that JSON would show as an array: keys 1 to n
---and no other.
---@param value any
---@return boolean
function text.is_list(value)
  if type(value) ~= "table" then return false end
  local count = 0
  for _ in pairs(value) do
    count = count + 1
  end
  return count == #value
end

---Seconds since 1970 as an ISO 8601 time in UTC, to the whole second: the form
---that the strictest of the clients can read. Without a time: nil.
---@param seconds number|nil
---@return string|nil
function text.timestamp(seconds)
  return seconds and os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(seconds)) --[[@as string]]
end

return text
