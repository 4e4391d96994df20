local core = require("sbx.core.task")
local errors = require("sbx.errors")
local task = require("sbx.task")

-- Runs `fn` with another time budget for finalizers.
local function with_budget(seconds, fn)
  local before = core.cleanup_seconds()
  local _ <close> = setmetatable({}, { __close = function() core.cleanup_seconds(before) end })
  core.cleanup_seconds(seconds)
  return fn()
end

-- A value for a `<close>` variable that calls `fn(err)`.
local function closing(fn)
  return setmetatable({}, { __close = function(_, err) fn(err) end })
end

local function is_timeout(ok, err)
  return not ok and errors.is_error(err) and err.kind == "timeout"
end

-- ---------------------------------------------------------- level-triggered

test("cancel: a pcall in a loop does not keep a task alive under a timeout", function()
  local turns = 0
  local ok, err = pcall(task.timeout, 0.01, function()
    while true do
      pcall(task.sleep, 1)
      turns = turns + 1
    end
  end)
  assert(is_timeout(ok, err) and turns > 1)
end)

test("cancel: nor under a scope's cancel, whatever it waits in", function()
  for _, wait in ipairs({
    task.yield,
    function() task.sleep(60) end,
    function() task.waiter("nobody"):wait() end,
    function() task.spawn(task.sleep, 60):join() end,
    function() task.scope(task.yield) end,
    function()
      task.scope(function(scope) scope:spawn(pcall, task.sleep, 60) end)
    end,
    coroutine.wrap(function()
      while true do
        pcall(task.sleep, 60)
        coroutine.yield()
      end
    end),
  }) do
    task.scope(function(scope)
      scope:spawn(function()
        while true do
          pcall(wait)
        end
      end)
      task.sleep(0.001)
      scope:cancel()
    end)
  end
end)

test("cancel: xpcall, and a pcall around the pcall, do not help either", function()
  local ok, err = pcall(task.timeout, 0.005, function()
    pcall(function()
      while true do
        xpcall(pcall, function() end, task.sleep, 60)
      end
    end)
    while true do
      xpcall(task.sleep, function() end, 60)
    end
  end)
  assert(is_timeout(ok, err))
end)

test("cancel: every later wait raises, and says why", function()
  local kinds = {}
  task.scope(function(scope)
    scope:spawn(function()
      for _ = 1, 3 do
        local _, err = pcall(task.sleep, 60)
        kinds[#kinds + 1] = err.kind .. " " .. tostring(err.reason)
        assert(tostring(err) == "cancelled: enough")
      end
    end)
    task.yield()
    scope:cancel("enough")
  end)
  assert(table.concat(kinds, ",") == "cancelled enough,cancelled enough,cancelled enough")
end)

test("cancel: a reason may be any value, and comes out as it is", function()
  local reason = {}
  local child = task.spawn(task.sleep, 60)
  child:cancel(reason)
  local ok, err = child:pjoin()
  assert(not ok and err.kind == "cancelled" and err.reason == reason)
end)

test("cancel: a task cancelled before it began runs up to its first wait", function()
  local begun, went_on
  local child = task.spawn(function()
    begun = true
    task.sleep(0)
    went_on = true
  end)
  child:cancel()
  local ok, err = child:pjoin()
  assert(not ok and err.kind == "cancelled" and child.status == "cancelled")
  assert(begun and not went_on)
end)

test("cancel: a task cancelled before it began may end without a wait", function()
  local child = task.spawn(function() return "done" end)
  child:cancel()
  assert(child:join() == "done" and child.status == "done")
end)

test("cancel: a finished task or scope is cancelled without harm", function()
  local child = task.spawn(task.yield)
  child:join()
  child:cancel("late")
  assert(child.status == "done")
end)

test("cancel: what a cancelled scope spawns is cancelled as well", function()
  local child
  task.scope(function(scope)
    scope:cancel()
    child = scope:spawn(task.sleep, 60)
  end)
  assert(child.status == "cancelled")
end)

test("cancel: checkpoint raises in a cancelled task and nowhere else", function()
  task.checkpoint()
  local kind
  task.scope(function(scope)
    scope:cancel()
    local ok, err = pcall(task.checkpoint)
    kind = not ok and err.kind
  end)
  task.checkpoint()
  assert(kind == "cancelled")
end)

test("cancel: tasks of all depths are reached", function()
  local reached = 0
  assert(not task.move_on(0.005, function()
    task.scope(function(scope)
      local function nest(depth)
        local _ <close> = closing(function() reached = reached + 1 end)
        if depth == 0 then task.sleep(60) end
        task.scope(function() task.spawn(nest, depth - 1) end)
      end
      scope:spawn(nest, 5)
      scope:spawn(nest, 3)
    end)
  end))
  assert(reached == 10)
end)

-- ----------------------------------------------------- results that arrived

test("cancel: a result that arrived is delivered all the same", function()
  local got
  task.scope(function(scope)
    local waiter = task.waiter("a result")
    scope:spawn(function() got = waiter:wait() end)
    task.yield()
    waiter:wake("precious")
    scope:cancel()
  end)
  assert(got == "precious")
end)

test("cancel: a scope whose tasks are done before its deadline keeps its results", function()
  local value = task.timeout(0.005, function()
    local until_then = task.now() + 0.01
    while task.now() < until_then do
    end
    return "computed"
  end)
  assert(value == "computed")
end)

test("cancel: a cancelled waiter does not swallow a wake", function()
  local waiter = task.waiter("a lock")
  local child = task.spawn(waiter.wait, waiter)
  task.yield()
  child:cancel()
  assert(waiter:wake("lock") == false)
  assert(not child:pjoin())
end)

-- -------------------------------------------------------------- who absorbs

test("cancel: a cancel is absorbed only by the scope that caused it", function()
  local inner_returned, outer_returned
  task.scope(function(outer)
    task.scope(function(inner)
      inner:spawn(function()
        task.yield()
        outer:cancel()
      end)
      task.sleep(60)
    end)
    inner_returned = true
  end)
  outer_returned = true
  assert(not inner_returned and outer_returned)
end)

test("cancel: an inner timeout is caught inside the outer one", function()
  local caught
  local value = task.timeout(60, function()
    local ok, err = pcall(task.timeout, 0.005, task.sleep, 60)
    caught = is_timeout(ok, err)
    task.sleep(0.001)
    return "outer"
  end)
  assert(caught and value == "outer")
end)

test("cancel: an outer timeout ends an inner one that has more time", function()
  local ok, err = pcall(task.timeout, 0.005, function()
    pcall(task.timeout, 60, task.sleep, 60)
    task.sleep(60)
  end)
  assert(is_timeout(ok, err) and err.message:find("0.005", 1, true))
end)

-- Nested deadlines that have all passed by the time somebody looks.
local function busy(seconds)
  local until_then = task.now() + seconds
  while task.now() < until_then do
  end
end

test("cancel: of timeouts that pass at once the outermost is raised", function()
  for _, wait in ipairs({
    function() task.sleep(60) end,
    function()
      task.scope(function(scope) scope:spawn(task.sleep, 60) end)
    end,
  }) do
    local inner_ended
    local in_time = task.move_on(0.005, function()
      pcall(task.timeout, 0.005, function()
        task.spawn(busy, 0.01)
        wait()
      end)
      task.checkpoint()
      inner_ended = true
    end)
    assert(in_time == false and not inner_ended)
  end
end)

test("cancel: timeouts that pass at once while only tasks wait", function()
  assert(task.move_on(0.005, function()
    task.timeout(0.005, function()
      task.spawn(busy, 0.01)
      task.spawn(task.sleep, 60)
    end)
  end) == false)
end)

test("cancel: a nested scope does not hide an outer timeout", function()
  local ok, err = pcall(task.timeout, 0.01, function()
    task.scope(function(scope) scope:spawn(task.sleep, 5) end)
  end)
  assert(is_timeout(ok, err))
  ok, err = pcall(task.timeout, 0.01, function()
    task.spawn(function()
      task.scope(function(scope) scope:spawn(task.sleep, 5) end)
    end)
  end)
  assert(is_timeout(ok, err))
end)

test("cancel: an error raised on the way out of a cancel wins over it", function()
  local ok, err = pcall(task.timeout, 0.005, function()
    pcall(task.sleep, 60)
    error("no room left", 0)
  end)
  assert(not ok and err == "no room left")
end)

test("cancel: a foreign error of kind cancelled is an ordinary failure", function()
  local ok, err = pcall(task.scope, function(scope)
    scope:spawn(function() errors.raise({ kind = "cancelled", message = "made up" }) end)
    task.sleep(60)
  end)
  assert(not ok and err.message == "made up")
end)

test("cancel: joining a cancelled task raises its error without cancelling the joiner", function()
  local child = task.spawn(task.sleep, 60)
  child:cancel()
  local ok, err = pcall(child.join, child)
  assert(not ok and err.kind == "cancelled")
  task.sleep(0)
end)

-- --------------------------------------------------------------- finalizers

test("cancel: a finalizer may wait while an error is in flight", function()
  local value, seen, waited = {}, nil, nil
  local ok, err = pcall(function()
    local _ <close> = closing(function(problem)
      task.sleep(0.001)
      seen, waited = problem, true
    end)
    error(value)
  end)
  assert(not ok and err == value and seen == value and waited)
end)

test("cancel: a finalizer may wait while an error ends the task", function()
  local value, order = {}, {}
  local child = task.pspawn(function()
    local _ <close> = closing(function()
      task.sleep(0.001)
      order[#order + 1] = "first"
    end)
    local _ <close> = closing(function()
      task.scope(function(scope) scope:spawn(task.sleep, 0.001) end)
      order[#order + 1] = "second"
    end)
    error(value)
  end)
  local ok, err = child:pjoin()
  assert(not ok and err == value and table.concat(order, " ") == "second first")
end)

test("cancel: finalizers of a cancelled task wait within their budget", function()
  local order = {}
  task.scope(function(scope)
    scope:spawn(function()
      local _ <close> = closing(function()
        task.sleep(0.002)
        order[#order + 1] = "outer"
      end)
      local _ <close> = closing(function(err)
        assert(err.kind == "cancelled")
        -- Tasks in scopes of its own, at any depth, share the budget.
        local results = task.map({ 1, 2 }, function(item)
          return task.scope(function(inside)
            return inside:spawn(function()
              task.sleep(0.002)
              return item
            end):join()
          end)
        end)
        assert(results[1] == 1 and results[2] == 2)
        order[#order + 1] = "inner"
      end)
      task.sleep(60)
    end)
    task.yield()
    scope:cancel()
  end)
  assert(table.concat(order, " ") == "inner outer", table.concat(order, " "))
end)

test("cancel: a finalizer that overruns its budget is cancelled, and so are later ones", function()
  local outcomes = {}
  with_budget(0.02, function()
    task.scope(function(scope)
      scope:spawn(function()
        local _ <close> = closing(function()
          local ok, err = pcall(task.sleep, 60)
          outcomes[#outcomes + 1] = not ok and err.kind
        end)
        local _ <close> = closing(function()
          local ok, err = pcall(task.sleep, 60)
          outcomes[#outcomes + 1] = not ok and err.kind
        end)
        task.sleep(60)
      end)
      task.yield()
      scope:cancel()
    end)
  end)
  assert(table.concat(outcomes, " ") == "cancelled cancelled")
end)

test("cancel: a finalizer that catches and waits on is ended by its budget", function()
  local turns = 0
  with_budget(0.01, function()
    task.scope(function(scope)
      scope:spawn(function()
        local _ <close> = closing(function()
          while true do
            pcall(task.sleep, 60)
            turns = turns + 1
          end
        end)
        task.sleep(60)
      end)
      task.yield()
      scope:cancel()
    end)
  end)
  assert(turns > 0)
end)

test("cancel: tasks that a finalizer started end with its budget", function()
  local kinds, turns = {}, 0
  with_budget(0.02, function()
    task.scope(function(scope)
      scope:spawn(function()
        local _ <close> = closing(function()
          while true do
            pcall(task.scope, function(inside)
              inside:spawn(function()
                local ok, err = pcall(task.sleep, 60)
                kinds[#kinds + 1] = not ok and err.kind
              end)
            end)
            turns = turns + 1
          end
        end)
        task.sleep(60)
      end)
      task.yield()
      scope:cancel()
    end)
  end)
  assert(kinds[1] == "cancelled" and turns > 0)
end)

test("cancel: what a finalizer spawns in the cancelled scope is cancelled", function()
  local kind
  assert(task.move_on(0.005, function()
    local _ <close> = closing(function()
      local ok, err = task.spawn(task.sleep, 60):pjoin()
      kind = not ok and err.kind
    end)
    task.sleep(60)
  end) == false)
  assert(kind == "cancelled")
end)

test("cancel: a deferred function is bounded by the budget", function()
  local problem
  with_budget(0.01, function()
    local ok, err = pcall(task.scope, function(scope)
      scope:defer(function() task.sleep(60) end)
    end)
    problem = not ok and err
  end)
  assert(problem.kind == "timeout")
end)

test("cancel: a deadline opened inside a finalizer is kept on time", function()
  local seen = {}
  assert(not task.move_on(0.005, function()
    local _ <close> = closing(function()
      seen.move_on = task.move_on(0.005, task.sleep, 5)
      local ok, err = pcall(task.timeout, 0.005, task.sleep, 5)
      seen.timeout = is_timeout(ok, err)
      ok, err = pcall(task.shield, 0.005, task.sleep, 5)
      seen.shield = is_timeout(ok, err)
      seen.in_time = task.move_on(5, task.sleep, 0.001)
      local turns = 0
      seen.loop = task.move_on(0.005, function()
        while true do
          pcall(task.sleep, 5)
          turns = turns + 1
        end
      end)
      ok = pcall(task.scope, function(scope)
        scope:spawn(task.sleep, 5)
        scope:cancel()
      end)
      seen.scope = ok
    end)
    task.sleep(60)
  end))
  assert(seen.move_on == false and seen.timeout and seen.shield and seen.in_time)
  assert(seen.loop == false and seen.scope)
end)

test("cancel: a deadline that a finalizer's task opened is kept on time", function()
  local seen
  local start = task.now()
  assert(not task.move_on(0.005, function()
    local _ <close> = closing(function()
      task.scope(function(scope)
        scope:spawn(function() seen = task.move_on(0.005, task.sleep, 5) end)
      end)
    end)
    task.sleep(60)
  end))
  assert(seen == false and task.now() - start < 4)
end)

test("cancel: a finalizer inside a shield inside a finalizer waits as well", function()
  local depth = 0
  assert(not task.move_on(0.005, function()
    local _ <close> = closing(function()
      task.shield(5, function()
        local _ <close> = closing(function()
          task.sleep(0.001)
          depth = 2
        end)
        task.sleep(0.001)
        depth = 1
      end)
    end)
    task.sleep(60)
  end))
  assert(depth == 2)
end)

test("cancel: an error of a finalizer takes the place of the cancel", function()
  local child = task.pspawn(function()
    local _ <close> = closing(function()
      task.sleep(0)
      error("cannot tidy up", 0)
    end)
    task.sleep(60)
  end)
  task.yield()
  child:cancel()
  local ok, err = child:pjoin()
  assert(not ok and err == "cannot tidy up" and child.status == "failed")
end)

test("cancel: the budget starts anew for a later cancel", { clock = "virtual" }, function()
  with_budget(3, function()
    for _ = 1, 4 do
      local finished
      task.move_on(0.001, function()
        local _ <close> = closing(function()
          task.sleep(1.5)
          finished = true
        end)
        task.sleep(60)
      end)
      assert(finished)
      task.yield()
    end
  end)
end)

-- ---------------------------------------------------------- identity of errors

test("cancel: the object that was raised comes out of every kind of scope", function()
  local value = setmetatable({}, { __tostring = function() return "the value" end })
  local function raise()
    task.yield()
    error(value)
  end
  local function in_scope() task.scope(raise) end
  local function in_task()
    task.scope(function(scope) scope:spawn(raise) end)
  end
  local function in_block()
    local scope <close> = task.open_scope()
    scope:spawn(raise)
  end
  local function in_timeout() task.timeout(60, raise) end
  local function in_move_on() task.move_on(60, raise) end
  local function in_shield() task.shield(60, raise) end
  local function in_gather() task.gather({ raise }) end
  local function in_map() task.map({ 1 }, raise) end
  local function in_join() task.pspawn(raise):join() end
  local ways = {
    in_scope, in_task, in_block, in_timeout, in_move_on, in_shield, in_gather, in_map, in_join,
  }
  for i, way in ipairs(ways) do
    local ok, err = pcall(way)
    assert(not ok and err == value, i)
  end
end)

test("cancel: errors of every type pass unchanged, nil and not-a-number too", function()
  for _, way in ipairs({
    function(value) task.scope(function() error(value, 0) end) end,
    function(value) task.timeout(60, error, value, 0) end,
    function(value) task.pspawn(error, value, 0):join() end,
    function(value)
      task.scope(function(scope) scope:spawn(error, value, 0) end)
    end,
  }) do
    for _, value in ipairs({ "text", 42, 4.5, true, false, print, {}, coroutine.create(print) }) do
      local ok, err = pcall(way, value)
      assert(not ok and err == value, tostring(err))
    end
    local results = table.pack(pcall(way, nil))
    assert(results.n == 2 and results[1] == false and results[2] == nil)
    local ok, err = pcall(way, 0 / 0)
    assert(not ok and err ~= err, tostring(err))
  end
end)

test("cancel: siblings that fail with nil do not hide the failure", function()
  local ok, err = pcall(task.scope, { on_error = "collect" }, function(scope)
    scope:spawn(error, nil)
    scope:spawn(error, "second", 0)
  end)
  assert(not ok and err == nil)
end)

test("cancel: a plain first error is raised as it is, without its siblings", function()
  local ok, err = pcall(task.scope, { on_error = "collect" }, function(scope)
    scope:spawn(error, "plain", 0)
    scope:spawn(error, "other", 0)
  end)
  assert(not ok and err == "plain")
end)
