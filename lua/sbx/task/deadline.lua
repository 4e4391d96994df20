-- A bound in time over a block of work: timeout, move_on, shield.

local check = require("sbx.check")
local core = require("sbx.core.task")
local scopes = require("sbx.task.scope")

local deadline = {}

local function finish_timeout(scope, seconds, ok, ...)
  local outcome, err = scopes.close(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome == "timeout" then error(scopes.timeout_error(seconds), 0) end
  return ...
end

local function finish_shield(scope, seconds, ok, ...)
  local outcome, err = scopes.close(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome ~= "timeout" then return ... end
  err = scopes.timeout_error(seconds, "shield")
  if scope:is_bounded() then
    err.message = "shield: cut off, the program ends and its time for cleaning up is over"
  end
  error(err, 0)
end

---Runs `fn(...)` and returns its results; raises a `timeout` error when it has
---not ended after `seconds` in all. What it spawned is cancelled and awaited.
---@async
---@param seconds number
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return ...
function deadline.timeout(seconds, fn, ...)
  check.number(seconds, "timeout", 0, 1e9)
  check.fn(fn, "timeout")
  local scope = core.open(false, false, seconds)
  return finish_timeout(scope, seconds, xpcall(fn, scopes.keep_traceback, ...))
end

local function finish_move_on(scope, ok, ...)
  local outcome, err = scopes.close(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome == "timeout" then return false end
  return true, ...
end

---Runs `fn(...)`: `true` and its results, or `false` when `seconds` passed first.
---@async
---@param seconds number
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return boolean, ...
function deadline.move_on(seconds, fn, ...)
  check.number(seconds, "move_on", 0, 1e9)
  check.fn(fn, "move_on")
  local scope = core.open(false, false, seconds)
  return finish_move_on(scope, xpcall(fn, scopes.keep_traceback, ...))
end

---Runs `fn(...)` out of reach of cancellation from outside, for at most `max_s`
---seconds; then it raises a `timeout` error. For work that must be completed,
---such as taking ownership of what was just created.
---@async
---@param max_s number
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return ...
function deadline.shield(max_s, fn, ...)
  check.number(max_s, "shield", 0, 1e9)
  check.fn(fn, "shield")
  local scope = core.open(true, false, max_s)
  return finish_shield(scope, max_s, xpcall(fn, scopes.keep_traceback, ...))
end

return deadline
