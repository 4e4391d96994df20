local core = require("sbx.core.task")
local errors = require("sbx.errors")
local task = require("sbx.task")

local function fails(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "no error, expected: " .. pattern)
  assert(tostring(err):find(pattern), tostring(err))
  return err
end

-- A task function that fails with an error object as soon as it runs.
local function fail_with(code)
  return function() errors.raise({ kind = "io", code = code, message = code }) end
end

-- ------------------------------------------------------------------- scopes

test("task: a scope returns its function's results once its tasks have ended", function()
  local ended = 0
  local a, b, c = task.scope(function(scope, x, y)
    for _ = 1, 3 do
      scope:spawn(function()
        task.sleep(0.001)
        ended = ended + 1
      end)
    end
    assert(ended == 0)
    return x, nil, y
  end, 1, 2)
  assert(ended == 3 and a == 1 and b == nil and c == 2)
end)

test("task: a scope takes options first and gives its function the rest", function()
  local sum = task.scope({ name = "adding" }, function(scope, x, y)
    assert(tostring(scope) == "scope adding")
    return x + y
  end, 2, 3)
  assert(sum == 5)
end)

test("task: spawned tasks begin in order, once the spawner waits", function()
  local order = {}
  task.scope(function(scope)
    for i = 1, 3 do
      scope:spawn(function() order[#order + 1] = i end)
    end
    order[#order + 1] = "body"
  end)
  assert(table.concat(order, " ") == "body 1 2 3")
end)

test("task: the first failure cancels the siblings and is raised with theirs", function()
  local cancelled
  local ok, err = pcall(task.scope, function(scope)
    scope:spawn(function()
      local fine, problem = pcall(task.sleep, 60)
      cancelled = not fine and problem.kind == "cancelled"
      fail_with("ESECOND")()
    end)
    scope:spawn(fail_with("EFIRST"))
    task.sleep(60)
  end)
  assert(not ok and err.code == "EFIRST" and cancelled)
  assert(#err.errors == 1 and err.errors[1].code == "ESECOND")
end)

test("task: a collecting scope lets the others go on and raises the first failure", function()
  local finished
  local ok, err = pcall(task.scope, { on_error = "collect" }, function(scope)
    scope:spawn(fail_with("E1"))
    scope:spawn(fail_with("E2"))
    scope:spawn(function()
      task.sleep(0.001)
      finished = true
    end)
    task.sleep(0.002)
  end)
  assert(not ok and finished and err.code == "E1" and err.errors[1].code == "E2")
end)

test("task: a collecting scope whose own function fails cancels the rest", function()
  local ok, err = pcall(task.scope, { on_error = "collect" }, function(scope)
    scope:spawn(task.sleep, 60)
    fail_with("EBODY")()
  end)
  assert(not ok and err.code == "EBODY")
end)

test("task: a scope cancelled by its own cancel ends quietly, with nothing", function()
  local count = select("#", task.scope(function(scope)
    scope:spawn(task.sleep, 60)
    scope:cancel("enough")
    task.sleep(60)
    return "not reached"
  end))
  assert(count == 0)
end)

test("task: an open scope awaits its tasks at the end of the block", function()
  local ended
  do
    local scope <close> = task.open_scope()
    scope:spawn(function()
      task.sleep(0.001)
      ended = true
    end)
  end
  assert(ended)
end)

test("task: an open scope raises its tasks' failure, its timeout, and the block's error", function()
  local err = fails("E1", function()
    local scope <close> = task.open_scope()
    scope:spawn(fail_with("E1"))
    task.sleep(60)
  end)
  assert(err.code == "E1")
  err = fails("patience: timed out after 0.01 s", function()
    local scope <close> = task.open_scope({ timeout = 0.01, name = "patience" })
    scope:spawn(task.sleep, 60)
  end)
  assert(err.kind == "timeout")
  local value = {}
  local ok, same = pcall(function()
    local scope <close> = task.open_scope()
    scope:spawn(task.sleep, 60)
    error(value)
  end)
  assert(not ok and same == value)
end)

test("task: open scopes that end out of order are refused, and cleaned up", function()
  local child = task.pspawn(function()
    local outer = task.open_scope()
    task.open_scope():spawn(task.sleep, 60)
    outer:leave()
  end)
  local ok, err = child:pjoin()
  assert(not ok and err:find("must end inside the task and the scope", 1, true))
end)

test("task: nothing can be spawned in a scope that has ended", function()
  local kept
  task.scope(function(scope) kept = scope end)
  fails("the scope has ended", kept.spawn, kept, task.sleep, 1)
  kept:cancel() -- harmless
end)

test("task: a scope can be handed to the tasks in it, which spawn into it", function()
  local depth = 0
  task.scope(function(scope)
    local function grow(n)
      depth = math.max(depth, n)
      task.yield()
      if n < 5 then scope:spawn(grow, n + 1) end
    end
    scope:spawn(grow, 1)
  end)
  assert(depth == 5)
end)

test("task: a limit bounds how many run at once, daemons aside", function()
  local running, most = 0, 0
  task.scope({ limit = 3 }, function(scope)
    scope:daemon(task.sleep, 60)
    for _ = 1, 10 do
      scope:spawn(function()
        running = running + 1
        most = math.max(most, running)
        task.yield()
        running = running - 1
      end)
    end
  end)
  assert(most == 3 and running == 0)
end)

test("task: a failing task gives its place in a limited scope to the next", function()
  local ran = {}
  local ok = pcall(task.scope, { limit = 1, on_error = "collect" }, function(scope)
    scope:spawn(error, "broken")
    scope:spawn(function() ran[1] = true end)
    scope:spawn(function() ran[2] = true end)
  end)
  assert(not ok and ran[1] and ran[2])
end)

test("task: a scope's timeout and deadline raise a timeout", function()
  local err = fails("slow: timed out", task.scope, { timeout = 0.01, name = "slow" }, function()
    task.sleep(60)
  end)
  assert(err.kind == "timeout" and err.code == "ETIMEDOUT" and err.op == "slow")
  fails("timed out", task.scope, { deadline = task.now() + 0.01 }, function(scope)
    scope:spawn(task.sleep, 60)
  end)
  fails("timed out", task.scope, { deadline = task.now() - 5 }, function() task.sleep(60) end)
  -- The earlier one counts.
  fails("timed out", task.scope, { deadline = task.now() + 60, timeout = 0.01 }, function()
    task.sleep(60)
  end)
end)

test("task: misuse of scopes names the argument", function()
  fails("scope: expected a function", task.scope)
  fails("expected a function", task.scope, {}, 5)
  fails("limitt", task.scope, { limitt = 1 }, print)
  fails("limit", task.scope, { limit = 0 }, print)
  fails("limit", task.scope, { limit = 1.5 }, print)
  fails("timeout", task.scope, { timeout = -1 }, print)
  fails("timeout", task.scope, { timeout = 0 / 0 }, print)
  fails("timeout", task.scope, { timeout = "1" }, print)
  fails("deadline", task.scope, { deadline = "soon" }, print)
  fails("on_error", task.scope, { on_error = "ignore" }, print)
  task.scope(function(scope)
    fails("spawn: expected a function", scope.spawn, scope, 5)
    fails("pspawn: expected a function", scope.pspawn, scope, {})
    fails("daemon: expected a function", scope.daemon, scope)
    fails("defer: expected a function", scope.defer, scope, "fn")
  end)
  fails("expected a function", task.spawn)
  fails("expected a function", task.pspawn, "f")
  fails("expected a function", task.daemon, nil)
end)

-- -------------------------------------------------------------------- tasks

test("task: join returns all results, nils too, as often as asked", function()
  local child = task.spawn(function(...)
    task.yield()
    return nil, select("#", ...), nil
  end, nil, nil)
  for _ = 1, 2 do
    local results = table.pack(child:join())
    assert(results.n == 3 and results[2] == 2)
  end
  assert(select("#", child:pjoin()) == 4 and child:pjoin() == true)
  assert(child.status == "done")
end)

test("task: many tasks may join one", function()
  local gate = task.waiter("the gate")
  local child = task.spawn(gate.wait, gate)
  local sum = 0
  task.scope(function(scope)
    for _ = 1, 5 do
      scope:spawn(function()
        local value = child:join()
        sum = sum + value
      end)
    end
    task.yield()
    gate:wake(2)
  end)
  assert(sum == 10)
end)

test("task: pspawn delivers its failure to join alone", function()
  local value = { "the error" }
  local child = task.pspawn(error, value)
  local ok, err = child:pjoin()
  assert(not ok and err == value and child.status == "failed")
  local joined, same = pcall(child.join, child)
  assert(not joined and same == value)
end)

test("task: a cancelled join leaves the other task alone", function()
  local gate = task.waiter("the gate")
  local child = task.spawn(gate.wait, gate)
  assert(not task.move_on(0.005, child.join, child))
  assert(child.status == "waiting")
  gate:wake("alive")
  assert(child:join() == "alive")
end)

test("task: a task that cancels itself or joins itself", function()
  fails("cannot join itself", function() task.current():join() end)
  local child = task.pspawn(function()
    task.current():cancel("my own wish")
    task.sleep(60)
  end)
  local ok, err = child:pjoin()
  assert(not ok and err.kind == "cancelled" and err.reason == "my own wish")
  assert(child.status == "cancelled")
end)

test("task: a cancelled task harms nobody else in its scope", function()
  local other
  task.scope(function(scope)
    local child = scope:spawn(task.sleep, 60)
    scope:spawn(function()
      task.sleep(0.002)
      other = true
    end)
    child:cancel()
    child:cancel() -- harmless
  end)
  assert(other)
end)

test("task: a task ends only after those it spawned", function()
  local ended
  local child = task.spawn(function()
    task.spawn(function()
      task.sleep(0.001)
      ended = true
    end)
    return "result"
  end)
  assert(child:join() == "result" and ended)
end)

test("task: the failure of what a task spawned is its own", function()
  local child = task.pspawn(function()
    task.spawn(fail_with("EINNER"))
    task.sleep(60)
  end)
  local ok, err = child:pjoin()
  assert(not ok and err.code == "EINNER" and child.status == "failed")
end)

test("task: a daemon is cancelled once the others have ended", function()
  local state
  task.scope(function(scope)
    scope:daemon(function()
      local ok, err = pcall(task.sleep, 60)
      state = not ok and err.kind
    end)
    scope:spawn(task.sleep, 0.001)
  end)
  assert(state == "cancelled")
end)

test("task: a daemon's failure fails its scope", function()
  local err = fails("EDAEMON", task.scope, function(scope)
    scope:daemon(fail_with("EDAEMON"))
    task.sleep(60)
  end)
  assert(err.code == "EDAEMON")
  fails("EDAEMON", task.scope, function(scope)
    scope:daemon(function()
      pcall(task.sleep, 60)
      fail_with("EDAEMON")()
    end)
    scope:spawn(task.yield)
  end)
end)

test("task: a daemon that ends early is no loss", function()
  task.scope(function(scope)
    scope:daemon(function() return 1 end)
    task.yield()
  end)
end)

test("task: spawn, pspawn and daemon go to the innermost scope", function()
  local ended
  task.scope(function()
    task.daemon(task.sleep, 60)
    task.pspawn(error, "unheard")
    task.spawn(function()
      task.sleep(0.001)
      ended = true
    end)
  end)
  assert(ended)
end)

test("task: a task tells its name, status, age, site and what it waits on", function()
  local gate = task.waiter("the gate")
  local child = task.spawn(gate.wait, gate)
  assert(child.status == "queued" and child.waiting_on == nil)
  child.name = "keeper"
  task.yield()
  assert(child.status == "waiting" and child.waiting_on == "the gate")
  assert(child.name == "keeper" and math.type(child.id) == "integer")
  assert(child.age >= 0 and child.age < 60)
  assert(child.site:find("test_task.lua:%d+$"), child.site)
  assert(tostring(child):find("^task %d+ %(waiting%)$"))
  assert(child.parent == task.current() and task.current().status == "running")
  assert(task.tree():find("(keeper) waiting on the gate, spawned at", 1, true))
  assert(task.list()[1] == child)
  gate:wake()
  child:join()
  assert(child.status == "done" and child.waiting_on == nil and child.parent == nil)
  assert(child.no_such_field == nil)
  fails("no field 'id' to set", function() child.id = 5 end)
end)

-- -------------------------------------------------------------------- defer

test("task: deferred functions run last first, after the tasks, and may wait", function()
  local order = {}
  task.scope(function(scope)
    scope:defer(function() order[#order + 1] = "first" end)
    scope:defer(function()
      task.sleep(0.001)
      order[#order + 1] = "second"
    end)
    scope:spawn(function()
      task.yield()
      order[#order + 1] = "task"
    end)
  end)
  assert(table.concat(order, " ") == "task second first")
end)

test("task: deferred functions run after a failure, a timeout and a cancel", function()
  local count = 0
  local function later()
    task.sleep(0.001)
    count = count + 1
  end
  pcall(task.scope, function(scope)
    scope:defer(later)
    error("broken")
  end)
  pcall(task.scope, { timeout = 0.002 }, function(scope)
    scope:defer(later)
    task.sleep(60)
  end)
  task.scope(function(scope)
    scope:defer(later)
    scope:cancel()
    task.sleep(60)
  end)
  task.move_on(0.002, task.scope, function(scope)
    scope:defer(later)
    task.sleep(60)
  end)
  assert(count == 4)
end)

test("task: a failure in a deferred function fails the scope, and the others still run", function()
  local ran
  local err = fails("EDEFER", task.scope, function(scope)
    scope:defer(function() ran = true end)
    scope:defer(fail_with("EDEFER"))
  end)
  assert(ran and err.code == "EDEFER")
  err = fails("EBODY", task.scope, function(scope)
    scope:defer(fail_with("EDEFER"))
    fail_with("EBODY")()
  end)
  assert(err.errors[1].code == "EDEFER")
end)

test("task: what a deferred function spawns or defers belongs to the scope as well", function()
  local spawned, deferred
  task.scope(function(scope)
    scope:defer(function()
      scope:spawn(function()
        task.sleep(0.001)
        spawned = true
      end)
      scope:defer(function() deferred = true end)
    end)
  end)
  assert(spawned and deferred)
end)

-- --------------------------------------------------------------------- time

test("task: timeout returns the results, or raises a timeout", function()
  local results = table.pack(task.timeout(60, function(...) return ... end, 1, nil, nil))
  assert(results.n == 3 and results[1] == 1)
  local err = fails("timed out after 0.01 s", task.timeout, 0.01, task.sleep, 60)
  assert(err.kind == "timeout" and err.code == "ETIMEDOUT")
  fails("timed out", task.timeout, 0, task.sleep, 60)
end)

test("task: a timeout bounds what its function spawned", function()
  local child
  fails("timed out", task.timeout, 0.01, function() child = task.spawn(task.sleep, 60) end)
  assert(child.status == "cancelled")
end)

test("task: the function's own failure comes through a timeout unchanged", function()
  local value = {}
  local ok, err = pcall(task.timeout, 60, error, value)
  assert(not ok and err == value)
end)

test("task: move_on says whether the function ended in time", function()
  local ok, a, b = task.move_on(60, function() return 1, 2 end)
  assert(ok == true and a == 1 and b == 2)
  assert(select("#", task.move_on(0.005, task.sleep, 60)) == 1)
  assert(task.move_on(0.005, task.sleep, 60) == false)
  assert(task.move_on(0, function() return 1 end) == true)
  fails("broken", task.move_on, 60, error, "broken")
end)

test("task: misuse of timeout, move_on and shield names the argument", function()
  for _, name in ipairs({ "timeout", "move_on", "shield" }) do
    fails(name .. ": expected a number", task[name])
    fails(name, task[name], -1, print)
    fails(name, task[name], 0 / 0, print)
    fails(name, task[name], math.huge, print)
    fails(name .. ": expected a function", task[name], 1, "print")
  end
end)

test("task: a shield keeps a cancel out, and lets it in at its end", function()
  local finished, after
  task.scope(function(scope)
    scope:spawn(function()
      assert(task.shield(60, function(x)
        task.sleep(0.005)
        finished = true
        return x
      end, "kept") == "kept")
      after = true
      task.sleep(60)
      after = "not cancelled"
    end)
    task.yield()
    scope:cancel()
  end)
  assert(finished and after == true)
end)

test("task: a shield ends after its time", function()
  local err = fails("timed out", task.shield, 0.01, task.sleep, 60)
  assert(err.kind == "timeout")
end)

test("task: yield lets the others run", function()
  local order = {}
  local child = task.spawn(function()
    order[#order + 1] = "child"
    task.yield()
    order[#order + 1] = "child"
  end)
  task.yield()
  order[#order + 1] = "main"
  child:join()
  assert(table.concat(order, " ") == "child main child")
end)

test("task: sleeping tasks wake in the order of their times", { clock = "virtual" }, function()
  local order = {}
  task.scope(function(scope)
    for _, ms in ipairs({ 30, 10, 20 }) do
      scope:spawn(function()
        task.sleep(ms / 1000)
        order[#order + 1] = ms
      end)
    end
  end)
  assert(table.concat(order, " ") == "10 20 30")
end)

-- -------------------------------------------------------------- combinators

test("task: gather returns the first result of each, in order", function()
  local a, b, c = task.gather({
    function()
      task.sleep(0.002)
      return "a", "dropped"
    end,
    function() return nil end,
    function() return "c" end,
  })
  assert(a == "a" and b == nil and c == "c")
  assert(select("#", task.gather({})) == 0)
  fails("broken", task.gather, { task.yield, function() error("broken") end })
  fails("gather", task.gather)
  fails("gather: 1: expected a function, got a number", task.gather, { 5 })
end)

test("task: map keeps the order and bounds how many run at once", function()
  local running, most = 0, 0
  local results = task.map({ 5, 4, 3, 2, 1 }, function(item, index)
    running = running + 1
    most = math.max(most, running)
    task.sleep(item / 2000)
    running = running - 1
    return item * 10 + index, "dropped"
  end, { limit = 2 })
  assert(most == 2 and table.concat(results, " ") == "51 42 33 24 15")
  assert(#task.map({}, print) == 0)
end)

test("task: map raises the first failure and leaves the rest undone", function()
  local begun = 0
  fails("third", task.map, { 1, 2, 3, 4, 5 }, function(item)
    begun = begun + 1
    if item == 3 then error("third") end
    task.yield()
  end, { limit = 1 })
  assert(begun == 3)
end)

test("task: a collecting map returns the failures by index", function()
  local results, failures = task.map({ 1, 2, 3 }, function(item)
    if item == 2 then error("second", 0) end
    return item
  end, { on_error = "collect" })
  assert(results[1] == 1 and results[2] == nil and results[3] == 3)
  assert(failures[2] == "second" and failures[1] == nil and failures[3] == nil)
end)

test("task: map's timeout bounds each call", function()
  local results, failures = task.map({ 60, 0 }, function(seconds)
    task.sleep(seconds)
    return "in time"
  end, { on_error = "collect", timeout = 0.02 })
  assert(failures[1].kind == "timeout" and results[2] == "in time")
end)

test("task: a cancelled map is cancelled, not a list of failures", function()
  local returned
  assert(not task.move_on(0.005, function()
    task.map({ 1, 2 }, function() task.sleep(60) end, { on_error = "collect" })
    returned = true
  end))
  assert(not returned)
end)

test("task: a method called with a dot says how to call it", function()
  task.scope(function(scope)
    fails("scope.spawn was called without its scope: write scope:spawn", scope.spawn, print)
    fails("scope.defer was called without its scope", scope.defer, print)
    local child = scope:spawn(print)
    child:cancel()
    fails("task.join was called without its task: write task:join", child.join)
  end)
end)

test("task: misuse of map names the argument", function()
  fails("map: expected a list or a function, got a number", task.map, 5, print)
  fails("map: expected a function", task.map, {}, 5)
  fails("limit", task.map, {}, print, { limit = 0 })
  fails("timeout", task.map, {}, print, { timeout = -1 })
  fails("on_error", task.map, {}, print, { on_error = "retry" })
  fails("retries", task.map, {}, print, { retries = 1 })
end)

-- ------------------------------------------------------------------- waiter

test("task: a waiter hands over what wake was given", function()
  local waiter = task.waiter()
  local child = task.spawn(waiter.wait, waiter)
  task.yield()
  assert(child.waiting_on == "another task")
  assert(waiter:wake(1, nil, 3) == true)
  local results = table.pack(child:join())
  assert(results.n == 3 and results[1] == 1 and results[3] == 3)
end)

test("task: a wake before the wait is kept, a second one is refused", function()
  local waiter = task.waiter("a word")
  assert(waiter:wake("early") == true and waiter:wake("late") == false)
  assert(waiter:wait() == "early")
end)

test("task: a waiter takes one task at a time", function()
  local waiter = task.waiter("a word")
  local child = task.spawn(waiter.wait, waiter)
  task.yield()
  fails("another task waits on this waiter", waiter.wait, waiter)
  waiter:wake()
  child:join()
  fails("bad argument", waiter.wait, {})
  fails("what: expected a string", task.waiter, {})
end)

test("task: a waiter nobody waits on is collected", function()
  local weak = setmetatable({ task.waiter("nothing") }, { __mode = "v" })
  weak[1]:wake(weak)
  collectgarbage()
  collectgarbage()
  assert(weak[1] == nil)
end)

-- ----------------------------------------------------- where one cannot wait

test("task: where Lua cannot suspend the error names the function in the way", function()
  fails("sleep cannot wait inside table.sort", table.sort, { 2, 1 }, function(a, b)
    task.sleep(0)
    return a < b
  end)
  fails("yield cannot wait inside string.gsub", string.gsub, "x", "x", function() task.yield() end)
  local problem
  do
    setmetatable({}, {
      __gc = function()
        local _, err = pcall(task.sleep, 0)
        problem = err
      end,
    })
  end
  collectgarbage()
  collectgarbage()
  assert(problem:find("sleep cannot wait inside a __gc metamethod", 1, true), problem)
end)

test("task: waits work in pcall, xpcall, metamethods, iterators and load", function()
  local function now(value)
    task.yield()
    return value
  end
  local meta = {}
  for _, event in ipairs({ "__index", "__add", "__concat", "__eq", "__lt", "__len", "__call" }) do
    meta[event] = function() return now("waited") end
  end
  local a, b = setmetatable({}, meta), setmetatable({}, meta)
  assert(a.field == "waited" and a + b == "waited" and a .. b == "waited")
  assert(a == b and a < b and #a == "waited" and a() == "waited")
  local written
  meta.__newindex = function(_, key) written = now(key) end
  a.field = 1
  assert(written == "field")
  assert(select(2, pcall(pcall, now, 5)) == true)
  assert(select(2, xpcall(now, print, 6)) == 6)
  local seen = 0
  for i in function(_, last) return now(last < 3 and last + 1 or nil) end, nil, 0 do
    seen = seen + i
  end
  assert(seen == 6)
  local text = 'local task = require("sbx.task") task.yield() return 7'
  assert(load(text)() == 7)
end)

test("task: the counts of what lives fall back when a task ends", function()
  local before = core.stats()
  local child = task.spawn(task.sleep, 60)
  task.yield()
  assert(core.stats().tasks == before.tasks + 1 and core.stats().waits == before.waits + 1)
  child:cancel()
  child:pjoin()
  assert(core.stats().waits == before.waits)
end)

test("task: fields and options of the wrong type are refused", function()
  fails("name: expected a string", function() task.current().name = {} end)
  task.current().name = "a test"
  task.current().name = nil
  fails("name: expected a string", task.scope, { name = {} }, print)
  fails("timeout: expected a number", task.scope, { timeout = false }, print)
end)

test("task: a scope's function gets no arguments that were not given", function()
  local function count(_, ...) return select("#", ...) end
  assert(task.scope(count) == 0 and task.scope({}, count) == 0)
  assert(task.scope(count, nil, nil) == 2 and task.scope({}, count, nil) == 1)
end)
