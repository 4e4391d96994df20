-- What the headers of an answer tell about a rate limit, under the names that are in
-- use: RateLimit and RateLimit-Policy, RateLimit-Remaining, X-RateLimit-Remaining …

local prefixes = { "ratelimit-", "x-ratelimit-", "x-rate-limit-" }

local A_DATE = 1e9 -- from here on a reset is a point in time, in seconds since 1970
local IN_MS = 1e12

local function number_of(text)
  local digits = text and #text < 200 and text:match("^%s*(%d+%.?%d*)")
  return digits and #digits < 18 and tonumber(digits) or nil
end

-- The value behind a name in `limit=100, remaining=5` or `"default";r=5;t=30`.
local function member(text, ...)
  if not text or #text > 200 then return nil end
  for _, name in ipairs({ ... }) do
    local value = number_of((";" .. text:lower()):match("[;,%s]" .. name .. "%s*=%s*([%d.]+)"))
    if value then return value end
  end
  return nil
end

local function span(reset, now)
  if not reset or reset < A_DATE then return reset end
  return math.max(0, (reset >= IN_MS and reset / 1000 or reset) - now)
end

---Reads them; nil where there are none.
---@param headers table<string, string>  lower-case names
---@param now number  seconds since 1970
---@return sbx.sandbox.RateHeaders|nil
return function(headers, now)
  local combined, policy = headers["ratelimit"], headers["ratelimit-policy"]
  local told = {
    remaining = member(combined, "remaining", "r"),
    reset = span(member(combined, "reset", "t"), now),
    limit = member(policy, "q") or number_of(policy) or member(combined, "limit"),
    window = member(policy, "w"),
  }
  for _, prefix in ipairs(prefixes) do
    told.remaining = told.remaining or number_of(headers[prefix .. "remaining"])
    told.reset = told.reset or span(number_of(headers[prefix .. "reset"]), now)
    told.limit = told.limit or number_of(headers[prefix .. "limit"])
  end
  if told.window == 0 or told.limit == 0 then told.window = nil end
  return next(told) ~= nil and told or nil
end
