-- Several functions at once, each in a task of its own: gather, settle, race, any.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local scopes = require("sbx.task.scope")

local combine = {}

local function check_functions(fns, name, least)
  check.table(fns, name, 3)
  if #fns < least then error(name .. ": expected at least one function", 3) end
  for i = 1, #fns do
    if type(fns[i]) ~= "function" then
      error(("%s: %d: expected a function, got a %s"):format(name, i, type(fns[i])), 3)
    end
  end
end

-- Calls `run(i, fn, scope)` in a task for each function, all in one scope; raises
-- what fails in it. Returns the tasks.
local function run_all(fns, run)
  local scope = core.open(false, false, nil)
  local tasks = {}
  local outcome, err = scopes.close(scope, xpcall(function()
    for i = 1, #fns do
      tasks[i] = scope:spawn(run, i, fns[i], scope)
    end
  end, scopes.keep_traceback))
  if outcome == "failed" then error(err, 0) end
  return tasks
end

-- The error of a task that was cancelled by itself: it has not done its work.
local function cancellation_of(task)
  if task.status == "cancelled" then return select(2, task:wait()) end
end

-- As pcall, but a task that is cancelled itself fails with its cancellation.
local function protected(ok, ...)
  if not ok then core.checkpoint() end
  return table.pack(ok, ...)
end

---Runs all functions at once and returns their first results, in order. The
---first failure cancels the others and is raised.
---@async
---@param fns (async fun(): any)[]
---@return any ...
function combine.gather(fns)
  check_functions(fns, "gather", 0)
  local results = {}
  local tasks = run_all(fns, function(i, fn)
    results[i] = fn()
  end)
  for _, each in ipairs(tasks) do
    local err = cancellation_of(each)
    if err then error(err, 0) end
  end
  return table.unpack(results, 1, #tasks)
end

---Runs all functions at once to their ends, whatever they are: returns a list of
---`{ ok = true, value = first result }` and `{ ok = false, error = err }`.
---@async
---@param fns (async fun(): any)[]
---@return { ok: boolean, value?: any, error?: any }[]
function combine.settle(fns)
  check_functions(fns, "settle", 0)
  local outcomes = {}
  local tasks = run_all(fns, function(i, fn)
    local result = protected(xpcall(fn, scopes.keep_traceback))
    if result[1] then
      outcomes[i] = { ok = true, value = result[2] }
    else
      outcomes[i] = { ok = false, error = result[2] }
    end
  end)
  for i, each in ipairs(tasks) do
    outcomes[i] = outcomes[i] or { ok = false, error = cancellation_of(each) }
  end
  return outcomes
end

-- Runs all until `decide(result, i)` says that the race is over: then the others
-- are cancelled and awaited.
local function run_until(fns, decide)
  return run_all(fns, function(i, fn, scope)
    local result = protected(xpcall(fn, scopes.keep_traceback))
    if decide(result, i) then scope:cancel("another one came first") end
  end)
end

---Runs all functions at once until the first has ended: returns its results, or
---raises its error. The others are cancelled and awaited.
---@async
---@param fns (async fun(): any)[]
---@return any ...
function combine.race(fns)
  check_functions(fns, "race", 1)
  local first
  local tasks = run_until(fns, function(result)
    first = first or result
    return true
  end)
  if not first then error(cancellation_of(tasks[1]), 0) end
  if not first[1] then error(first[2], 0) end
  return table.unpack(first, 2, first.n)
end

-- Raises that all have failed.
local function raise_all_failed(failures)
  local first = failures[1]
  local shown, text = pcall(tostring, first)
  errors.raise {
    kind = "all_failed",
    op = "any",
    message = ("any: all %d failed, the first with: %s"):format(#failures,
      shown and text or "(an error that cannot be shown)"),
    cause = errors.is_error(first) and first or nil,
    errors = failures,
  }
end

---Runs all functions at once until the first has succeeded, and returns its
---results. The others are cancelled and awaited. When all fail: kind
---`all_failed`, with their errors in `.errors`.
---@async
---@param fns (async fun(): any)[]
---@return any ...
function combine.any(fns)
  check_functions(fns, "any", 1)
  local first
  local failures = {}
  local tasks = run_until(fns, function(result, i)
    if result[1] then
      first = first or result
      return true
    end
    failures[i] = result[2]
    return false
  end)
  if first then return table.unpack(first, 2, first.n) end
  for i, each in ipairs(tasks) do
    if failures[i] == nil then failures[i] = cancellation_of(each) or "no error object" end
  end
  raise_all_failed(failures)
end

return combine
