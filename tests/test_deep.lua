-- Depth and number: what nests or repeats thousands of times.

local core = require("sbx.core.task")
local task = require("sbx.task")

local DEPTH = 5000
local SHALLOWER = 500 -- where each level looks at all those around it

local function nest_scopes(depth, at_bottom)
  if depth == 0 then return at_bottom() end
  return (task.scope(function() return nest_scopes(depth - 1, at_bottom) end))
end

local function nest_tasks(depth, at_bottom)
  if depth == 0 then return at_bottom() end
  return task.scope(function(scope)
    return scope:spawn(nest_tasks, depth - 1, at_bottom):join()
  end)
end

test("deep: thousands of scopes nest in one task", function()
  assert(nest_scopes(DEPTH, function()
    task.yield()
    return "bottom"
  end) == "bottom")
end)

test("deep: thousands of timeouts nest in one task", function()
  local function nest(depth)
    if depth == 0 then
      task.yield()
      return "bottom"
    end
    return (task.timeout(60, nest, depth - 1))
  end
  assert(nest(DEPTH) == "bottom")
end)

test("deep: thousands of tasks nest, each in a scope of the one around it", function()
  assert(nest_tasks(DEPTH, function() return "bottom" end) == "bottom")
end)

test("deep: an error comes up through thousands of scopes", function()
  local value = {}
  local function raise()
    task.yield()
    error(value)
  end
  local ok, err = pcall(nest_scopes, DEPTH, raise)
  assert(not ok and err == value)
end)

test("deep: an error comes up through nested tasks", function()
  local value = {}
  local ok, err = pcall(nest_tasks, SHALLOWER, function()
    task.yield()
    error(value)
  end)
  assert(not ok and err == value)
end)

test("deep: a timeout ends nested scopes and tasks", function()
  for _, nest in ipairs({ nest_scopes, nest_tasks }) do
    local reached
    assert(not task.move_on(0.001, nest, SHALLOWER, function()
      reached = true
      task.sleep(60)
    end))
    assert(reached)
  end
end)

test("deep: thousands of tasks sleep at once", function()
  local woken = 0
  task.scope(function(scope)
    for i = 1, 5000 do
      scope:spawn(function()
        task.sleep(i % 50 / 1000)
        woken = woken + 1
      end)
    end
  end)
  assert(woken == 5000)
end)

test("deep: thousands of sleeping tasks are cancelled at once", function()
  local ended = 0
  task.scope(function(scope)
    for _ = 1, 5000 do
      scope:spawn(function()
        local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
        task.sleep(60)
      end)
    end
    task.yield()
    scope:cancel()
  end)
  assert(ended == 5000)
end)

test("deep: a recursion that waits in pcalls", function()
  local function nest(depth)
    if depth == 0 then
      task.yield()
      return "bottom"
    end
    local ok, value = pcall(nest, depth - 1)
    assert(ok)
    return value
  end
  assert(nest(150) == "bottom")
end)

test("deep: memory stays flat over tasks that are spawned and joined in sequence", function()
  local function spawn_and_join(count)
    for i = 1, count do
      local child = task.spawn(function() return i end)
      assert(child:join() == i)
    end
    collectgarbage()
    collectgarbage()
    return collectgarbage("count")
  end
  local before = spawn_and_join(5000)
  local after = spawn_and_join(95000)
  assert(after - before < 200, ("%.0f KiB more"):format(after - before))
  assert(core.stats().tasks < 50)
end)

test("deep: memory stays flat over failures, timeouts and cancels", function()
  local function fail_often(count)
    for i = 1, count do
      assert(not task.pspawn(error, { i }):pjoin())
      assert(not pcall(task.scope, function(scope) scope:spawn(error, { i }) end))
      task.scope(function(scope)
        scope:spawn(task.sleep, 60)
        scope:cancel()
      end)
      task.move_on(0, task.sleep, 60)
    end
    collectgarbage()
    collectgarbage()
    return collectgarbage("count")
  end
  local before = fail_often(500)
  local after = fail_often(2000)
  assert(after - before < 200, ("%.0f KiB more"):format(after - before))
end)
