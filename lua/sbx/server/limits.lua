-- How often each kind of request may be made: so many in so many seconds, for each key
-- and peer, and where the wire says so for each sandbox. A window begins with its first
-- request. Nothing is limited that was not asked for.

local errors = require("sbx.errors")
local reply = require("sbx.server.reply")
local task = require("sbx.task")
local time = require("sbx.time")

---@class sbx.server.Limits
---@field private rules table<string, sbx.server.LimitRule>
---@field private windows table<string, {count: integer, ends: number}>
---@field private size integer    windows, those that are over among them
---@field private max integer
---@field private swept number
local Limits = {}
Limits.__index = Limits

---@class sbx.server.LimitRule
---@field count integer
---@field seconds number

---@class sbx.server.limits
local limits = {}

-- Windows at once; beyond that what would need another one is refused.
local MAX_WINDOWS = 200000
local SWEEP_PAUSE = 5
local MAX_COUNT, MAX_SECONDS = 1000000000, 86400

-- What the hosted service has published, for 60 seconds; 0: it has published nothing.
-- The second value: counted for each sandbox by itself.
local classes = {
  create = { 500, false },
  list = { 1000, false },
  bulk_delete = { 50, false },
  delete = { 500, false },
  get = { 300, true },
  auth = { 120, true },
  error_context = { 600, true },
  logs = { 300, true },
  expose = { 20, true },
  unexpose = { 20, true },
  ssh = { 20, true },
  exposure_list = { 60, true },
  expose_all = { 60, false },
  batch_get = { 300, true },
  job_batch_get = { 0, true },
  egress_get = { 300, true },
  egress_put = { 120, true },
  images = { 0, false },
  registry = { 0, false },
  exec = { 0, true },
  upload = { 0, true },
  download = { 0, true },
  read_file = { 0, true },
}

---The names of the classes, in order.
---@return string[]
function limits.classes()
  local names = {}
  for name in pairs(classes) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function refuse(text, problem)
  errors.raise { kind = "usage", message = ("--limit %s: %s"):format(text, problem) }
end

---Adds what `text` says to `rules`: `CLASS=COUNT/TIME`, such as "create=500/60s", or
---"vendor" for all that the hosted service has published. The last one of a class
---holds. Raises kind `usage`.
---@param rules table<string, sbx.server.LimitRule>
---@param text string
function limits.parse(rules, text)
  if text == "vendor" then
    for name, figures in pairs(classes) do
      if figures[1] > 0 then rules[name] = { count = figures[1], seconds = 60 } end
    end
    return
  end
  local name, digits, span = text:match("^([%w_]+)=(%d+)/([%w.]+)$")
  if not name then refuse(text, "expected CLASS=COUNT/TIME, such as create=500/60s, or vendor") end
  if not classes[name] then
    refuse(text, "unknown class; there are " .. table.concat(limits.classes(), ", "))
  end
  local count = math.tointeger(tonumber(digits))
  local ok, seconds = pcall(time.duration, span)
  if not ok or seconds <= 0 or seconds > MAX_SECONDS then
    refuse(text, "expected a time of up to a day, such as 60s or 1m")
  elseif not count or count < 1 or count > MAX_COUNT then
    refuse(text, "expected a count of 1 to " .. MAX_COUNT)
  end
  rules[name] = { count = count, seconds = seconds }
end

---@param rules? table<string, sbx.server.LimitRule>  by class; default: no limits
---@param max_windows? integer
---@return sbx.server.Limits
function limits.new(rules, max_windows)
  return setmetatable({
    rules = rules or {}, windows = {}, size = 0, max = max_windows or MAX_WINDOWS,
    swept = -math.huge,
  }, Limits)
end

---Whether anything is limited.
---@return boolean
function Limits:any()
  return next(self.rules) ~= nil
end

-- Drops the windows that are over. No more often than needed: it looks at all of them.
local function sweep(self, now)
  if now < self.swept + SWEEP_PAUSE and self.size < self.max then return end
  self.swept = now
  local left = 0
  for key, window in pairs(self.windows) do
    if window.ends <= now then
      self.windows[key] = nil
    else
      left = left + 1
    end
  end
  self.size = left
end

-- The seconds to wait for another try, or nil when the request may go on.
local function take(self, class, key)
  local rule = self.rules[class]
  local now = task.now()
  local window = self.windows[key]
  if not window or window.ends <= now then
    if not window then
      sweep(self, now)
      if self.size >= self.max then return rule.seconds end
      self.size = self.size + 1
    end
    self.windows[key] = { count = 1, ends = now + rule.seconds }
    return nil
  end
  if window.count >= rule.count then return window.ends - now end
  window.count = window.count + 1
  return nil
end

---Counts one request; raises the answer 429 when it is one too many.
---@param class string
---@param who string         whose key, or which token
---@param peer string        the address that it came from
---@param sandbox_id? string  the sandbox that it is about; only of one that exists
function Limits:check(class, who, peer, sandbox_id)
  if not self.rules[class] then return end
  local id = classes[class] and classes[class][2] and sandbox_id or ""
  local wait = take(self, class, table.concat({ class, who, peer, id }, "\0"))
  if not wait then return end
  reply.refuse(429, "Too many requests", {
    error = "rate_limited", message = "Too many requests", code = 429,
  }, { ["Retry-After"] = tostring(math.max(1, math.ceil(wait))) })
end

return limits
