-- Structured concurrency: every task belongs to a scope, and a scope ends only
-- when all of its tasks have ended.

local check = require("sbx.check")
local combine = require("sbx.task.combine")
local core = require("sbx.core.task")
local deadline = require("sbx.task.deadline")
local locals = require("sbx.task.locals")
local map = require("sbx.task.map")
local scopes = require("sbx.task.scope")
local select_case = require("sbx.task.select")
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
local wait = Task.wait

---Runs `fn(scope, ...)` and returns its results once every task spawned in the
---scope has ended. The first failure cancels the others, waits for them, and is
---raised here, with the others' errors in `.errors`. A scope that is cancelled
---by its own `cancel` ends quietly, and returns nothing unless `fn` had ended.
---@async
---@param options? table|async fun(scope: sbx.Scope, ...): ...  `timeout` (s), `deadline` (on `task.now`), `limit`, `name`, `on_error`
---@param fn? async fun(scope: sbx.Scope, ...): ...
---@param ... any  for `fn`, after the scope
---@return ...
function task.scope(options, fn, ...)
  if type(options) == "function" then
    local opts = { on_error = "cancel" }
    if fn == nil and select("#", ...) == 0 then return scopes.run(opts, options) end
    return scopes.run(opts, options, fn, ...)
  end
  local opts = scopes.options(options, 2)
  check.fn(fn, "scope")
  return scopes.run(opts, fn, ...)
end

local open_options = setmetatable({}, { __mode = "k" })

---The same for straight-line code: `local s <close> = task.open_scope()`. A cancel
---by its own `cancel` leaves the block as an error.
---@async
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
---@param ... any  for `fn`
---@return sbx.Task
function task.spawn(fn, ...)
  check.fn(fn, "spawn")
  return scopes.spawn(nil, false, fn, ...)
end

---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return sbx.Task
function task.pspawn(fn, ...)
  check.fn(fn, "pspawn")
  return scopes.spawn(nil, true, fn, ...)
end

---@param fn async fun(...)
---@param ... any  for `fn`
---@return sbx.Task
function task.daemon(fn, ...)
  check.fn(fn, "daemon")
  return core.spawn(nil, false, true, fn, ...)
end

local function deliver(child, ok, ...)
  if ok then return ... end
  scopes.note_child((...), child)
  error((...), 0)
end

---Waits for the task's end and returns its results, or raises its error.
---@async
---@return ...
function Task:join()
  return deliver(self, wait(self))
end

---Waits for the task's end: `true` and its results, or `false` and its error.
---@async
---@return boolean, ...
function Task:pjoin()
  return wait(self)
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

task.timeout = deadline.timeout
task.move_on = deadline.move_on
task.shield = deadline.shield

-- -------------------------------------------------------------- many at once

task.gather = combine.gather
task.settle = combine.settle
task.race = combine.race
task.any = combine.any
task.map = map.map
task.imap = map.imap

---Waits for the first of several things to happen, and does only that. A case is
---a channel (to receive), `channel:sending(value)`, a task (its end), an event or
---a latch, `semaphore:acquiring(n)`, or a number of seconds. When several are
---possible the first in the list is taken. Returns the number of the case, then
---what it gave: `open, value` of a channel, `ok, ...` of a task, the permit.
---@async
---@param cases any[]
---@return integer case
---@return any ...
task.select = select_case

-- ------------------------------------------------------------ inherited values

task.with = locals.with
task.get = locals.get

-- ---------------------------------------------------------- a meeting point

---A one-shot meeting point of two tasks: `waiter:wait()` suspends until another
---task calls `waiter:wake(...)`, and returns what that was given. A wake before
---the wait is kept. `wake` returns false when nobody will take it; once a wait was
---cancelled, another one raises.
---@param what? string  for reports: what is waited for
---@return sbx.core.Waiter
function task.waiter(what)
  return waiters.new(what == nil and "another task" or check.string(what, "what"))
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

check.methods(Task, "task", core.task_metatable, { "join", "pjoin", "cancel" })

return task
