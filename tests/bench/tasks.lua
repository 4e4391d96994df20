-- What tasks cost: spawning, switching, sleeping, scopes and cancellation.

local measure = dofile("tests/bench/lib/measure.lua")
local task = require("sbx.task")

local COUNT = 10000

local function nothing() end

measure.run("spawn and end a task", COUNT, function()
  task.scope(function(scope)
    for _ = 1, COUNT do
      scope:spawn(nothing)
    end
  end)
end)

measure.run("yield", COUNT, function()
  for _ = 1, COUNT do
    task.yield()
  end
end)

measure.run("sleep 10 ms in 10,000 tasks at once", COUNT, function()
  task.scope(function(scope)
    for _ = 1, COUNT do
      scope:spawn(task.sleep, 0.01)
    end
  end)
end)

measure.run("open and close a scope", COUNT, function()
  for _ = 1, COUNT do
    task.scope(nothing)
  end
end)

measure.run("a deadline that is not reached", COUNT, function()
  for _ = 1, COUNT do
    task.timeout(60, nothing)
  end
end)

measure.run("cancel a sleeping task", COUNT, function()
  task.scope(function(scope)
    for _ = 1, COUNT do
      scope:spawn(task.sleep, 3600)
    end
    task.yield()
    scope:cancel()
  end)
end)
