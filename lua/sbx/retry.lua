-- Calls again what failed in passing, after growing, random pauses.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local observe = require("sbx.observe")
local scopes = require("sbx.task.scope")
local time = require("sbx.core.time")

---@class sbx.retry
local retry = {}

---@class sbx.retry.Options
---@field attempts? integer  tries in all, the first included (default 3)
---@field pause? number      seconds: the longest pause before the second try; doubles each time (default 0.5)
---@field max_pause? number  seconds: the longest pause of all (default 30)
---@field timeout? number    seconds after which no further try begins
---@field when? fun(err: any): boolean  whether to try again (default: an error object that says `retryable`)
---@field on_retry? fun(err: any, attempt: integer, pause: number)  told before each pause
---@field budget? sbx.retry.Budget  shared by many calls

local defaults = {
  attempts = 3, pause = 0.5, max_pause = 30, timeout = check.none, when = check.none,
  on_retry = check.none, budget = check.none,
}

-- ------------------------------------------------------------------- budget

---What many calls may spend on tries after the first. It fills by a part of a
---try with each call; when it is empty failures are raised at once, so that a
---server in trouble is not asked many times as often by all.
---@class sbx.retry.Budget
---@field left number  tries
---@field ratio number
---@field burst number
local Budget = {}
Budget.__index = Budget
Budget.__name = "sbx.retry.Budget"

---@param options? { ratio?: number, burst?: number }  tries that each call adds (default 0.2); the most that can be saved up, and what it starts with (default 10)
---@return sbx.retry.Budget
function retry.budget(options)
  local opts = check.options(options, { ratio = 0.2, burst = 10 })
  check.number(opts.ratio, "ratio", 0)
  check.number(opts.burst, "burst", 0)
  return setmetatable({ ratio = opts.ratio, burst = opts.burst, left = opts.burst }, Budget)
end

---Counts a call in.
function Budget:deposit()
  self.left = math.min(self.burst, self.left + self.ratio)
end

---Takes one try. False when there is none left.
---@return boolean
function Budget:withdraw()
  if self.left < 1 then return false end
  self.left = self.left - 1
  return true
end

check.methods(Budget, "budget")

-- --------------------------------------------------------------------- call

local function check_options(options, level)
  if type(options) == "number" then options = { attempts = options } end
  if options ~= nil and type(options) ~= "table" then
    error("retry: expected a number of attempts or a table, got a " .. type(options), level + 1)
  end
  local opts = check.options(options, defaults, level + 1)
  check.integer(opts.attempts, "attempts", 1)
  check.number(opts.pause, "pause", 0)
  check.number(opts.max_pause, "max_pause", 0)
  if opts.timeout ~= nil then check.number(opts.timeout, "timeout", 0) end
  if opts.when ~= nil then check.fn(opts.when, "when") end
  if opts.on_retry ~= nil then check.fn(opts.on_retry, "on_retry") end
  if opts.budget ~= nil and getmetatable(opts.budget) ~= Budget then
    error("budget: expected what retry.budget made, got a " .. type(opts.budget), level + 1)
  end
  return opts
end

local function is_transient(err, when)
  if errors.is_error(err) and rawget(err, "kind") == "cancelled" then return false end
  if when then return when(err) end
  return errors.is_error(err) and err.retryable == true
end

---The seconds to pause before the try after `attempt`: random between 0 and a
---bound that doubles ("full jitter"), or what `err` asks for in `retry_after`
---and a little more, so that those who were sent away together come back apart.
---@param options sbx.retry.Options
---@param attempt integer  the tries so far
---@param err? any
---@return number
function retry.pause(options, attempt, err)
  local longest = options.max_pause or defaults.max_pause
  local shortest = options.pause or defaults.pause
  local bound = math.min(longest, shortest * 2.0 ^ math.min(attempt - 1, 60))
  local asked = errors.is_error(err) and tonumber(err.retry_after)
  local jitter = math.random() * bound
  if asked and asked > 0 and asked < math.huge then return asked + jitter end
  return jitter
end

local function give_up(err, attempt)
  if attempt > 1 and errors.is_error(err) and rawget(err, "attempts") == nil then
    err.attempts = attempt
  end
  error(err, 0)
end

---Calls `fn(attempt)` until it succeeds and returns its results, or raises its
---last failure, with the number of tries in `attempts`. By default only error
---objects that say `retryable` are worth another try; a cancellation never is. A
---server that asks for a longer pause than `max_pause` is not asked again.
---@async
---@generic T
---@param fn async fun(attempt: integer): T
---@param options? sbx.retry.Options|integer  an integer is `attempts`
---@return T
function retry.call(fn, options)
  check.fn(fn, "call")
  local opts = check_options(options, 2)
  local last_start = opts.timeout and time.now() + opts.timeout or math.huge
  if opts.budget then opts.budget:deposit() end

  local attempt = 1
  while true do
    local result = table.pack(xpcall(fn, scopes.keep_traceback, attempt))
    if result[1] then return table.unpack(result, 2, result.n) end
    local err = result[2]
    core.checkpoint() -- a cancelled task does not try again
    if attempt >= opts.attempts or not is_transient(err, opts.when) then give_up(err, attempt) end
    local asked = errors.is_error(err) and tonumber(err.retry_after) or 0
    local pause = retry.pause(opts, attempt, err)
    if asked > opts.max_pause or time.now() + pause > last_start then give_up(err, attempt) end
    if opts.budget and not opts.budget:withdraw() then give_up(err, attempt) end
    if opts.on_retry then opts.on_retry(err, attempt, pause) end
    if observe.retry then observe.retry("retry", err, pause) end
    time.sleep(pause)
    attempt = attempt + 1
  end
end

---Checks options for `call`, to be used many times; raises as it does.
---@param options? sbx.retry.Options|integer
---@param level? integer  whose line an error names (default: the caller's caller)
---@return sbx.retry.Options
function retry.options(options, level)
  return (check_options(options, (level or 2) + 1)) -- no tail call: the level counts frames
end

return retry
