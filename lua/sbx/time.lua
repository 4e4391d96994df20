-- Clocks, points in time as text, lengths of time as text, ticks.
--
-- Everything counts in seconds: since 1970 for points in time, and on a clock
-- that never goes back for waiting.

local check = require("sbx.check")
local core = require("sbx.core.time")
local errors = require("sbx.errors")

---@class sbx.time
local time = {}

---Seconds on a clock that never goes back; only differences mean much.
---@return number
function time.now()
  return core.now()
end

---Seconds since 1970.
---@return number
function time.wall()
  return core.wall()
end

---Suspends the task for `seconds`, as task.sleep.
---@async
---@param seconds number
time.sleep = core.sleep

-- ------------------------------------------------------------- points in time

---A point in time as RFC 3339 in UTC: "2026-01-31T12:00:00.250Z". Rounded to
---`digits` after the point; without, to three, which whole seconds do not show.
---@param seconds? number  since 1970 (default: now); years 0 to 9999
---@param options? { digits?: integer }  0 to 9
---@return string
function time.iso(seconds, options)
  if seconds ~= nil then check.number(seconds, "seconds", -62167219200, 253402300798) end
  if options == nil then return core.iso(seconds) end
  local digits = check.options(options, { digits = check.none }).digits
  return core.iso(seconds, digits and check.integer(digits, "digits", 0, 9))
end

-- Days from 1970-01-01 to a date of the Gregorian calendar. Years are counted
-- from March, so that the leap day is the last one.
local function days(year, month, day)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  local year_days = year * 365 + year // 4 - year // 100 + year // 400
  return year_days + (153 * (month - 3) + 2) // 5 + day - 1 - 719468
end

local function days_in(year, month)
  if month == 12 then return 31 end
  return days(year, month + 1, 1) - days(year, month, 1)
end

-- Seconds east of UTC, or nil.
local function read_offset(text)
  if text == "Z" or text == "z" then return 0 end
  local sign, hour, minute = text:match("^([+-])(%d%d):(%d%d)$")
  hour, minute = tonumber(hour), tonumber(minute)
  if not sign or hour > 23 or minute > 59 then return nil end
  return (sign == "-" and -1 or 1) * (hour * 3600 + minute * 60)
end

-- The seconds since 1970, or nil and what is wrong.
local function read_iso(text)
  local year, month, day, hour, minute, second, rest =
    text:match("^(%d%d%d%d)-(%d%d)-(%d%d)[Tt](%d%d):(%d%d):(%d%d)(.*)$")
  if not year then return nil, "expected a form such as 2026-01-31T12:00:00Z" end
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  hour, minute, second = tonumber(hour), tonumber(minute), tonumber(second)
  local fraction, zone = rest:match("^(%.%d+)(.*)$")
  zone = zone or rest
  if zone == "" then return nil, "expected Z or an offset such as +01:00 at the end" end
  local offset = read_offset(zone)
  if not offset then return nil, "expected Z or an offset such as +01:00" end
  if month < 1 or month > 12 then return nil, "no such month" end
  if day < 1 or day > days_in(year, month) then return nil, "no such day" end
  if hour > 23 or minute > 59 or second > 60 then return nil, "no such time of day" end
  local whole = days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset
  -- A leap second ends a day of UTC. The count of seconds has no number for it.
  if second == 60 and whole % 86400 ~= 0 then return nil, "no such time of day" end
  return fraction and whole + tonumber("0" .. fraction) or whole
end

---Seconds since 1970 of an RFC 3339 time, with an offset and perhaps a fraction:
---an integer where it has none. Raises kind `syntax` for anything else.
---@param text string
---@return number
function time.parse_iso(text)
  check.string(text, "text")
  local seconds, problem = read_iso(#text <= 100 and text or "")
  if seconds then return seconds end
  errors.raise {
    kind = "syntax",
    op = "parse_iso",
    message = ("read the time %q: %s"):format(text:sub(1, 100), problem),
  }
end

-- ------------------------------------------------------------ lengths of time

local units = { us = 1e-6, ms = 1e-3, s = 1, m = 60, h = 3600, d = 86400, w = 604800 }

local LONGEST = 1e11 -- seconds; some thousands of years

local function refuse_duration(text, problem)
  errors.raise {
    kind = "syntax",
    op = "duration",
    message = ("read the duration %q: %s"):format(text:sub(1, 100), problem),
  }
end

-- One part of a duration, such as "30m", in seconds, and its unit's.
local function read_part(text, number, unit)
  local count = number:find("^%d+%.?%d*$") and tonumber(number)
  if not count then refuse_duration(text, ("%q is no number"):format(number)) end
  if unit == "" then refuse_duration(text, ("no unit after %s: us ms s m h d w"):format(number)) end
  local length = units[unit]
  if not length then
    refuse_duration(text, ("unknown unit %q: one of us ms s m h d w"):format(unit))
  end
  -- Division is exact where a product with a fraction is not.
  if length < 1 then return count / (length == 1e-3 and 1000 or 1000000), length end
  return count * length, length
end

local function read_duration(text)
  if text:find("^%d+%.?%d*$") then return tonumber(text) end
  if text:find("^%s*$") then refuse_duration(text, "nothing in it") end
  if text:find("^%s*[+-]") then refuse_duration(text, "expected no sign") end
  local total, last, at = 0, math.huge, 1
  while at <= #text do
    local number, unit, after = text:match("^([^%a%s]*)(%a*)%s*()", at)
    local seconds, length = read_part(text, number, unit)
    if length >= last then
      refuse_duration(text, "expected units from the largest to the smallest, each once")
    end
    total, last, at = total + seconds, length, after
  end
  return total
end

---A length of time in seconds: of a text such as "250ms", "30s", "1h30m" or "1.5d",
---with the units us, ms, s, m, h, d, w from the largest to the smallest; a number,
---also as text, is seconds. Raises kind `syntax` with the reason.
---@param value string|number
---@return number
function time.duration(value)
  if type(value) == "number" then return check.number(value, "duration", 0, LONGEST) end
  local seconds = read_duration(check.string(value, "duration"))
  if seconds > LONGEST then refuse_duration(value, "too long") end
  return seconds
end

-- `count` of a large and of a small unit, such as "2m5s".
local function two_units(count, large, small, ratio)
  local rest = count % ratio
  local text = ("%d%s"):format(count // ratio, large)
  return rest == 0 and text or ("%s%d%s"):format(text, rest, small)
end

local function round(number)
  return math.floor(number + 0.5)
end

local function write_duration(s)
  if s < 0.5e-6 then return "0s" end
  if s < 0.9995e-3 then return ("%.3gus"):format(s * 1e6) end
  if s < 0.9995 then return ("%.3gms"):format(s * 1e3) end
  if s < 59.95 then return ("%.3gs"):format(s) end
  if s < 3599.5 then return two_units(round(s), "m", "s", 60) end
  if s < 86400 - 30 then return two_units(round(s / 60), "h", "m", 60) end
  return two_units(round(s / 3600), "d", "h", 24)
end

---A length of time for people, in at most two units: "250ms", "1.5s", "2m5s",
---"1h30m", "3d4h". time.duration reads it back, less what was rounded.
---@param seconds number
---@return string
function time.format_duration(seconds)
  check.number(seconds, "seconds", -LONGEST, LONGEST)
  if seconds < 0 then return "-" .. write_duration(-seconds) end
  return write_duration(seconds)
end

-- -------------------------------------------------------------------- waiting

---A point in time ahead.
---@class sbx.time.After
---@field package at number
local After = {}
After.__index = After
After.__name = "sbx.time.After"

---Seconds until then; 0 once it has passed. Also for task.select and timeouts.
---@return number
function After:left()
  return math.max(self.at - core.now(), 0)
end

---Whether it has passed.
---@return boolean
function After:passed()
  return core.now() >= self.at
end

---Waits until then; returns at once when it has passed.
---@async
function After:wait()
  core.sleep(self:left())
end

---The point in time that is `seconds` ahead, for many waits against one clock.
---@param seconds number
---@return sbx.time.After
function time.after(seconds)
  check.number(seconds, "seconds", 0, 1e9)
  return setmetatable({ at = core.now() + seconds }, After)
end

---Iterates over the ticks of a clock: tick n comes n times `seconds` after the
---call, whatever the loop does meanwhile. Of the ticks that it was late for, only
---the last one comes.
---@param seconds number  above 0
---@return async fun(): integer  the number of the tick
function time.every(seconds)
  check.number(seconds, "seconds", 0, 1e9)
  if seconds == 0 then error("seconds: expected more than 0", 2) end
  local start, tick = core.now(), 0
  return function()
    local now = core.now()
    local next_tick = math.max(tick + 1, math.tointeger((now - start) // seconds) or 0)
    core.sleep(math.max(start + next_tick * seconds - now, 0))
    tick = next_tick
    return tick
  end
end

return time
