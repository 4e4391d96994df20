-- Points in time as the API writes them: ISO 8601 and the HTTP date.

local timestamp = {}

local months = {
  Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6,
  Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12,
}

-- Days from 1970-01-01 to a date of the Gregorian calendar. Years are counted
-- from March, so that the leap day is the last one.
local function days(year, month, day)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  local year_days = year * 365 + year // 4 - year // 100 + year // 400
  return year_days + (153 * (month - 3) + 2) // 5 + day - 1 - 719468
end

local function seconds(year, month, day, hour, minute, second)
  if month < 1 or month > 12 or day < 1 or day > 31 then return nil end
  if hour > 23 or minute > 59 or second > 60 then return nil end
  return days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
end

local function offset_seconds(zone)
  if zone == "" or zone == "Z" or zone == "z" then return 0 end
  local sign, hour, minute = zone:match("^([+-])(%d%d):?(%d%d)$")
  if not sign or tonumber(hour) > 23 or tonumber(minute) > 59 then return nil end
  local offset = tonumber(hour) * 3600 + tonumber(minute) * 60
  return sign == "-" and -offset or offset
end

---Seconds since 1970 of an ISO 8601 time; no zone means UTC. Nil for anything
---else.
---@param text any
---@return number|nil
function timestamp.parse(text)
  if type(text) ~= "string" or #text > 64 then return nil end
  local year, month, day, hour, minute, second, rest =
    text:match("^(%d%d%d%d)-(%d%d)-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(.*)$")
  if not year then return nil end
  local fraction, zone = rest:match("^(%.%d+)(.*)$")
  local offset = offset_seconds(zone or rest)
  local whole = seconds(
    tonumber(year), tonumber(month), tonumber(day),
    tonumber(hour), tonumber(minute), tonumber(second)
  )
  if not offset or not whole then return nil end
  return whole - offset + (tonumber(fraction) or 0)
end

---Seconds that a `Retry-After` header asks for: a number, or the time left until
---an HTTP date. Nil when there is none or it makes no sense.
---@param text any
---@param now number  seconds since 1970
---@return number|nil
function timestamp.retry_after(text, now)
  if type(text) ~= "string" or #text > 64 then return nil end
  local number = text:match("^%s*(%d+%.?%d*)%s*$")
  if number then return math.min(tonumber(number), 86400) end
  local day, month, year, hour, minute, second =
    text:match("^%a+, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$")
  if not day or not months[month] then return nil end
  local at = seconds(
    tonumber(year), months[month], tonumber(day),
    tonumber(hour), tonumber(minute), tonumber(second)
  )
  return at and math.min(math.max(at - now, 0), 86400)
end

return timestamp
