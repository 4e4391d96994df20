-- How fast the requests of one class may go: a token bucket that starts from a
-- published limit and believes what the server says. Arithmetic on a plain table of
-- numbers, which also stands in a file that processes share; nothing here waits.
--
-- Times are seconds since 1970: processes have no other clock in common.

local pace = {}

local CAUTION = 0.95 -- share of a limit as it was seen that is used
local CUT = 0.5 -- what is left of a rate that was too high by nobody knows how much
local WINDOW_PAUSE = 2 -- seconds of Retry-After from which it is the end of a window
local SAMPLE = 3 -- requests that were taken between two pauses, for a rate to be seen
local REGAIN = 1.1 -- factor by which a learnt rate grows
local REGAIN_AFTER = 60 -- seconds without a refusal
local ENOUGH = 1000 -- requests a second: a learnt rate above it is none
local SLOWEST = 1 / 60 -- requests a second
local RESTED = 2 -- seconds without a request after which a window may be a new one
local FIRST_PAUSE, LONGEST_PAUSE = 0.25, 60 -- seconds after a refusal that names none
local MOST_PAUSE = 3600 -- seconds that a server may ask for
local SCARCE = 0.25 -- share of a limit below which what is left is spread out
local FEW = 10 -- the same where the limit is not known

---@class sbx.sandbox.Pace
---@field stamp number         when it was written
---@field rate number          requests a second; 0: as many as one likes
---@field burst number         how many at once
---@field tokens number        requests that may go; below 0 those that were promised
---@field at number            when that was right; ahead of now during a pause
---@field paused_until number
---@field epoch number         counts the pauses
---@field refusals number      pauses in a row
---@field refused_at number    the last one; 0: no limit has been learnt
---@field since number         the beginning of what `sent` counts
---@field sent number          requests that were let through since
---@field last number          the last one of these
---@field opened number        1: `since` is the end of a pause
---@field told_rate number     what the server's headers leave us, until `told_until`
---@field told_until number
---@field policy number        requests a second by the server's own words; 0: none

---@class sbx.sandbox.Limit  what is published
---@field count integer  requests
---@field burst integer  of these, at once
---@field window number  seconds

local fields = {
  "stamp", "rate", "burst", "tokens", "at", "paused_until", "epoch", "refusals",
  "refused_at", "since", "sent", "last", "opened", "told_rate", "told_until", "policy",
}

-- So that no stretch of one window's length sees more than the limit.
local function published_rate(limit)
  return limit and (limit.count - limit.burst) / limit.window or 0
end

local function base_rate(p, limit)
  return p.policy > 0 and p.policy or published_rate(limit)
end

local function base_burst(limit)
  return limit and limit.burst or 1
end

---@param limit sbx.sandbox.Limit|nil
---@param now number
---@return sbx.sandbox.Pace
function pace.new(limit, now)
  return {
    stamp = now, rate = published_rate(limit), burst = base_burst(limit),
    tokens = base_burst(limit), at = now, paused_until = 0, epoch = 0, refusals = 0,
    refused_at = 0, since = now, sent = 0, last = now, opened = 0,
    told_rate = 0, told_until = 0, policy = 0,
  }
end

---Whether a value from a file can be worked with.
---@param value any
---@return boolean
function pace.is_valid(value)
  if type(value) ~= "table" then return false end
  for _, name in ipairs(fields) do
    local number = value[name]
    if math.type(number) == nil or not (number > -1e6 and number < 1e12) then return false end
  end
  return value.rate >= 0 and value.burst >= 1 and value.burst < 1e6 and value.policy >= 0
    and value.told_rate >= 0
end

-- A clock that was set back must not make a pause of it.
local function set_clock(p, now)
  local back = p.stamp - now
  if back > 1 then
    for _, name in ipairs({ "at", "paused_until", "refused_at", "since", "last", "told_until" }) do
      p[name] = math.max(0, p[name] - back)
    end
  end
  p.stamp = now
  p.paused_until = math.min(p.paused_until, now + MOST_PAUSE)
  p.at = math.min(p.at, math.max(now, p.paused_until))
end

-- The longer the server has refused nothing, the more is tried again.
local function regain(p, limit, now)
  local steps = p.refused_at > 0 and (now - p.refused_at) // REGAIN_AFTER or 0
  if steps < 1 then return end
  p.refused_at = p.refused_at + steps * REGAIN_AFTER
  p.rate = p.rate * REGAIN ^ math.min(steps, 1000)
  local base = base_rate(p, limit)
  if (base > 0 and p.rate >= base) or p.rate > ENOUGH then
    p.rate, p.burst, p.refused_at = base, base_burst(limit), 0
  end
end

local function present_rate(p, now)
  if now >= p.told_until or p.told_rate == 0 then return p.rate end
  return p.rate > 0 and math.min(p.rate, p.told_rate) or p.told_rate
end

---Brings the table up to the present.
---@param p sbx.sandbox.Pace
---@param limit sbx.sandbox.Limit|nil
---@param now number
function pace.refresh(p, limit, now)
  set_clock(p, now)
  regain(p, limit, now)
  local rate = present_rate(p, now)
  if now > p.at then
    p.tokens = rate > 0 and math.min(p.burst, p.tokens + (now - p.at) * rate) or p.burst
    p.at = now
  end
  if p.tokens >= p.burst and now - p.last > math.max(RESTED, rate > 0 and 3 / rate or 0) then
    p.since, p.sent, p.opened = now, 0, 0
  end
end

---Promises one request the next place: when it may go. Places follow each other at
---the rate, so that whoever asks first goes first.
---@param p sbx.sandbox.Pace
---@param limit sbx.sandbox.Limit|nil
---@param now number
---@return number at
function pace.reserve(p, limit, now)
  pace.refresh(p, limit, now)
  local rate = present_rate(p, now)
  local at = math.max(now, p.paused_until)
  if rate > 0 then
    p.tokens = p.tokens - 1
    at = math.max(now, p.tokens >= 0 and p.at or p.at - p.tokens / rate)
  end
  p.sent = p.sent + 1
  p.last = at
  return at
end

---Whether a request may go at once, as far as this table says.
---@param p sbx.sandbox.Pace
---@param now number
---@return boolean
function pace.is_open(p, now)
  return now >= p.paused_until and present_rate(p, now) == 0
end

local function pause(p, seconds, now)
  p.paused_until = math.max(p.paused_until, now + seconds)
  p.at = p.paused_until
  p.tokens = 1
end

-- What a refusal after `accepted` requests says about the rate. Behind a pause, or
-- up to the end of a window, they are what the server takes in that time. At first,
-- with a bucket of unknown size to empty, they say too much.
local function learn(p, limit, accepted, retry_after)
  local span, base = p.paused_until - p.since, p.rate
  local tells = p.opened == 1 or retry_after and retry_after >= WINDOW_PAUSE
  local seen = accepted >= 1 and span > 0 and accepted / span * CAUTION
  if tells and seen and (base == 0 or seen < base * CAUTION) then
    p.rate = math.max(SLOWEST, seen)
  elseif base > 0 then
    p.rate = math.max(SLOWEST, published_rate(limit) / 16, base * CUT)
  end
  -- With no limit to begin with, and none to be seen, the pause has to do.
end

-- Servers round what they say, some of them down, and clocks differ.
local function length_of_pause(asked, refusals)
  if asked then return asked * 1.02 + (asked % 1 == 0 and 0.5 or 0.05) end
  return math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ math.min(refusals - 1, 20))
end

---A request was refused: nothing goes for a while, and then no faster than the
---server took them.
---@param p sbx.sandbox.Pace
---@param limit sbx.sandbox.Limit|nil
---@param epoch number  of the table when the request went
---@param retry_after number|nil  seconds
---@param now number
---@param learns boolean  false: only the pause
function pace.refuse(p, limit, epoch, retry_after, now, learns)
  pace.refresh(p, limit, now)
  local asked = retry_after and math.min(MOST_PAUSE, retry_after)
  if epoch ~= p.epoch then
    -- It was on its way when another one was refused.
    if asked and now + asked > p.paused_until then pause(p, asked, now) end
    return
  end
  -- Those that were promised a place have not gone yet.
  local promised = math.max(0, math.ceil(-p.tokens))
  local accepted = math.max(0, p.sent - promised - 1)
  p.refusals = p.refusals + 1
  p.epoch = (p.epoch + 1) % 1e9
  pause(p, length_of_pause(asked, p.refusals), now)
  p.last = p.paused_until
  if learns and p.opened == 1 and accepted < SAMPLE then
    p.sent = accepted -- the pause was too short, or there is more to be seen
    return
  end
  if learns then
    learn(p, limit, accepted, asked)
    p.burst = p.rate > 0 and 1 or p.burst
    p.refused_at = p.rate > 0 and now or 0
  end
  p.since, p.sent, p.opened = p.paused_until, 0, 1
end

---@class sbx.sandbox.RateHeaders
---@field limit number|nil      requests in a window
---@field window number|nil     seconds
---@field remaining number|nil  requests
---@field reset number|nil      seconds until there are more

---A request was taken.
---@param p sbx.sandbox.Pace
---@param limit sbx.sandbox.Limit|nil
---@param told sbx.sandbox.RateHeaders|nil  what its answer says
---@param now number
---@return boolean changed
function pace.accept(p, limit, told, now)
  local changed = p.refusals > 0
  p.refusals = 0
  if not told then return changed end
  pace.refresh(p, limit, now)
  if told.limit and told.window and p.policy ~= told.limit / told.window then
    -- The server knows its limit better than what is published.
    p.policy = told.limit / told.window
    if p.refused_at == 0 then p.rate = p.policy end
    changed = true
  end
  local left, reset = told.remaining, told.reset
  if not left or not reset or reset <= 0 or reset > MOST_PAUSE then return changed end
  if left < 1 then
    pause(p, reset, now)
    p.epoch = (p.epoch + 1) % 1e9
  elseif left <= (told.limit and told.limit * SCARCE or FEW) then
    p.told_rate, p.told_until = left / reset * CAUTION, now + reset
  else
    return changed
  end
  return true
end

return pace
