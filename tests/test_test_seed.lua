-- The order of tasks: first come first served, or what a seed determines.

local real = require("sbx.core.test")
local runner = require("runner_support")
local task = require("sbx.task")
local test = require("sbx.test")

-- The order in which tasks that are ready at once run on, with this seed.
---@async
local function order_with(seed, count)
  local order = {}
  real.shuffle(seed)
  task.scope(function(scope)
    for i = 1, count do
      scope:spawn(function()
        task.yield()
        order[#order + 1] = i
      end)
    end
  end)
  real.shuffle(nil)
  return order
end

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return copy
end

-- ------------------------------------------------------------------- the order

test("seed: without one, tasks run first come first served", function()
  local order = order_with(nil, 300)
  test.equal(order, sorted(order))
end)

test("seed: one gives one order, another another", function()
  for _, seed in ipairs({ 0, 1, -1, math.maxinteger, math.mininteger }) do
    local order = order_with(seed, 300)
    test.equal(order_with(seed, 300), order)
    test.equal(#order, 300)
    test.equal(sorted(order), order_with(nil, 300), "nobody is lost and nobody runs twice")
  end
  local seen = {}
  for seed = 1, 50 do
    seen[table.concat(order_with(seed, 10), " ")] = true
  end
  local count = 0
  for _ in pairs(seen) do
    count = count + 1
  end
  assert(count > 45, count)
end)

test("seed: every order of a few tasks comes up", function()
  local count, seen = 0, {}
  for seed = 1, 400 do
    local order = table.concat(order_with(seed, 4))
    if not seen[order] then
      seen[order], count = true, count + 1
    end
  end
  test.equal(count, 24)
end)

test("seed: tasks that are ready when the order changes run on", function()
  local ran = {}
  task.scope(function(scope)
    for i = 1, 10 do
      scope:spawn(function() ran[#ran + 1] = i end)
    end
    real.shuffle(7)
    for i = 11, 20 do
      scope:spawn(function() ran[#ran + 1] = i end)
    end
    real.shuffle(8)
    real.shuffle(nil)
    for i = 21, 30 do
      scope:spawn(function() ran[#ran + 1] = i end)
    end
  end)
  test.equal(#ran, 30)
  test.equal(sorted(ran), order_with(nil, 30))
  test.equal(table.move(ran, 21, 30, 1, {}), { 21, 22, 23, 24, 25, 26, 27, 28, 29, 30 })
end)

test("seed: each ready task is as likely as any other to be the next", function()
  real.shuffle(3)
  local steps, total = {}, 0
  task.scope(function(scope)
    for i = 1, 20 do
      steps[i] = 0
      scope:spawn(function()
        while total < 8000 do
          steps[i], total = steps[i] + 1, total + 1
          task.yield()
        end
      end)
    end
  end)
  for i = 1, 20 do
    assert(steps[i] > 300 and steps[i] < 500, steps[i]) -- five standard deviations
  end
end)

test("seed: cancelling and deadlines work in any order", function()
  for seed = 1, 30 do
    real.shuffle(seed)
    local ended = 0
    task.move_on(0.002, function()
      task.scope(function(scope)
        for i = 1, 20 do
          scope:spawn(function()
            local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
            if i % 2 == 0 then task.sleep(60) end
            while true do task.yield() end
          end)
        end
      end)
    end)
    test.equal(ended, 20)
  end
  real.shuffle(nil)
end)

test("seed: a test may name its own", { seed = 5, clock = "virtual" }, function()
  local order = {}
  task.scope(function(scope)
    for i = 1, 12 do
      scope:spawn(function()
        task.sleep(10)
        order[#order + 1] = i
      end)
    end
  end)
  assert(table.concat(order, " ") ~= "1 2 3 4 5 6 7 8 9 10 11 12")
end)

-- ------------------------------------------------------------------ the runner

-- Two tasks that each read, wait and write: some orders lose an update.
local RACE = [[
  local task = require("sbx.task")
  test("passes always", function() task.yield() end)
  test("a (racy) counter: 100%?", { clock = "virtual" }, function()
    local count = 0
    task.scope(function(scope)
      for _ = 1, 2 do
        scope:spawn(function()
          task.sleep(1)
          local value = count
          task.yield()
          count = value + 1
        end)
      end
    end)
    test.equal(count, 2)
  end)
]]
local SAFE = RACE:gsub("local value = count\n%s*task.yield%(%)", "local value = count")

-- A race that the usual order hides: the second task must overtake the first.
local HIDDEN = [[
  local task = require("sbx.task")
  test("it's hidden", { clock = "virtual" }, function()
    local ready = false
    task.scope(function(scope)
      scope:spawn(function()
        task.sleep(86400)
        ready = true
      end)
      scope:spawn(function()
        task.sleep(86400)
        assert(ready, "not ready")
      end)
    end)
  end)
]]

test("seed: --seeds finds a race that the usual order hides, and how to see it again", function()
  test.equal(runner.run(HIDDEN).code, 0)
  local result = runner.run(HIDDEN, "--seeds", "1..50")
  test.equal(result.code, 1)
  local seed, command = result.stdout:match("failed with seed (%d+); again: sbxlua (test [^\n]+)\n")
  assert(seed, result.stdout)
  test.equal(command, ([[test --seed %d -k '^it%%'\''s hidden$' test_sample.lua]]):format(seed))
  for _ = 1, 5 do
    local again = runner.run(HIDDEN, "--seed", seed, "-k", "^it%'s hidden$", "test_sample.lua")
    test.equal(again.code, 1)
    test.contains(again.stdout, "not ready")
  end
  -- Every seed before it passed, each time.
  if tonumber(seed) > 1 then
    local before = ("1..%d"):format(seed - 1)
    test.equal(runner.run(HIDDEN, "--seeds", before).code, 0)
  end
end)

test("seed: the command that is shown selects the one test", function()
  local result = runner.run(RACE, "--seeds", "1..20")
  local seed, name = result.stdout:match("test %-%-seed (%d+) %-k '([^']+)' test_sample.lua\n")
  assert(seed, result.stdout)
  local again = runner.run(RACE, "--seed", seed, "-k", name, "test_sample.lua")
  test.contains(again.stdout, "0 passed, 1 failed\n")
end)

test("seed: all seeds pass where there is no race, and each is run", function()
  local result = runner.run(SAFE, "--seeds", "1..100")
  test.equal(result.code, 0)
  test.equal(result.stdout, "2 passed, 0 failed\n")
  result = runner.run('test("x", function() io.stderr:write("run\\n") end)', "--seeds", "-3..3")
  test.equal(select(2, result.stderr:gsub("run\n", "")), 7)
end)

test("seed: one determines what math.random gives", function()
  local text = 'test("x", function() io.stderr:write(math.random(1 << 40), "\\n") end)'
  local first = runner.run(text, "--seed", "42").stderr
  test.equal(runner.run(text, "--seed", "42").stderr, first)
  assert(runner.run(text, "--seed", "43").stderr ~= first)
end)

test("seed: --repeat runs a test until it fails", function()
  local result = runner.run([[
    local runs = 0
    test("third time", function()
      runs = runs + 1
      assert(runs < 3, "broke")
    end)
    test("always", function() io.stderr:write("run\n") end)
  ]], "--repeat", "5")
  test.equal(result.code, 1)
  test.contains(result.stdout, "failed in run 3; again: sbxlua test --repeat 5 -k '^third time$'")
  test.contains(result.stdout, "1 passed, 1 failed\n")
  test.equal(select(2, result.stderr:gsub("run\n", "")), 5)
end)

test("seed: --shuffle runs the tests themselves in another order", function()
  local lines = {}
  for i = 1, 20 do
    lines[i] = ('test("t%d", function() end)'):format(i)
  end
  local text = table.concat(lines, "\n")
  local plain = runner.run(text, "--list").stdout
  local first = runner.run(text, "--list", "--shuffle", "1").stdout
  assert(first ~= plain)
  test.equal(runner.run(text, "--list", "--shuffle", "1").stdout, first)
  assert(runner.run(text, "--list", "--shuffle", "2").stdout ~= first)
  test.contains(runner.run(text, "--shuffle", "1").stdout, "20 passed, 0 failed\n")
end)
