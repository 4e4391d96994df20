-- Several at once: settle, race, any; and values that tasks hand down.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fails = require("expect").fails
local task = require("sbx.task")

-- A function that sleeps, notes its end in `ends`, and returns or raises.
local function runner(ends, name, seconds, err)
  return function()
    local _ <close> = setmetatable({}, {
      __close = function()
        task.sleep(0.001) -- a loser is awaited until it has cleaned up
        ends[#ends + 1] = name
      end,
    })
    task.sleep(seconds)
    if err then error(err, 0) end
    return name, nil, "more"
  end
end

test("combine: settle runs all to their ends and tells each", function()
  local ends = {}
  local failure = errors.new({ kind = "io", message = "broken" })
  local outcomes = task.settle({
    runner(ends, "a", 0.003), runner(ends, "b", 0.001, failure), runner(ends, "c", 0),
  })
  assert(#outcomes == 3 and #ends == 3)
  assert(outcomes[1].ok and outcomes[1].value == "a" and outcomes[3].value == "c")
  assert(not outcomes[2].ok and outcomes[2].error == failure and outcomes[2].value == nil)
  assert(#task.settle({}) == 0)
end)

test("combine: race ends with the first, be it a failure, and awaits the others", function()
  local ends = {}
  local result = table.pack(task.race({ runner(ends, "slow", 60), runner(ends, "quick", 0.001) }))
  assert(result.n == 3 and result[1] == "quick" and result[3] == "more")
  assert(table.concat(ends, " ") == "quick slow", table.concat(ends, " "))
  ends = {}
  fails("broken", task.race, { runner(ends, "slow", 60), runner(ends, "quick", 0.001, "broken") })
  assert(#ends == 2)
end)

test("combine: any passes over failures to the first success", function()
  local ends = {}
  local got = task.any({
    runner(ends, "a", 0, "broken"), runner(ends, "b", 0.003), runner(ends, "c", 60),
  })
  assert(got == "b" and #ends == 3)
end)

test("combine: any whose functions all fail tells all failures", function()
  local first = errors.new({ kind = "io", message = "no route" })
  local err = fails("any: all 2 failed, the first with: no route", task.any, {
    function() error(first, 0) end,
    function() error("plain", 0) end,
  })
  assert(err.kind == "all_failed" and err.cause == first and err.errors[2] == "plain")
end)

test("combine: two that end in the same turn: the first one counts", function()
  for _ = 1, 20 do
    local got = task.race({ function() return 1 end, function() return 2 end })
    assert(got == 1)
    assert(task.any({ function() return 1 end, function() return 2 end }) == 1)
  end
end)

test("combine: cancelled from outside, all are ended and nothing is made up", function()
  for _, name in ipairs({ "gather", "settle", "race", "any" }) do
    local ends = {}
    local done = task.move_on(0.003, task[name], { runner(ends, "a", 60), runner(ends, "b", 60) })
    assert(not done and #ends == 2, name)
  end
end)

test("combine: a cancelled task joined in one of them is a failure, not its own end", function()
  local sleeper = task.pspawn(task.sleep, 60)
  sleeper:cancel()
  local outcomes = task.settle({ function() sleeper:join() end, function() return "other" end })
  assert(not outcomes[1].ok and outcomes[1].error.kind == "cancelled")
  assert(outcomes[2].value == "other")
end)

test("combine: a function cancelled alone has failed, and nothing is made up for it", function()
  local function cancel_itself()
    task.current():cancel("enough")
    task.yield()
  end
  local function succeed()
    task.yield()
    return "fine"
  end
  fails("cancelled: enough", task.gather, { succeed, cancel_itself })
  fails("cancelled: enough", task.race, { cancel_itself, cancel_itself })
  assert(task.race({ cancel_itself, succeed }) == "fine")
  assert(task.any({ cancel_itself, succeed }) == "fine")
  local err = fails("any: all 2 failed", task.any, {
    cancel_itself, function() error("plain", 0) end,
  })
  assert(err.errors[1].kind == "cancelled" and err.errors[2] == "plain")
  local outcomes = task.settle({ cancel_itself, succeed })
  assert(not outcomes[1].ok and outcomes[1].error.kind == "cancelled" and outcomes[2].ok)
end)

test("combine: any tells of errors that cannot be shown, or are nil", function()
  local mute = setmetatable({}, { __tostring = function() error("mute") end })
  local err = fails("the first with: (an error that cannot be shown)", task.any, {
    function() error(mute) end, function() error() end,
  })
  assert(err.errors[1] == mute and err.errors[2] == "no error object")
end)

test("combine: misuse names the culprit", function()
  for _, name in ipairs({ "settle", "race", "any" }) do
    fails(name .. ": expected a table, got nothing", task[name])
    fails(name .. ": 2: expected a function, got a nil", task[name], { print, nil, print })
  end
  fails("race: expected at least one function", task.race, {})
  fails("any: expected at least one function", task.any, {})
end)

-- ------------------------------------------------------------------ with, get

test("combine: values are inherited by what is spawned inside", function()
  assert(task.get("run") == nil)
  local seen = {}
  task.with({ run = "r1", user = "u" }, function()
    seen[1] = task.get("run")
    task.with({ run = "r2" }, function()
      task.spawn(function()
        task.sleep(0.001)
        seen[2] = task.get("run") .. task.get("user")
        seen[3] = task.map({ 1 }, function() return task.get("run") end)[1]
      end):join()
    end)
    seen[4] = task.get("run")
  end)
  assert(table.concat(seen, " ") == "r1 r2u r2 r1")
  assert(task.get("run") == nil)
end)

test("combine: values end with their block, however it ends", function()
  local result = table.pack(task.with({ a = 1 }, function(...) return ... end, 1, nil, 3))
  assert(result.n == 3 and result[3] == 3)
  fails("broken", task.with, { a = 1 }, error, "broken", 0)
  assert(task.get("a") == nil)
  task.move_on(0.001, task.with, { a = 1 }, task.sleep, 60)
  assert(task.get("a") == nil and core.locals() == nil)
end)

test("combine: a task keeps the values it was spawned with", function()
  local late
  task.with({ a = "inside" }, function()
    late = task.spawn(function()
      task.sleep(0.003)
      return task.get("a")
    end)
  end)
  assert(task.get("a") == nil and late:join() == "inside")
  local values = { a = 1 }
  task.with(values, function()
    values.a = 2
    assert(task.get("a") == 1)
  end)
end)

test("combine: a generator's values hold while it runs, not for its caller", function()
  local function values(name)
    return coroutine.wrap(function()
      task.with({ [name] = 1 }, function()
        coroutine.yield(task.get(name))
        task.yield()
        local inner = coroutine.wrap(function()
          task.with({ inner = 2 }, coroutine.yield)
          coroutine.yield(task.get("inner"))
        end)
        inner()
        assert(task.get("inner") == nil and inner() == nil)
        coroutine.yield(task.spawn(task.get, name):join(), task.get("outer"), task.get("late"))
      end)
      coroutine.yield(task.get(name))
    end)
  end
  task.with({ outer = "o" }, function()
    local a, b = values("a"), values("b")
    assert(a() == 1 and b() == 1)
    assert(task.get("a") == nil and task.get("b") == nil)
    task.with({ late = "l" }, function()
      local value, outer, late = a()
      assert(value == 1 and outer == "o" and late == nil) -- as when its block began
      assert(b() == 1 and task.get("late") == "l")
      assert(task.spawn(task.get, "a"):join() == nil)
    end)
    assert(a() == nil and task.get("a") == nil)
    b = nil -- dropped in its block
  end)
  assert(core.locals() == nil)
end)

test("combine: false is a value, and finalizers see the values of their block", function()
  task.with({ flag = false }, function()
    assert(task.get("flag") == false)
  end)
  local seen
  task.with({ a = "x" }, function()
    local _ <close> = setmetatable({}, { __close = function() seen = task.get("a") end })
  end)
  assert(seen == "x")
  fails("with: expected a table", task.with, 5, print)
  fails("with: expected a function", task.with, {})
end)
