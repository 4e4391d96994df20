-- One function over many items, a bounded number at once: map and imap.
--
-- An item that waits for its turn costs nothing but its place in the list: a few
-- workers take one after the other.

local channel = require("sbx.channel")
local check = require("sbx.check")
local core = require("sbx.core.task")
local deadline = require("sbx.task.deadline")
local retry = require("sbx.retry")
local scopes = require("sbx.task.scope")
local sync = require("sbx.sync")

local DEFAULT_LIMIT = 32

-- ------------------------------------------------------------------ options

local defaults = {
  limit = DEFAULT_LIMIT, on_error = "cancel", retry = check.none, timeout = check.none,
  progress = check.none,
}

local function check_options(options, level)
  local opts = check.options(options, defaults, level + 1)
  check.integer(opts.limit, "limit", 1)
  if opts.timeout ~= nil then check.number(opts.timeout, "timeout", 0, 1e9) end
  if opts.on_error ~= "cancel" and opts.on_error ~= "collect" then
    error('on_error: expected "cancel" or "collect"', level + 1)
  end
  if opts.retry ~= nil then opts.retry = retry.options(opts.retry, level + 1) end
  local progress = type(opts.progress)
  if progress ~= "nil" and progress ~= "string" and progress ~= "function" then
    error("progress: expected a label or a function, got a " .. progress, level + 1)
  end
  return opts
end

-- Returns next() → index, item (index nil at the end), and the number of items
-- if it is known.
local function items_of(list, name)
  if check.is_callable(list) then
    -- One at a time: a generator that waits cannot be resumed by another worker.
    local turn = sync.mutex()
    local count, ended = 0, false
    return function()
      local _ <close> = turn:lock()
      if ended then return nil end
      ended = true -- when it raises: the next worker must not call it again
      local item = list()
      if item == nil then return nil end
      ended = false
      count = count + 1
      return count, item
    end
  end
  if type(list) ~= "table" then
    error(name .. ": expected a list or a function, got a " .. type(list), 3)
  end
  local count, at = #list, 0
  if count == 0 and next(list) ~= nil then
    error(name .. ": expected a list, got a table that has names and no items", 3)
  end
  return function()
    if at >= count then return nil end
    at = at + 1
    return at, list[at]
  end, count
end

-- ----------------------------------------------------------------- progress

-- Returns tell(done, failed) and a value to close.
local function open_progress(progress, total)
  if progress == nil then return function() end, nil end
  if type(progress) == "function" then
    return function(done, failed)
      progress(done, total, failed)
    end, nil
  end
  local bar = require("sbx.progress").bar({ label = progress, total = total })
  return function(done, failed)
    bar:set(done)
    if failed > 0 then bar:note(failed .. " failed") end
  end, bar
end

-- ------------------------------------------------------------------ workers

-- What is done for one item.
local function make_call(fn, opts)
  local call = fn
  if opts.retry then
    call = function(item, index)
      return retry.call(function()
        return fn(item, index)
      end, opts.retry)
    end
  end
  if opts.timeout then
    local within = call
    call = function(item, index)
      return deadline.timeout(opts.timeout, within, item, index)
    end
  end
  return call
end

-- What stands for the error of `error(nil)`, where nil says that there is none.
local NOTHING_RAISED = "no error object"

-- A worker that was cancelled by itself has not done its work.
local function raise_cancelled(workers)
  for _, worker in ipairs(workers) do
    if worker.status == "cancelled" then error(select(2, worker:wait()), 0) end
  end
end

-- Runs `fn` over all items, `opts.limit` at once, and hands what comes of each to
-- `deliver(index, ok, value)`, which may wait.
local function run(next_item, total, fn, opts, deliver)
  local call = make_call(fn, opts)
  local collect = opts.on_error == "collect"
  local tell, bar <close> = open_progress(opts.progress, total)
  local done, failed = 0, 0

  local function finish(index, ok, value)
    if not ok then
      core.checkpoint() -- a cancelled map is no list of failures
      failed = failed + 1
      if value == nil then value = NOTHING_RAISED end
    end
    done = done + 1
    tell(done, failed)
    deliver(index, ok, value)
  end
  local function worker()
    for index, item in next_item do
      if collect then
        finish(index, xpcall(call, scopes.keep_traceback, item, index))
      else
        finish(index, true, (call(item, index)))
      end
    end
  end

  local scope = core.open(false, false, nil)
  local workers = {}
  local ok, err = xpcall(function()
    for i = 1, math.min(opts.limit, total or opts.limit) do
      workers[i] = scope:spawn(worker)
    end
  end, scopes.keep_traceback)
  local outcome, failure = scopes.close(scope, ok, err)
  if bar and outcome == "failed" then bar:fail() end
  if outcome == "failed" then error(failure, 0) end
  raise_cancelled(workers)
end

-- ---------------------------------------------------------------------- map

local map = {}

---@class sbx.task.MapOptions
---@field limit? integer     how many at once (default 32)
---@field on_error? "cancel"|"collect"  whether a failure ends it all (default), or the others go on
---@field retry? sbx.retry.Options|integer  tries for each item, as `retry.call` has them
---@field timeout? number    seconds for each item, its tries and pauses included
---@field progress? string|fun(done: integer, total: integer|nil, failed: integer)  the label of a bar on stderr, or who is told

---Calls `fn(item, index)` for each item, a bounded number at once, and returns
---the first results in the order of the list. The first failure cancels the
---others and is raised; with `on_error = "collect"` it returns the results and a
---table index → error. `list` may be a function that returns the next item, or
---nil at the end; it is called when its item's turn has come.
---@async
---@generic T, R
---@param list T[]|async fun(): T|nil
---@param fn async fun(item: T, index: integer): R
---@param options? sbx.task.MapOptions
---@return R[] results
---@return table<integer, any>? failures
function map.map(list, fn, options)
  check.fn(fn, "map")
  local opts = check_options(options, 2)
  local next_item, total = items_of(list, "map")
  local results, failures = {}, {}
  run(next_item, total, fn, opts, function(index, ok, value)
    if ok then
      results[index] = value
    else
      failures[index] = value
    end
  end)
  if opts.on_error == "collect" then return results, failures end
  return results
end

-- --------------------------------------------------------------------- imap

---@class sbx.task.Results
---@overload async fun(): integer|nil, any, any
local Results = {}
Results.__index = Results
Results.__name = "sbx.task.Results"

-- The next one that has finished: index, value, error.
function Results:__call()
  local ok, result = self.channel:receive()
  if not ok then return nil end
  if result.ok then return result.index, result.value end
  return result.index, nil, result.value
end

---Ends the work that is left, and waits until it has cleaned up.
---@async
function Results:close()
  self.channel:close()
  self.driver:cancel("nobody takes its results")
  self.driver:wait()
end

Results.__close = Results.close

local Ending = {}

-- However the driver ends, the one who waits for results learns of it.
function Ending:__close(err)
  if err == nil and not self.done then err = NOTHING_RAISED end
  self.channel:close(err)
end

---The same as an iterator over what has finished, in that order: `for index,
---value, err in task.imap(list, fn, options)`; `err` only with `on_error =
---"collect"`. At most `limit` results wait to be looked at: then the work stands
---still. To leave the loop early, have it in a `<close>` variable, whose end awaits
---the items at work, or they end with the scope around.
---@async
---@generic T, R
---@param list T[]|async fun(): T|nil
---@param fn async fun(item: T, index: integer): R
---@param options? sbx.task.MapOptions
---@return sbx.task.Results
function map.imap(list, fn, options)
  check.fn(fn, "imap")
  local opts = check_options(options, 2)
  local next_item, total = items_of(list, "imap")
  -- Room for one result of each worker, so that they work on while one is looked
  -- at, and stop when nobody looks.
  local results = channel.new(opts.limit, "results of imap")
  local driver = core.spawn(nil, true, true, function()
    local ending <close> = setmetatable({ channel = results }, Ending)
    run(next_item, total, fn, opts, function(index, ok, value)
      results:send({ index = index, ok = ok, value = value })
    end)
    ending.done = true
  end)
  return setmetatable({ channel = results, driver = driver }, Results)
end

return map
