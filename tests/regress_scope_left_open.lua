-- A scope that a generator had opened when it yielded stayed the innermost one of
-- the task: its deadline ended what the caller did, also after the generator was
-- dropped, and no scope around it could end.

local fails = require("expect").fails
local task = require("sbx.task")

local function yield_inside(open)
  return coroutine.wrap(function()
    open(function() coroutine.yield(1) end)
    return "after"
  end)
end

test("scope: a generator cannot yield inside a scope that it opened", function()
  for _, open in ipairs({
    task.scope,
    function(fn) task.timeout(0.002, fn) end,
    function(fn) task.move_on(0.002, fn) end,
    function(fn) task.shield(1, fn) end,
    function(fn)
      local _ <close> = task.open_scope()
      fn()
    end,
  }) do
    fails("attempt to yield inside a scope or timeout", yield_inside(open))
  end
  task.sleep(0.005) -- no deadline is left over
end)

test("scope: it may yield between its scopes, and inside those of others", function()
  local function values()
    return coroutine.wrap(function()
      for i = 1, 3 do
        coroutine.yield(task.timeout(1, function()
          task.yield()
          return i
        end))
      end
    end)
  end
  local sum = 0
  task.timeout(1, function()
    for value in values() do
      sum = sum + value
    end
  end)
  assert(sum == 6)
end)

test("scope: none is opened where its end could not wait", function()
  task.scope(function()
    local err = fails("scope cannot wait inside table.sort", table.sort, { 2, 1 }, function()
      task.scope(function(scope) scope:spawn(task.yield) end)
    end)
    assert(err:find("regress_scope_left_open.lua", 1, true), err)
  end)
end)

test("scope: a waiter whose wait was cancelled says so instead of waiting for ever", function()
  local waiter = task.waiter("what never comes")
  assert(not task.move_on(0, waiter.wait, waiter) and not waiter:wake())
  fails("wait: the first wait on this waiter was cancelled", waiter.wait, waiter)
end)
