-- Structured concurrency: every task belongs to a scope, and a scope ends only
-- when all of its tasks have ended.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local time = require("sbx.core.time")

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

---@class sbx.Scope
local Scope = core.scope_methods

-- Deferred finalizers, and what else belongs to a scope.
local deferred = setmetatable({}, { __mode = "k" })
local names = setmetatable({}, { __mode = "k" })

-- What reports want to know of an error: where it was raised. Keyed by the
-- value; strings cannot be weak, so the table is emptied when it grows.
local notes = setmetatable({}, { __mode = "k" })
local note_count = 0

local function note(err, record)
  if err == nil or err ~= err or notes[err] then return end
  note_count = note_count + 1
  if note_count > 1000 then
    notes, note_count = setmetatable({}, { __mode = "k" }), 0
  end
  notes[err] = record
end

---What is known of where `err` was raised: `traceback`, `chain`. For reports.
---@param err any
---@return table|nil
function task.note_of(err)
  return notes[err]
end

local function is_cancel(err)
  return errors.is_error(err) and err.kind == "cancelled"
end

local function keep_traceback(err)
  if err ~= nil and not notes[err] and not is_cancel(err) then
    note(err, { traceback = debug.traceback("", 2):sub(2) })
  end
  return err
end

-- Adds the task that `err` ended to what is known of the error: the chain of
-- tasks that it came up through.
local function note_child(err, child)
  note(err, { traceback = child:trace() })
  local record = notes[err]
  if not record then return end
  record.traceback = record.traceback or child:trace()
  record.chain = record.chain or {}
  local label = "task " .. child.id
  if child.name then label = label .. " (" .. child.name .. ")" end
  table.insert(record.chain, label .. ", spawned at " .. child.site)
end

-- ---------------------------------------------------------------- finalizers

-- Runs what `scope:defer` registered, last first. Each may wait, within the
-- budget for finalizers, also while the task is cancelled.
local function run_deferred(scope)
  local list = deferred[scope]
  deferred[scope] = nil
  for i = list and #list or 0, 1, -1 do
    local ok, err = pcall(task.shield, core.cleanup_seconds(), list[i])
    if not ok then scope:fail(err) end
  end
end

---Runs `fn()` when the scope ends, for whatever reason; the last one first. It
---may wait, for at most the cleanup budget (10 s by default).
---@param fn async fun()
function Scope:defer(fn)
  check.fn(fn, "defer")
  local list = deferred[self]
  if not list then
    list = {}
    deferred[self] = list
  end
  list[#list + 1] = fn
end

-- ------------------------------------------------------------ ends of scopes

-- The siblings' errors go with the first one, where it can carry them.
local function with_siblings(list)
  local first = list[1]
  if #list > 1 and errors.is_error(first) and not first.errors then
    first.errors = table.move(list, 2, #list, 1, {})
  end
  return first
end

-- Ends a scope whose body has ended, with `err` when not `ok`. Returns "ok",
-- "failed" with the error, "timeout", "cancelled" (by its own cancel; absorbed).
local function close_scope(scope, ok, err)
  local id = scope:state()
  local own_cancel = not ok and is_cancel(err) and err.scope_id == id
  if not ok and not own_cancel then
    if is_cancel(err) then
      scope:cancel("the scope around it was cancelled")
    else
      scope:fail(err)
      -- A collecting scope does not cancel for its children; for its body it must.
      scope:cancel("its body failed")
    end
  end
  local waited = scope:await()
  while deferred[scope] do
    run_deferred(scope)
    scope:await() -- what they spawned here
  end
  local _, cancelled, timed_out, list, _, cut = scope:state()
  scope:leave()

  if list then
    for i, each in ipairs(list) do
      if list[-i] then note_child(each, list[-i]) end
    end
    return "failed", with_siblings(list)
  end
  if not ok and not own_cancel then return "failed", err end
  if cut then
    -- Cancelled from outside, perhaps while only its tasks were waiting: what
    -- they did not finish must not pass for done.
    local alive, outer = pcall(core.checkpoint)
    if not alive then return "failed", outer end
  end
  if timed_out and (own_cancel or waited) then return "timeout" end
  if cancelled and own_cancel then return "cancelled" end
  return "ok"
end

local function timeout_error(seconds, name)
  return errors.new({
    kind = "timeout",
    op = name or "timeout",
    code = "ETIMEDOUT",
    message = string.format("%s: timed out after %g s", name or "timeout", seconds),
  })
end

local function scope_options(options, level)
  local opts = check.options(options, {
    timeout = check.none,
    deadline = check.none,
    name = check.none,
    on_error = "cancel",
    limit = check.none,
  }, level + 1)
  if opts.timeout then check.number(opts.timeout, "timeout", 0, 1e9) end
  if opts.deadline then
    check.number(opts.deadline, "deadline")
    opts.timeout = math.max(0, math.min(opts.timeout or 1e9, opts.deadline - time.now()))
  end
  if opts.on_error ~= "cancel" and opts.on_error ~= "collect" then
    error("on_error: expected \"cancel\" or \"collect\"", level + 1)
  end
  if opts.limit ~= nil then check.integer(opts.limit, "limit", 1) end
  return opts
end

-- A scope's bound on tasks that run at once: the others wait for a place.
local limits = setmetatable({}, { __mode = "k" })

local function open(opts)
  local scope = core.open(false, opts.on_error == "collect", opts.timeout)
  if opts.name then names[scope] = opts.name end
  if opts.limit then limits[scope] = { free = opts.limit, queue = {}, first = 1, last = 0 } end
  return scope
end

-- Ends the scope and gives out what its function returned, or raises.
local function finish_scope(scope, opts, ok, ...)
  local outcome, err = close_scope(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome == "timeout" then error(timeout_error(opts.timeout, opts.name), 0) end
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
    local scope = open(opts)
    return finish_scope(scope, opts, xpcall(options, keep_traceback, scope, fn, ...))
  end
  local opts = scope_options(options, 2)
  check.fn(fn, "scope")
  local scope = open(opts)
  return finish_scope(scope, opts, xpcall(fn, keep_traceback, scope, ...))
end

local open_options = setmetatable({}, { __mode = "k" })

---The same for straight-line code: `local s <close> = task.open_scope()`.
---@param options? table  as for `scope`
---@return sbx.Scope
function task.open_scope(options)
  local opts = scope_options(options, 2)
  local scope = open(opts)
  open_options[scope] = opts
  return scope
end

core.scope_metatable.__close = function(scope, err)
  local opts = open_options[scope]
  if not opts then return end
  open_options[scope] = nil
  local outcome, failure = close_scope(scope, err == nil, err)
  if outcome == "failed" then error(failure, 0) end
  if outcome == "timeout" then error(timeout_error(opts.timeout, opts.name), 0) end
end

function core.scope_metatable.__tostring(scope)
  return names[scope] and "scope " .. names[scope] or "scope"
end

-- ------------------------------------------------------------------ spawning

local function release(limit)
  while limit.first <= limit.last do
    local waiter = limit.queue[limit.first]
    limit.queue[limit.first] = nil
    limit.first = limit.first + 1
    if waiter:wake() then return end -- the place goes over to that task
  end
  limit.free = limit.free + 1
end

local place = {}
place.__index = place
function place:__close()
  release(self.limit)
end

local function take_place(limit)
  if limit.free > 0 then
    limit.free = limit.free - 1
  else
    local waiter = core.waiter("a place in its scope")
    limit.last = limit.last + 1
    limit.queue[limit.last] = waiter
    waiter:wait()
  end
  return setmetatable({ limit = limit }, place)
end

local function run_limited(limit, fn, ...)
  local _ <close> = take_place(limit)
  return fn(...)
end

local function spawn_in(scope, protect, daemon, fn, ...)
  local limit = scope and limits[scope]
  if limit and not daemon then
    return core.spawn(scope, protect, daemon, run_limited, limit, fn, ...)
  end
  return core.spawn(scope, protect, daemon, fn, ...)
end

---Starts `fn(...)` as a task of this scope. Its failure fails the scope.
---@param fn async fun(...): ...
---@return sbx.Task
function Scope:spawn(fn, ...)
  check.fn(fn, "spawn")
  return spawn_in(self, false, false, fn, ...)
end

---The same, but its failure is delivered by `join` and harms nobody else.
---@param fn async fun(...): ...
---@return sbx.Task
function Scope:pspawn(fn, ...)
  check.fn(fn, "pspawn")
  return spawn_in(self, true, false, fn, ...)
end

---A task that is cancelled, not awaited, when the scope's other tasks have
---ended. Its failure still fails the scope.
---@param fn async fun(...)
---@return sbx.Task
function Scope:daemon(fn, ...)
  check.fn(fn, "daemon")
  return spawn_in(self, false, true, fn, ...)
end

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
  local outcome, err = close_scope(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome == "timeout" then error(timeout_error(seconds), 0) end
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
  return finish_timeout(scope, seconds, xpcall(fn, keep_traceback, ...))
end

local function finish_move_on(scope, ok, ...)
  local outcome, err = close_scope(scope, ok, (...))
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
  return finish_move_on(scope, xpcall(fn, keep_traceback, ...))
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
  return finish_timeout(scope, max_s, xpcall(fn, keep_traceback, ...))
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
  return core.waiter(what or "another task")
end

-- -------------------------------------------------------------------- reports

---Every live task as lines of text: status, where it was spawned, what it waits
---on and for how long. For people.
---@return string
function task.tree()
  local children, roots = {}, {}
  local list = core.list()
  for i = #list, 1, -1 do
    local each = list[i]
    local parent = each.parent
    if parent then
      children[parent] = children[parent] or {}
      table.insert(children[parent], each)
    else
      roots[#roots + 1] = each
    end
  end
  local lines = {}
  local function add(each, depth)
    local text = string.rep("  ", depth) .. "task " .. each.id
    if each.name then text = text .. " (" .. each.name .. ")" end
    text = text .. " " .. each.status
    if each.waiting_on then text = text .. " on " .. each.waiting_on end
    if each.site ~= "" then text = text .. ", spawned at " .. each.site end
    lines[#lines + 1] = string.format("%s, %.1f s old", text, each.age)
    for _, child in ipairs(children[each] or {}) do
      add(child, depth + 1)
    end
  end
  for _, each in ipairs(roots) do
    add(each, 0)
  end
  return table.concat(lines, "\n")
end

---Every live task, newest first.
---@return sbx.Task[]
function task.list()
  return core.list()
end

return task
