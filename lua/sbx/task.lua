-- Structured concurrency: every task belongs to a scope, and a scope ends only
-- when all of its tasks have ended.

local check = require("sbx.check")
local core = require("sbx.core.task")
local scopes = require("sbx.task.scope")
local time = require("sbx.core.time")
local waiters = require("sbx.core.waiter")

---@class sbx.task
local task = {}

---@class sbx.Task
---@field id integer
---@field name? string
---@field status "queued"|"running"|"waiting"|"done"|"failed"|"cancelled"
---@field waiting_on? string   what it is suspended on
---@field age number           seconds since it was spawned
---@field site string          where: "file.lua:12"
local Task = core.task_methods

-- Ends the scope and gives out what its function returned, or raises.
local function finish_scope(scope, opts, ok, ...)
  local outcome, err = scopes.close(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome == "timeout" then error(scopes.timeout_error(opts.timeout, opts.name), 0) end
  if ok then return ... end
end

---Runs `fn(scope, ...)` and returns its results once every task spawned in the
---scope has ended. The first failure cancels the others, waits for them, and is
---raised here, with the others' errors in `.errors`. A scope that is cancelled
---by its own `cancel` ends quietly and returns nothing.
---@async
---@param options? table|async fun(scope: sbx.Scope, ...): ...  `timeout` (s), `deadline` (on `task.now`), `limit`, `name`, `on_error`
---@param fn? async fun(scope: sbx.Scope, ...): ...
---@return ...
function task.scope(options, fn, ...)
  if type(options) == "function" then
    local opts = { on_error = "cancel" }
    local scope = scopes.open(opts)
    return finish_scope(scope, opts, xpcall(options, scopes.keep_traceback, scope, fn, ...))
  end
  local opts = scopes.options(options, 2)
  check.fn(fn, "scope")
  local scope = scopes.open(opts)
  return finish_scope(scope, opts, xpcall(fn, scopes.keep_traceback, scope, ...))
end

local open_options = setmetatable({}, { __mode = "k" })

---The same for straight-line code: `local s <close> = task.open_scope()`.
---@param options? table  as for `scope`
---@return sbx.Scope
function task.open_scope(options)
  local opts = scopes.options(options, 2)
  local scope = scopes.open(opts)
  open_options[scope] = opts
  return scope
end

core.scope_metatable.__close = function(scope, err)
  local opts = open_options[scope]
  if not opts then return end
  open_options[scope] = nil
  local outcome, failure = scopes.close(scope, err == nil, err)
  if outcome == "failed" then error(failure, 0) end
  if outcome == "timeout" then error(scopes.timeout_error(opts.timeout, opts.name), 0) end
end

-- ------------------------------------------------------------------ spawning

---Starts `fn(...)` as a task of the current scope; it runs once this task waits.
---@param fn async fun(...): ...
---@return sbx.Task
function task.spawn(fn, ...)
  check.fn(fn, "spawn")
  return core.spawn(nil, false, false, fn, ...)
end

---@param fn async fun(...): ...
---@return sbx.Task
function task.pspawn(fn, ...)
  check.fn(fn, "pspawn")
  return core.spawn(nil, true, false, fn, ...)
end

---@param fn async fun(...)
---@return sbx.Task
function task.daemon(fn, ...)
  check.fn(fn, "daemon")
  return core.spawn(nil, false, true, fn, ...)
end

local function deliver(ok, ...)
  if ok then return ... end
  error((...), 0)
end

---Waits for the task's end and returns its results, or raises its error.
---@async
---@return ...
function Task:join()
  return deliver(self:wait())
end

---Waits for the task's end: `true` and its results, or `false` and its error.
---@async
---@return boolean, ...
function Task:pjoin()
  return self:wait()
end

-- ------------------------------------------------------------- time and turns

---Suspends the task for `seconds`.
---@async
---@param seconds number
task.sleep = time.sleep

---Lets the other tasks that are ready run.
---@async
task.yield = core.yield

---Raises `cancelled` if the task is cancelled; never suspends.
task.checkpoint = core.checkpoint

---The running task.
---@return sbx.Task
task.current = core.current

---Seconds on a clock that never goes back.
---@return number
task.now = time.now

local function finish_timeout(scope, seconds, ok, ...)
  local outcome, err = scopes.close(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome == "timeout" then error(scopes.timeout_error(seconds), 0) end
  return ...
end

---Runs `fn(...)` and returns its results; raises a `timeout` error when it has
---not ended after `seconds` in all. What it spawned is cancelled and awaited.
---@async
---@param seconds number
---@param fn async fun(...): ...
---@return ...
function task.timeout(seconds, fn, ...)
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
---@return boolean, ...
function task.move_on(seconds, fn, ...)
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
---@return ...
function task.shield(max_s, fn, ...)
  check.number(max_s, "shield", 0, 1e9)
  check.fn(fn, "shield")
  local scope = core.open(true, false, max_s)
  return finish_timeout(scope, max_s, xpcall(fn, scopes.keep_traceback, ...))
end

-- --------------------------------------------------------------- combinators

---Runs all functions at once and returns their first results, in order. The
---first failure cancels the others and is raised.
---@async
---@param fns (async fun(): any)[]
---@return any ...
function task.gather(fns)
  check.table(fns, "gather")
  local count = #fns
  local results = {}
  for i = 1, count do
    check.fn(fns[i], "gather")
  end
  task.scope(function(scope)
    for i = 1, count do
      scope:spawn(function()
        results[i] = fns[i]()
      end)
    end
  end)
  return table.unpack(results, 1, count)
end

---Calls `fn(item, index)` for each item of `list`, at most `limit` at once
---(default 32), and returns the first results in the order of the list. With
---`on_error = "collect"` failures do not stop the others: returns the results
---and a table index → error. `timeout` (s) bounds each call.
---@async
---@generic T, R
---@param list T[]
---@param fn async fun(item: T, index: integer): R
---@param options? table  `limit`, `on_error`, `timeout`
---@return R[] results, table<integer, any>? failures
function task.map(list, fn, options)
  check.table(list, "map")
  check.fn(fn, "map")
  local opts = check.options(options, { limit = 32, on_error = "cancel", timeout = check.none })
  check.integer(opts.limit, "limit", 1)
  if opts.timeout then check.number(opts.timeout, "timeout", 0, 1e9) end
  local collect = opts.on_error == "collect"
  if not collect and opts.on_error ~= "cancel" then
    error("on_error: expected \"cancel\" or \"collect\"", 2)
  end

  local count, nextup = #list, 0
  local results, failures = {}, {}
  local function call(i)
    if opts.timeout then return (task.timeout(opts.timeout, fn, list[i], i)) end
    return (fn(list[i], i))
  end
  -- An item that waits for its turn costs nothing: workers take the next one.
  local function worker()
    while nextup < count do
      nextup = nextup + 1
      local i = nextup
      if collect then
        local ok, value = pcall(call, i)
        if ok then
          results[i] = value
        else
          task.checkpoint() -- a cancelled map is not a list of failures
          failures[i] = value
        end
      else
        results[i] = call(i)
      end
    end
  end
  task.scope(function(scope)
    for _ = 1, math.min(opts.limit, count) do
      scope:spawn(worker)
    end
  end)
  if collect then return results, failures end
  return results
end

---A one-shot meeting point of two tasks: `waiter:wait()` suspends until another
---task calls `waiter:wake(...)`, and returns what that was given. A wake before
---the wait is kept. `wake` returns false when nobody will take it.
---@param what? string  for reports: what is waited for
function task.waiter(what)
  return waiters.new(what or "another task")
end

-- -------------------------------------------------------------------- reports

---What is known of where `err` was raised: `traceback`, `chain`. For reports.
---@param err any
---@return table|nil
task.note_of = scopes.note_of

---Every live task as lines of text: status, where it was spawned, what it waits
---on and for how long. For people.
---@return string
function task.tree()
  return require("sbx.task.tree").text()
end

---Every live task, newest first.
---@return sbx.Task[]
function task.list()
  return core.list()
end

return task
