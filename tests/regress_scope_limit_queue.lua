-- A scope with a limit raised as soon as a task had to wait for its place.

local task = require("sbx.task")

test("task: a scope's limit bounds the tasks that run at once", function()
  local running, most, ended = 0, 0, {}
  task.scope({ limit = 2 }, function(scope)
    for i = 1, 5 do
      scope:spawn(function()
        running = running + 1
        most = math.max(most, running)
        task.sleep(0.001)
        running = running - 1
        ended[i] = true
      end)
    end
  end)
  assert(most == 2 and #ended == 5)
end)

test("task: who is cancelled while waiting for its place leaves it to the next", function()
  local ran = false
  task.scope({ limit = 1 }, function(scope)
    local gate = task.waiter("the gate")
    scope:spawn(gate.wait, gate)
    local queued = scope:pspawn(error, "must not run")
    scope:spawn(function() ran = true end)
    task.yield()
    queued:cancel()
    gate:wake()
  end)
  assert(ran)
end)

test("task: what task.spawn starts in a scope counts for its limit", function()
  local running, most = 0, 0
  local function work()
    running = running + 1
    most = math.max(most, running)
    task.yield()
    running = running - 1
  end
  task.scope({ limit = 2 }, function(scope)
    for _ = 1, 3 do
      task.spawn(work)
      task.pspawn(work)
      scope:spawn(work)
    end
    task.scope(function() -- not this one's
      for _ = 1, 3 do
        task.spawn(task.yield)
      end
    end)
  end)
  assert(most == 2, most)
end)
