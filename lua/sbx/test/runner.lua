-- Runs tests one after the other, each in a task and a scope of its own: nothing of
-- it goes on when the next begins.

local clocks = require("sbx.test.clock")
local core = require("sbx.core.task")
local explain = require("sbx.test.explain")
local host = require("sbx.core.host")
local leaks = require("sbx.test.leaks")
local registry = require("sbx.test.registry")
local skipping = require("sbx.test.skip")
local stream = require("sbx.core.stream")
local task = require("sbx.task")
local test_core = require("sbx.core.test")

local runner = {}

local DEADLINE = 60 -- seconds for a test that names none

---@class sbx.test.Result
---@field verdict "passed"|"failed"|"skipped"|"todo"
---@field failures string[]  texts, perhaps of several lines each
---@field place? string      "file:line" of the first
---@field reason? string     why it was skipped
---@field seconds number     of real time
---@field seed? integer      of the run that failed
---@field runs integer       how often it ran

---@class sbx.test.State
---@field scope sbx.Scope
---@field clock? sbx.test.Clock
---@field late? string      where its tasks were when its time was over
---@field deadlock? string  the same, when each waited for another
---@field exit? any         what it called os.exit with

-- ------------------------------------------------------- what may end a test

local current ---@type sbx.test.State|nil  of the test or file that runs

local function say(text)
  pcall(host.write, 2, "sbxlua test: " .. text .. "\n")
end

-- What the host sees and tells, outside every task: none of it can wait.
local events = {}

function events.deadlock()
  if current then current.deadlock = explain.tasks(current.apart) end
  return "deadlock"
end

function events.signal(name)
  say(name .. ": cleaning up" .. (name == "SIGINT" and "; Ctrl-C again stops at once" or ""))
end

function events.tree()
  say("SIGQUIT: what the tasks do\n" .. task.tree())
end

function events.slow(text)
  say(text)
end

-- Makes what would end the whole run end the test alone.
local function install()
  local stock_exit = os.exit
  function os.exit(code, close)
    if not current then return stock_exit(code, close) end
    current.exit = code == nil and "" or tostring(code)
    current.scope:cancel("os.exit")
    task.sleep(1e9)
  end
  host.observe(function(event, value)
    return events[event](value)
  end)
end

-- The deadline is one of real time, whatever the clock of the test.
---@async
local function guard(state, seconds)
  test_core.guard(seconds)
  state.late = explain.tasks(state.apart)
  state.scope:cancel("the test's time was over")
  while true do
    test_core.guard(1) -- watches its finalizers
  end
end

-- Runs `fn(scope)` under a deadline and as what a signal cancels.
---@async
local function run_in_scope(outer, state, seconds, fn)
  state.apart[outer:daemon(guard, state, seconds)] = true
  task.yield() -- it waits from here on: what a test counts holds still
  task.scope(function(scope)
    state.scope = scope
    current = state
    core.set_root(scope)
    task.checkpoint() -- a signal that came meanwhile
    return fn(scope)
  end)
end

-- The same in a task of its own, which takes along what `fn` left open. Returns
-- whether it succeeded, and its error.
---@async
local function run_guarded(state, seconds, fn)
  state.apart = { [task.current()] = true }
  local ok, err = task.scope(function(scope)
    return scope:pspawn(task.scope, run_in_scope, state, seconds, fn):pjoin()
  end)
  current = nil
  local struck = test_core.struck()
  if struck then state.late = explain.step(struck) end
  return ok, err
end

local function failures_of(state, ok, err, seconds)
  local failures, place = {}, nil
  if not ok and not host.signal() then failures[1], place = explain.error(err) end
  if state.late then
    table.insert(failures, 1, ("timed out after %g s\n%s"):format(seconds, state.late))
  end
  if state.deadlock then
    table.insert(failures, "deadlock: every task waits for another one\n" .. state.deadlock)
  end
  if state.exit then table.insert(failures, ("called os.exit(%s)"):format(state.exit)) end
  return failures, place
end

-- ------------------------------------------------------------------- one test

---@async
local function run_body(one, seed, state)
  return run_guarded(state, one.timeout, function(scope)
    registry.running = state
    if one.clock == "virtual" then clocks.of(state) end
    if seed then
      math.randomseed(seed)
      test_core.shuffle(seed)
    end
    for _, hook in ipairs(one.after) do
      scope:defer(hook)
    end
    for _, hook in ipairs(one.before) do
      hook()
    end
    return one.fn() -- a tail call: the test is nobody's callee
  end)
end

-- Runs a test once. Returns its failures, the place of the first, or why it was
-- skipped; and what is there afterwards.
---@async
local function run_once(one, seed, before)
  local state = {}
  local ok, err = run_body(one, seed, state)
  registry.running = nil
  test_core.shuffle(nil)
  if seed then math.randomseed() end
  clocks.restore()
  if host.signal() then return {}, nil, nil, before end
  local reason = not ok and skipping.reason_of(err)
  if reason then ok = true end
  local failures, place = failures_of(state, ok, err, one.timeout)
  local left, now = leaks.settle(before)
  table.move(left, 1, #left, #failures + 1, failures)
  return failures, place, reason, now
end

-- The seeds to run a test with, in order; false for none.
local function seeds_of(one, options)
  if one.seed then return { one.seed } end
  local seeds = {}
  if options.seeds then
    for seed = options.seeds[1], options.seeds[2] do
      seeds[#seeds + 1] = seed
    end
    return seeds
  end
  for i = 1, options.times or 1 do
    seeds[i] = options.seed or false
  end
  return seeds
end

-- The result of a test that is not run, or nil.
local function unrun(one)
  local verdict, reason
  if one.broken then
    verdict = "failed"
  elseif one.todo then
    verdict, reason = "todo", "still to be written"
  elseif one.skip then
    verdict, reason = "skipped", one.skip == true and "its options say so" or tostring(one.skip)
  end
  if not verdict then return nil end
  return { verdict = verdict, failures = { one.broken }, reason = reason, seconds = 0, runs = 0 }
end

-- Runs a test with each of its seeds, until it fails with one.
---@async
---@return sbx.test.Result
---@return table now  what is there afterwards
local function run_test(one, options, before)
  local result = unrun(one)
  if result then return result, before end
  one.timeout = one.timeout or options.timeout or DEADLINE
  local start = test_core.now()
  result = { verdict = "passed", failures = {}, runs = 0 }
  for _, seed in ipairs(seeds_of(one, options)) do
    local failures, place, reason
    failures, place, reason, before = run_once(one, seed, before)
    result.runs = result.runs + 1
    if #failures > 0 then
      result.verdict, result.failures, result.place = "failed", failures, place
      result.seed = seed or nil
    elseif reason then
      result.verdict, result.reason = "skipped", reason
    end
    if result.verdict ~= "passed" or host.signal() then break end
  end
  result.seconds = test_core.now() - start
  return result, before
end

-- ------------------------------------------------------------------ all tests

---Runs the chunk of a test file, whose tests are added. Returns nil, or why that
---did not work.
---@async
---@param chunk async fun(...)
---@param path string
---@return string|nil problem
function runner.load(chunk, path)
  local globals = leaks.globals()
  local state = {}
  local ok, err = run_guarded(state, DEADLINE, function() chunk(path) end)
  if host.signal() then return nil end
  local reason = not ok and skipping.reason_of(err)
  if reason then return "skip outside a test: " .. reason end
  local failures = failures_of(state, ok, err, DEADLINE)
  local names = leaks.new_names(globals, leaks.globals())
  if #names > 0 then
    table.insert(failures, "makes globals: " .. table.concat(names, " "))
  end
  return failures[1] and table.concat(failures, "\n")
end

---Takes over what would end the run. Once, before anything is loaded.
function runner.prepare()
  install()
  -- From its first stream on the loop keeps a spare descriptor.
  for _, each in ipairs({ stream.pair() }) do
    each:close()
  end
end

---Runs tests in their order and tells `reporters` of each.
---@async
---@param tests sbx.test.Test[]
---@param options table  `seed`, `seeds`, `times`, `timeout`, `fail_fast`
---@param reporters { test: fun(self: table, one: sbx.test.Test, result: sbx.test.Result) }[]
---@return { passed: integer, failed: integer, skipped: integer } counts
function runner.run(tests, options, reporters)
  local counts = { passed = 0, failed = 0, skipped = 0, todo = 0 }
  local before = leaks.snapshot()
  for _, one in ipairs(tests) do
    if host.signal() then break end
    local result
    result, before = run_test(one, options, before)
    if host.signal() then break end
    counts[result.verdict] = counts[result.verdict] + 1
    for _, reporter in ipairs(reporters) do
      reporter:test(one, result)
    end
    if result.verdict == "failed" and options.fail_fast then break end
  end
  counts.skipped = counts.skipped + counts.todo
  return counts
end

return runner
