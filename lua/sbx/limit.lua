-- How much, and how fast: a rate that many tasks share, and a number at once that
-- finds its own size.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local scopes = require("sbx.task.scope")
local sync = require("sbx.sync")
local time = require("sbx.core.time")

---@class sbx.limit
local limit = {}

-- --------------------------------------------------------------------- rate

---A token bucket: tokens come at a steady rate, and at most `burst` are kept.
---@class sbx.limit.Rate
---@field per_second number
---@field burst number
---@field left number       tokens that are there
---@field waiting integer   tasks in line
---@field private tokens number   may be negative after `set`
---@field private at number       when `tokens` was right; ahead of now in a pause
---@field private turn sbx.sync.Mutex  those who wait, in line
---@field private wanted number   tokens that the first of these waits for
local Rate = {}
Rate.__name = "sbx.limit.Rate"

-- The shortest sleep: in a shorter one a clock may not move on at all, and what
-- is missing may be less than a clock can tell.
local MOMENT = 1e-6

-- The tokens that came meanwhile.
local function refill(self)
  local now = time.now()
  if now > self.at then
    self.tokens = math.min(self.burst, self.tokens + (now - self.at) * self.per_second)
    self.at = now
  end
end

-- Seconds until `count` tokens are there, if nobody takes one meanwhile.
local function seconds_until(self, count)
  refill(self)
  return math.max(0, self.at - time.now()) + math.max(0, count - self.tokens) / self.per_second
end

function Rate:__index(key)
  if key == "waiting" then return rawget(self, "turn").waiting end
  if key == "left" then
    refill(self)
    return math.max(0, rawget(self, "tokens"))
  end
  return Rate[key]
end

---Makes a rate limit. It starts full.
---@param options { per_second: number, burst?: number, name?: string }  `burst`: how many may go at once after a rest (default: one second's worth, at least 1)
---@return sbx.limit.Rate
function limit.rate(options)
  local opts = check.options(check.table(options, "rate"),
    { per_second = check.none, burst = check.none, name = check.none })
  check.number(opts.per_second, "per_second", 1e-9, 1e9)
  local burst = opts.burst or math.max(1, opts.per_second)
  check.number(burst, "burst", 1, 1e9)
  return setmetatable({
    per_second = opts.per_second,
    burst = burst,
    tokens = burst,
    at = time.now(),
    turn = sync.mutex(opts.name),
    wanted = 0,
  }, Rate)
end

local function check_count(self, count, name)
  count = check.number(count == nil and 1 or count, name, 0)
  if count > self.burst then
    error(("%s: expected at most the burst of %g, got %g"):format(name, self.burst, count), 3)
  end
  return count
end

---Waits until `count` tokens are there, behind those who came before, and takes
---them. A cancelled task takes none.
---@async
---@param count? number  default 1, at most `burst`
function Rate:take(count)
  count = check_count(self, count, "take")
  core.checkpoint("take")
  local _ <close> = self.turn:lock()
  self.wanted = count
  while true do
    -- `set` may have made the burst smaller: then the rest is owed.
    local seconds = seconds_until(self, math.min(count, self.burst))
    if seconds == 0 then break end
    -- It may change the rate meanwhile: look again after a while.
    time.sleep(math.max(MOMENT, math.min(1, seconds)))
  end
  self.tokens = self.tokens - count
end

---The same without waiting: false, and in how many seconds it may work, when
---nobody else comes first.
---@param count? number
---@return boolean taken
---@return number? seconds
function Rate:try_take(count)
  count = check_count(self, count, "try_take")
  local turn <close> = self.turn:try_lock()
  if not turn then return false, math.max(MOMENT, seconds_until(self, self.wanted + count)) end
  local seconds = seconds_until(self, count)
  if seconds > 0 then return false, math.max(MOMENT, seconds) end
  self.tokens = self.tokens - count
  return true
end

---Lets nothing through for `seconds`, as a server's `Retry-After` asks.
---@param seconds number
function Rate:pause(seconds)
  check.number(seconds, "pause", 0, 1e9)
  refill(self)
  self.tokens = math.min(self.tokens, 0)
  self.at = math.max(self.at, time.now() + seconds)
end

---Changes the rate, also for those who wait. A pause stays as long as it is.
---@param per_second number
---@param burst? number
function Rate:set(per_second, burst)
  check.number(per_second, "per_second", 1e-9, 1e9)
  if burst ~= nil then check.number(burst, "burst", 1, 1e9) end
  refill(self)
  self.per_second = per_second
  self.burst = burst or self.burst
  self.tokens = math.min(self.tokens, self.burst)
end

-- ----------------------------------------------------------------- adaptive

---A number at once that grows slowly while all goes well and halves when there
---is too much (additive increase, multiplicative decrease).
---@class sbx.limit.Adaptive
---@field size number     the present limit; whole places of it are given out
---@field active integer  places taken
---@field waiting integer
---@field private min number
---@field private max number
---@field private decrease number
---@field private shrunk integer  how often it shrank
---@field private permits sbx.sync.Semaphore
local Adaptive = {}
Adaptive.__name = "sbx.limit.Adaptive"

function Adaptive:__index(key)
  if key == "active" then return rawget(self, "permits").used end
  if key == "waiting" then return rawget(self, "permits").waiting end
  return Adaptive[key]
end

-- A server that says "too many", or that does not keep up.
local OVERLOADED = { [429] = true, [503] = true }

local function is_overload(err)
  if not errors.is_error(err) then return false end
  return OVERLOADED[err.status] or err:is("timeout") or err:is("rate_limited")
end

---@param options? { start?: integer, min?: integer, max?: integer, decrease?: number, overloaded?: (fun(err: any): boolean), name?: string }  places at first (8), at least (1) and at most (256); what a decrease leaves (0.5); which errors mean "too much" (default: status 429 and 503, kind `timeout`)
---@return sbx.limit.Adaptive
function limit.adaptive(options)
  local opts = check.options(options, {
    start = 8, min = 1, max = 256, decrease = 0.5, overloaded = is_overload, name = check.none,
  })
  check.integer(opts.min, "min", 1)
  check.integer(opts.max, "max", opts.min)
  check.integer(opts.start, "start", opts.min, opts.max)
  check.number(opts.decrease, "decrease", 0, 1)
  check.fn(opts.overloaded, "overloaded")
  return setmetatable({
    size = opts.start,
    min = opts.min,
    max = opts.max,
    decrease = opts.decrease,
    overloaded = opts.overloaded,
    shrunk = 0,
    permits = sync.semaphore(opts.start, opts.name),
  }, Adaptive)
end

local function set_size(self, size)
  self.size = math.max(self.min, math.min(self.max, size))
  self.permits:resize(math.floor(self.size))
end

---A place, to be closed at the end of the work. Say `ok()` or `overload()` of it
---once it is known; a place closed without either teaches nothing.
---@class sbx.limit.Place
local Place = {}
Place.__index = Place
Place.__name = "sbx.limit.Place"

---Waits for a place: `local place <close> = a:acquire()`.
---@async
---@return sbx.limit.Place
function Adaptive:acquire()
  local permit = self.permits:acquire()
  local full = self.permits.used >= math.floor(self.size)
  return setmetatable({ of = self, permit = permit, shrunk = self.shrunk, full = full }, Place)
end

---The work went well: when all places were taken the limit grows by one place
---for each round of them.
function Place:ok()
  local of = self.of
  if self.full and not self.told then set_size(of, of.size + 1 / of.size) end
  self.told = true
end

---There was too much: the limit shrinks, once for all places that were taken
---before it last did.
function Place:overload()
  local of = self.of
  if not self.told and self.shrunk == of.shrunk then
    of.shrunk = of.shrunk + 1
    set_size(of, of.size * of.decrease)
  end
  self.told = true
end

---Gives the place back.
function Place:release()
  self.permit:release()
end

Place.__close = Place.release

---Runs `fn(...)` in a place and learns from how it ends: its errors are passed
---on, and those that `overloaded` accepts shrink the limit.
---@async
---@generic T
---@param fn async fun(...): T
---@param ... any  for `fn`
---@return T
function Adaptive:run(fn, ...)
  check.fn(fn, "run")
  local place <close> = self:acquire()
  local result = table.pack(xpcall(fn, scopes.keep_traceback, ...))
  if result[1] then
    place:ok()
    return table.unpack(result, 2, result.n)
  end
  if self.overloaded(result[2]) then place:overload() end
  error(result[2], 0)
end

check.methods(Rate, "rate")
check.methods(Adaptive, "adaptive")
check.methods(Place, "place")

return limit
