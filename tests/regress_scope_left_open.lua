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
        coroutine.yield(task.timeout(60, function()
          task.yield()
          return i
        end))
      end
    end)
  end
  local sum = 0
  task.timeout(60, function()
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

-- ----------------------------------------- `open_scope` without its `<close>`

-- What becomes of one: "closed" by its task, "deferred".
local function forget(log)
  local scope = task.open_scope()
  scope:defer(function()
    task.yield()
    log[#log + 1] = "deferred"
  end)
  scope:spawn(function()
    local _ <close> = setmetatable({}, { __close = function() log[#log + 1] = "closed" end })
    task.sleep(60)
  end)
  task.yield()
  return scope
end

test("scope: one that was never closed ends with that around it, which fails", function()
  local log = {}
  local scope
  fails("a scope was never closed", task.scope, function() scope = forget(log) end)
  assert(table.concat(log, " ") == "closed deferred")
  fails("spawn: the scope has ended", scope.spawn, scope, print)
  fails("defer: the scope has ended", scope.defer, scope, print)
  assert(task.scope(function() return "as ever" end) == "as ever")
end)

test("scope: or with its task", function()
  local log = {}
  local ok, err = task.pspawn(forget, log):pjoin()
  assert(not ok and err:find("a scope was never closed", 1, true), tostring(err))
  assert(table.concat(log, " ") == "closed deferred")
end)

test("scope: what failed in it, or around it, comes before that", function()
  local function fail_inside()
    local scope = task.open_scope()
    scope:spawn(error, "inside", 0)
    task.yield()
  end
  local function fail_around()
    task.open_scope():spawn(task.sleep, 60)
    error("around", 0)
  end
  for text, fn in pairs({ inside = fail_inside, around = fail_around }) do
    fails(text, task.scope, fn)
    local ok, err = task.pspawn(fn):pjoin()
    assert(not ok and err == text, tostring(err))
  end
end)

test("scope: one of a coroutine that failed and was not closed", function()
  local co = coroutine.create(function()
    local scope <close> = task.open_scope()
    scope:spawn(task.sleep, 60)
    error("broken", 0)
  end)
  fails("a scope was never closed", task.scope, function()
    local ok, err = coroutine.resume(co)
    assert(not ok and err == "broken")
  end)
end)
