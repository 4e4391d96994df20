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

-- Runs `fn(scope)` in a scope of its own; raises what failed in it.
local function in_scope(fn)
  local scope = core.open(false, false, nil)
  local outcome, err = scopes.close(scope, xpcall(fn, scopes.keep_traceback, scope))
  if outcome == "failed" then error(err, 0) end
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
  local count = #fns
  local results = {}
  in_scope(function(scope)
    for i = 1, count do
      scope:spawn(function()
        results[i] = fns[i]()
      end)
    end
  end)
  return table.unpack(results, 1, count)
end

---Runs all functions at once to their ends, whatever they are: returns a list of
---`{ ok = true, value = first result }` and `{ ok = false, error = err }`.
---@async
---@param fns (async fun(): any)[]
---@return { ok: boolean, value?: any, error?: any }[]
function combine.settle(fns)
  check_functions(fns, "settle", 0)
  local outcomes = {}
  in_scope(function(scope)
    for i = 1, #fns do
      scope:spawn(function()
        local result = protected(xpcall(fns[i], scopes.keep_traceback))
        if result[1] then
          outcomes[i] = { ok = true, value = result[2] }
        else
          outcomes[i] = { ok = false, error = result[2] }
        end
      end)
    end
  end)
  return outcomes
end

-- Runs all until `decide(result, i)` says that the race is over: then the others
-- are cancelled and awaited.
local function run_until(fns, decide)
  in_scope(function(scope)
    for i = 1, #fns do
      scope:spawn(function()
        local result = protected(xpcall(fns[i], scopes.keep_traceback))
        if decide(result, i) then scope:cancel("another one came first") end
      end)
    end
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
  run_until(fns, function(result)
    first = first or result
    return true
  end)
  if not first[1] then error(first[2], 0) end
  return table.unpack(first, 2, first.n)
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
  run_until(fns, function(result, i)
    if result[1] then
      first = first or result
      return true
    end
    failures[i] = result[2]
    return false
  end)
  if first then return table.unpack(first, 2, first.n) end
  errors.raise {
    kind = "all_failed",
    op = "any",
    message = ("any: all %d failed, the first with: %s"):format(#fns, tostring(failures[1])),
    cause = errors.is_error(failures[1]) and failures[1] or nil,
    errors = failures,
  }
end

return combine
