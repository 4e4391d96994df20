-- What a scope is to Lua: how it ends, what it defers, how many tasks it lets run
-- at once; and what is remembered of errors that come up through scopes.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local time = require("sbx.core.time")

local scopes = {}

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
  if err == nil or err ~= err then return end
  note_count = note_count + 1
  if note_count > 1000 then
    notes, note_count = setmetatable({}, { __mode = "k" }), 0
  end
  notes[err] = record
end

-- Whether an error whose traceback this is was raised there, not passed on by the
-- library, which had caught it.
local function is_fresh(traceback)
  return not traceback:find("^[^\n]*\n%s*%[C%]: in function 'error'\n%s*sbx/[%w_/]*%.lua:")
end

-- Whether what is known of `err` holds for the error raised here. A table is one
-- error; a text may have been raised before, elsewhere.
local function is_noted(err, traceback)
  return notes[err] and (type(err) == "table" or not (traceback and is_fresh(traceback)))
end

---What is known of where `err` was raised: `traceback`, `chain`. For reports.
---@param err any
---@return table|nil
function scopes.note_of(err)
  return notes[err]
end

local function is_cancel(err)
  return errors.is_error(err) and err.kind == "cancelled"
end

---For xpcall: remembers where an error was raised, and returns it as it is.
function scopes.keep_traceback(err)
  if err == nil or is_cancel(err) or (type(err) == "table" and notes[err]) then return err end
  local traceback = debug.traceback("", 2):sub(2)
  if not is_noted(err, traceback) then note(err, { traceback = traceback }) end
  return err
end

-- Adds the task that `err` ended to what is known of the error: the chain of
-- tasks that it came up through.
local function note_child(err, child)
  if err == nil or is_cancel(err) then return end
  if child.cause then note_child(err, child.cause) end
  local traceback = child:trace()
  if not is_noted(err, traceback) then note(err, { traceback = traceback }) end
  local record = notes[err]
  if not record then return end
  record.chain = record.chain or {}
  local label = "task " .. child.id
  if child.name then label = label .. " (" .. child.name .. ")" end
  label = label .. ", spawned at " .. child.site
  -- Who joined it may have told of it before its scope does.
  if record.chain[#record.chain] ~= label then table.insert(record.chain, label) end
end

scopes.note_child = note_child

-- ---------------------------------------------------------------- finalizers

-- Runs what `scope:defer` registered, last first. Each may wait, within the
-- budget for finalizers, also while the task is cancelled.
local function run_deferred(scope)
  local list = deferred[scope]
  deferred[scope] = nil
  for i = list and #list or 0, 1, -1 do
    local shield = core.open(true, false, core.cleanup_seconds())
    local ok, err = xpcall(list[i], scopes.keep_traceback)
    local outcome, failure = scopes.close(shield, ok, err)
    if outcome == "timeout" then failure = scopes.timeout_error(core.cleanup_seconds(), "defer") end
    if outcome == "failed" or outcome == "timeout" then scope:fail(failure) end
  end
end

---Runs `fn()` when the scope ends, for whatever reason; the last one first. It
---may wait, for at most the cleanup budget (10 s by default).
---@param fn async fun()
function Scope:defer(fn)
  check.fn(fn, "defer")
  if not self:is_open() then error("defer: the scope has ended", 2) end
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
  if #list < 2 then return first end
  local others = table.move(list, 2, #list, 1, {})
  if not errors.is_error(first) then
    -- A plain value carries nothing: the report has them all the same.
    if first ~= nil and not notes[first] then note(first, {}) end
    if notes[first] then notes[first].errors = others end
  elseif not first.errors then
    first.errors = others
  end
  return first
end

-- Ends a scope that was opened and never closed. Returns how that fails what is
-- around it.
local function end_forgotten(scope)
  scope:cancel("it was never closed")
  local outcome, err = scopes.close(scope, true)
  if outcome == "failed" and err ~= nil and not is_cancel(err) then return err end
  return "a scope was never closed: hold it as `local s <close> = task.open_scope()`"
end

core.scope_metatable.end_forgotten = end_forgotten

-- Ends a scope whose body has ended, with `err` when not `ok`. Returns "ok",
-- "failed" with the error, "timeout", "cancelled" (by its own cancel; absorbed).
function scopes.close(scope, ok, err)
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
  local inner = scope:inner()
  while inner do
    local problem = end_forgotten(inner)
    if ok or not is_cancel(err) then scope:fail(problem) end
    inner = scope:inner()
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

-- The error of a deadline that passed.
function scopes.timeout_error(seconds, name)
  -- What is left until a deadline is no round number.
  if seconds >= 0.01 then seconds = math.floor(seconds * 1000 + 0.5) / 1000 end
  return errors.new({
    kind = "timeout",
    op = name or "timeout",
    code = "ETIMEDOUT",
    message = string.format("%s: timed out after %g s", name or "timeout", seconds),
  })
end

-- Checks the options of `scope` and `open_scope`.
function scopes.options(options, level)
  local opts = check.options(options, {
    timeout = check.none,
    deadline = check.none,
    name = check.none,
    on_error = "cancel",
    limit = check.none,
  }, level + 1)
  if opts.timeout ~= nil then check.number(opts.timeout, "timeout", 0, 1e9) end
  if opts.deadline ~= nil then
    check.number(opts.deadline, "deadline")
    opts.timeout = math.max(0, math.min(opts.timeout or 1e9, opts.deadline - time.now()))
  end
  if opts.on_error ~= "cancel" and opts.on_error ~= "collect" then
    error("on_error: expected \"cancel\" or \"collect\"", level + 1)
  end
  if opts.limit ~= nil then check.integer(opts.limit, "limit", 1) end
  if opts.name ~= nil then check.string(opts.name, "name") end
  return opts
end

-- A scope's bound on tasks that run at once: the others wait for a place.
local limits = setmetatable({}, { __mode = "k" })
local has_limits = false -- whether there has been one

-- Opens a scope with checked options; it is the innermost one now.
function scopes.open(opts)
  local scope = core.open(false, opts.on_error == "collect", opts.timeout)
  if opts.name then names[scope] = opts.name end
  if opts.limit then
    limits[scope] = require("sbx.sync").semaphore(opts.limit, "limit of its scope")
    has_limits = true
  end
  return scope
end

-- Ends the scope and gives out what its function returned, or raises.
local function finish(scope, opts, ok, ...)
  local outcome, err = scopes.close(scope, ok, (...))
  if outcome == "failed" then error(err, 0) end
  if outcome == "timeout" then error(scopes.timeout_error(opts.timeout, opts.name), 0) end
  if ok then return ... end
end

---Runs `fn(scope, ...)` in a scope with checked options: `task.scope`.
---@async
---@param opts table
---@param fn async fun(scope: sbx.Scope, ...): ...
---@param ... any  for `fn`, after the scope
---@return ...
function scopes.run(opts, fn, ...)
  local scope = scopes.open(opts)
  return finish(scope, opts, xpcall(fn, scopes.keep_traceback, scope, ...))
end

function core.scope_metatable.__tostring(scope)
  return names[scope] and "scope " .. names[scope] or "scope"
end

-- ------------------------------------------------------------------ spawning

local function run_limited(limit, fn, ...)
  -- A task that need not wait for its place begins, also when it is cancelled.
  local _ <close> = limit:try_acquire() or limit:acquire()
  return fn(...)
end

---Starts `fn(...)` as a task of `scope`, once it has a place there; nil is the
---innermost scope.
---@param scope sbx.Scope|nil
---@param protect boolean
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return sbx.Task
function scopes.spawn(scope, protect, fn, ...)
  if has_limits then
    scope = scope or core.innermost()
    local limit = scope and limits[scope]
    if limit then return core.spawn(scope, protect, false, run_limited, limit, fn, ...) end
  end
  return core.spawn(scope, protect, false, fn, ...)
end

---Starts `fn(...)` as a task of this scope. Its failure fails the scope.
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return sbx.Task
function Scope:spawn(fn, ...)
  check.fn(fn, "spawn")
  return scopes.spawn(self, false, fn, ...)
end

---The same, but its failure is delivered by `join` and harms nobody else.
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return sbx.Task
function Scope:pspawn(fn, ...)
  check.fn(fn, "pspawn")
  return scopes.spawn(self, true, fn, ...)
end

---A task that is cancelled, not awaited, when the scope's other tasks have
---ended. Its failure still fails the scope.
---@param fn async fun(...)
---@param ... any  for `fn`
---@return sbx.Task
function Scope:daemon(fn, ...)
  check.fn(fn, "daemon")
  return core.spawn(self, false, true, fn, ...)
end

check.methods(Scope, "scope", core.scope_metatable,
  { "spawn", "pspawn", "daemon", "defer", "cancel" })

return scopes
