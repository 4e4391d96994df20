local task = require("sbx.task")

local function fails(text, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok and tostring(err):find(text, 1, true), tostring(err))
end

local function closing(fn)
  return setmetatable({}, { __close = function(_, err) fn(err) end })
end

-- ------------------------------------------------------------ waits inside

test("coroutine: a generator may wait between its yields", function()
  local seen = {}
  for value in coroutine.wrap(function()
    for i = 1, 3 do
      task.sleep(0.001)
      coroutine.yield(i)
      task.yield()
    end
  end) do
    seen[#seen + 1] = value
  end
  assert(table.concat(seen, " ") == "1 2 3")
end)

-- Yields the numbers to `count`, waiting before each, `depth` coroutines deep.
local function numbers(depth, count, make)
  return make(function()
    if depth == 1 then
      for i = 1, count do
        task.yield()
        coroutine.yield(i, nil, "end")
      end
    else
      local inner = numbers(depth - 1, count, make)
      for _ = 1, count do
        coroutine.yield(inner())
      end
    end
    task.sleep(0)
    return "over"
  end)
end

local function resuming(fn)
  local co = coroutine.create(fn)
  return function(...)
    local results = table.pack(coroutine.resume(co, ...))
    assert(results[1], results[2])
    return table.unpack(results, 2, results.n)
  end
end

test("coroutine: waits pass through one to three coroutines, made either way", function()
  for depth = 1, 3 do
    for _, make in ipairs({ coroutine.wrap, resuming }) do
      local nextup = numbers(depth, 4, make)
      for i = 1, 4 do
        local results = table.pack(nextup())
        assert(results.n == 3 and results[1] == i and results[3] == "end")
      end
      assert(nextup() == "over")
    end
  end
end)

test("coroutine: other tasks run while a generator waits", function()
  local order = {}
  task.scope(function(scope)
    for _, name in ipairs({ "a", "b" }) do
      scope:spawn(function()
        for i in coroutine.wrap(function()
          for i = 1, 2 do
            task.yield()
            coroutine.yield(i)
          end
        end) do
          order[#order + 1] = name .. i
        end
      end)
    end
  end)
  assert(table.concat(order, " ") == "a1 b1 a2 b2")
end)

test("coroutine: what a script yields and resumes with never meets the waits", function()
  local co = coroutine.create(function(...)
    local got = table.pack(...)
    while true do
      task.yield()
      got = table.pack(coroutine.yield(table.unpack(got, 1, got.n)))
    end
  end)
  for _, values in ipairs({ { n = 0 }, { n = 1 }, { 1, nil, 3, n = 3 }, { false, n = 1 } }) do
    local back = table.pack(coroutine.resume(co, table.unpack(values, 1, values.n)))
    assert(back[1] == true and back.n == values.n + 1)
    for i = 1, values.n do
      assert(back[i + 1] == values[i])
    end
  end
end)

test("coroutine: a wait gives its results to the call inside the generator", function()
  local waiter = task.waiter("a word")
  local generator = coroutine.wrap(function()
    local a, b = waiter:wait()
    coroutine.yield(a .. b)
  end)
  task.spawn(function() waiter:wake("x", "y") end)
  assert(generator() == "xy")
end)

test("coroutine: tasks take turns with one generator", function()
  local generator = coroutine.wrap(function()
    for i = 1, 4 do
      task.sleep(0.001)
      coroutine.yield(i)
    end
  end)
  local sum = 0
  for _ = 1, 4 do
    local value = task.spawn(generator):join()
    sum = sum + value
  end
  assert(sum == 10)
end)

test("coroutine: a coroutine that waits in one task is not resumed by another", function()
  local gate = task.waiter("the gate")
  local co = coroutine.create(function()
    gate:wait()
    return "passed"
  end)
  local wrapped = coroutine.wrap(function() coroutine.resume(co) end)
  local first = task.spawn(function() return select(2, coroutine.resume(co)) end)
  task.yield()
  local ok, err = coroutine.resume(co)
  assert(not ok and err:find("cannot resume a coroutine that is waiting", 1, true))
  wrapped() -- its resume was refused as well
  assert(coroutine.status(co) == "normal")
  fails("cannot close a coroutine that is waiting", coroutine.close, co)
  gate:wake()
  assert(first:join() == "passed" and coroutine.status(co) == "dead")
end)

test("coroutine: a wrapped generator that waits is not called by another task", function()
  local gate = task.waiter("the gate")
  local generator = coroutine.wrap(function() return gate:wait() end)
  local first = task.spawn(generator)
  task.yield()
  fails("cannot resume a coroutine that is waiting", generator)
  gate:wake("passed")
  assert(first:join() == "passed")
end)

test("coroutine: scopes and timeouts work inside a generator", function()
  local generator = coroutine.wrap(function()
    local ok, err = pcall(task.timeout, 0.005, task.sleep, 60)
    coroutine.yield(not ok and err.kind)
    coroutine.yield(task.scope(function(scope)
      return scope:spawn(function() return "child" end):join()
    end))
  end)
  assert(generator() == "timeout" and generator() == "child")
end)

test("coroutine: a timeout outside reaches a wait three coroutines in", function()
  local closed = 0
  local function nest(depth)
    local _ <close> = closing(function()
      task.yield()
      closed = closed + 1
    end)
    if depth == 0 then task.sleep(60) end
    coroutine.wrap(nest)(depth - 1)
  end
  assert(task.move_on(0.005, nest, 3) == false)
  assert(closed == 4)
end)

test("coroutine: a cancel that a generator catches still ends the task", function()
  local generator = coroutine.wrap(function()
    while true do
      local _, err = pcall(task.sleep, 60)
      coroutine.yield(err.kind)
    end
  end)
  local kind
  assert(task.move_on(0.005, function()
    kind = generator()
    task.sleep(60)
  end) == false)
  assert(kind == "cancelled")
end)

-- ------------------------------------------------------------------- errors

test("coroutine: an error in a generator runs a finalizer that waits", function()
  local value, seen = {}, nil
  local generator = coroutine.wrap(function()
    local _ <close> = closing(function(err)
      task.sleep(0.001)
      seen = err
    end)
    coroutine.yield(1)
    error(value)
  end)
  assert(generator() == 1)
  local ok, err = pcall(generator)
  assert(not ok and err == value and seen == value)
  fails("cannot resume dead coroutine", generator)
end)

test("coroutine: wrap adds the position to a message, as stock Lua does", function()
  local generator = coroutine.wrap(function() error("broken", 0) end)
  local ok, err = pcall(function() generator() end)
  assert(not ok and err:find("test_coroutine.lua:%d+: broken$"), err)
end)

test("coroutine: resume leaves an error where it was raised", function()
  local value = {}
  local co = coroutine.create(function()
    task.yield()
    error(value)
  end)
  local ok, err = coroutine.resume(co)
  assert(not ok and err == value and coroutine.status(co) == "dead")
  ok, err = coroutine.resume(co)
  assert(not ok and err == "cannot resume dead coroutine")
end)

test("coroutine: a finalizer run by coroutine.close cannot wait, and says so", function()
  local problem
  local co = coroutine.create(function()
    local _ <close> = closing(function()
      local _, err = pcall(task.sleep, 0)
      problem = err
    end)
    coroutine.yield()
  end)
  coroutine.resume(co)
  assert(coroutine.close(co) == true)
  assert(tostring(problem):find("cannot wait", 1, true), tostring(problem))
end)

-- -------------------------------------------------------- stock behaviour

test("coroutine: resume of what cannot be resumed", function()
  local co = coroutine.create(function() return 1 end)
  assert(coroutine.resume(co))
  local ok, err = coroutine.resume(co)
  assert(not ok and err == "cannot resume dead coroutine")
  local myself
  myself = coroutine.create(function() return coroutine.resume(myself) end)
  local fine, inner, message = coroutine.resume(myself)
  assert(fine and inner == false and message == "cannot resume non-suspended coroutine")
  fails("thread expected", coroutine.resume, 5)
  fails("thread expected", coroutine.status, {})
  fails("thread expected", coroutine.close)
  fails("function expected", coroutine.create, 5)
  fails("function expected", coroutine.wrap, "x")
  local generator = coroutine.wrap(function() end)
  generator()
  fails("cannot resume dead coroutine", generator)
end)

test("coroutine: a task itself has nobody to yield to", function()
  fails("attempt to yield from outside a coroutine", coroutine.yield, 1)
  local ok, err = task.pspawn(coroutine.yield, 1):pjoin()
  assert(not ok and err == "attempt to yield from outside a coroutine")
  assert(coroutine.isyieldable() == false)
  local _, is_main = coroutine.running()
  assert(is_main == true)
  assert(task.spawn(coroutine.isyieldable):join() == false)
end)

test("coroutine: inside a coroutine, running and isyieldable tell the stock truth", function()
  local co
  co = coroutine.create(function()
    task.yield()
    local running, is_main = coroutine.running()
    assert(running == co and is_main == false and coroutine.isyieldable())
    assert(coroutine.status(co) == "running")
    local inner = coroutine.create(function() coroutine.yield(coroutine.status(co)) end)
    local _, outer_status = coroutine.resume(inner)
    assert(outer_status == "normal" and coroutine.status(inner) == "suspended")
  end)
  assert(coroutine.status(co) == "suspended" and coroutine.isyieldable(co))
  local ok, err = coroutine.resume(co)
  assert(ok, err)
  assert(coroutine.status(co) == "dead")
end)

test("coroutine: close ends a suspended coroutine and gives its finalizer's error", function()
  local closed
  local co = coroutine.create(function()
    local _ <close> = closing(function() closed = true end)
    coroutine.yield()
  end)
  coroutine.resume(co)
  assert(coroutine.close(co) == true and closed and coroutine.status(co) == "dead")
  local value = {}
  co = coroutine.create(function()
    local _ <close> = closing(function() error(value) end)
    coroutine.yield()
  end)
  coroutine.resume(co)
  local ok, err = coroutine.close(co)
  assert(ok == false and err == value)
  assert(coroutine.close(coroutine.create(print)) == true)
  fails("cannot close a running coroutine", coroutine.close, (coroutine.running()))
end)

test("coroutine: many values pass in and out", function()
  local function pass(...)
    task.yield()
    return ...
  end
  local many = {}
  for i = 1, 5000 do
    many[i] = i
  end
  assert(select("#", coroutine.wrap(pass)(table.unpack(many))) == 5000)
  assert(select("#", coroutine.resume(coroutine.create(pass), table.unpack(many))) == 5001)
end)

test("coroutine: a generator that is dropped in its midst is collected", function()
  local weak = setmetatable({}, { __mode = "k" })
  for _ = 1, 10 do
    local generator = coroutine.wrap(function()
      while true do
        task.yield()
        coroutine.yield(1)
      end
    end)
    weak[generator] = true
    generator()
  end
  collectgarbage()
  collectgarbage()
  assert(next(weak) == nil)
end)

test("coroutine: coroutines nested beyond the limit fail, and the task goes on", function()
  local function nest() return coroutine.wrap(nest)() end
  fails("C stack overflow", nest)
  task.yield()
end)

-- ------------------------------------------------------------ our iterators

-- Lua 5.4.4 miscompiles `break` out of a generic `for` with a closing value
-- whose body captures a loop variable: no iterator of ours may give one.
test("coroutine: no iterator of ours has a closing value", function()
  local json = require("sbx.json")
  assert(select("#", json.lines("1\n2\n")) <= 3)
  local captured
  for value in json.lines("1\n2\n") do
    captured = function() return value end
    if value == 1 then break end
  end
  assert(captured() == 1)
end)
