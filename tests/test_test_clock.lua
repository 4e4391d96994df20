-- The virtual clock: time that passes only when there is nothing else to do.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local http = require("sbx.http")
local net = require("sbx.net")
local process = require("sbx.process")
local real = require("sbx.core.test")
local retry = require("sbx.retry")
local runner = require("runner_support")
local task = require("sbx.task")
local test = require("sbx.test")
local time = require("sbx.core.time")

local DAY = 86400
local VIRTUAL = { clock = "virtual", timeout = 60 }

-- ------------------------------------------------------------- time that jumps

test("clock: days pass at once, in order", VIRTUAL, function()
  local seen = {}
  local start = task.now()
  task.scope(function(scope)
    for _, days in ipairs({ 3, 1, 2, 30 }) do
      scope:spawn(function()
        for round = 1, 3 do
          task.sleep(days * DAY)
          seen[#seen + 1] = { at = (task.now() - start) / DAY, days = days, round = round }
        end
      end)
    end
  end)
  test.equal(task.now() - start, 90 * DAY)
  local last = 0
  for _, each in ipairs(seen) do
    test.equal(each.at, each.days * each.round)
    assert(each.at >= last)
    last = each.at
  end
  test.equal(#seen, 12)
end)

test("clock: what is due at one instant happens in the order it was started", VIRTUAL, function()
  local order = {}
  task.scope(function(scope)
    for i = 1, 100 do
      scope:spawn(function()
        task.sleep(60)
        order[#order + 1] = i
      end)
    end
  end)
  for i = 1, 100 do
    test.equal(order[i], i)
  end
end)

test("clock: stands still while tasks run", VIRTUAL, function()
  local start, wall = task.now(), time.wall()
  for _ = 1, 1000 do
    task.yield()
  end
  local until_real = real.now() + 0.01
  repeat until real.now() > until_real
  test.equal(task.now(), start)
  test.equal(time.wall(), wall)
end)

test("clock: the wall clock moves along", VIRTUAL, function()
  local wall = time.wall()
  assert(math.abs(wall - os.time()) < 5, "it starts at the system's time")
  task.sleep(365 * DAY)
  test.near(time.wall() - wall, 365 * DAY, 1e-3)
end)

test("clock: deadlines follow it", VIRTUAL, function()
  local start = task.now()
  test.raises(function() task.timeout(DAY, task.sleep, 2 * DAY) end, "timeout")
  test.equal(task.now() - start, DAY)
  test.equal(task.move_on(DAY, task.sleep, DAY / 2), true)
  test.equal(task.now() - start, 1.5 * DAY)
  test.raises(function()
    task.scope({ deadline = task.now() + DAY }, function() task.sleep(1e9) end)
  end, "timeout")
  test.equal(task.now() - start, 2.5 * DAY)
end)

test("clock: the budget of finalizers follows it", VIRTUAL, function()
  local start, cut = task.now(), nil
  task.move_on(1, function()
    local _ <close> = setmetatable({}, { __close = function()
      cut = test.raises(task.sleep, "cancelled", DAY)
    end })
    task.sleep(DAY)
  end)
  assert(cut)
  test.equal(task.now() - start, 1 + core.cleanup_seconds())
end)

test("clock: pauses between tries follow it", VIRTUAL, function()
  local tries, start = 0, task.now()
  local err = test.raises(function()
    retry.call(function()
      tries = tries + 1
      errors.raise { kind = "busy", message = "busy", retryable = true, retry_after = 3600 }
    end, { attempts = 5, max_pause = 7200 })
  end, "busy")
  test.equal(err.kind, "busy")
  test.equal(tries, 5)
  assert(task.now() - start >= 4 * 3600, task.now() - start)
end)

test("clock: a sleep that was cancelled does not move it", VIRTUAL, function()
  local start = task.now()
  local sleeper = task.spawn(task.sleep, DAY)
  task.yield()
  sleeper:cancel()
  sleeper:pjoin()
  task.sleep(1)
  test.equal(task.now() - start, 1)
end)

test("clock: the longest sleeps can follow each other for ever", VIRTUAL, function()
  local last = task.now()
  for _ = 1, 40 do
    task.sleep(1e9)
    assert(task.now() >= last)
    last = task.now()
  end
end)

test("clock: test.clock makes it virtual in the middle of a test", function()
  task.sleep(0.001)
  local clock = test.clock()
  test.equal(clock:elapsed(), 0)
  task.sleep(DAY)
  test.equal(clock:elapsed(), DAY)
  assert(test.clock() == clock)
end)

test("clock: a real one goes on where the virtual one stopped", function()
  local start, wall = task.now(), time.wall()
  real.set_virtual(true)
  task.sleep(DAY)
  real.set_virtual(false)
  local now = task.now() - start
  assert(now >= DAY and now < DAY + 10, now)
  assert(time.wall() - wall < 10, "the wall clock is the system's again")
  task.sleep(0.01)
  assert(task.now() - start > now)
  assert(task.move_on(0.01, task.sleep, 60) == false)
end)

-- ---------------------------------------------------- with what is real beside

test("clock: waits for what is real, and passes meanwhile", VIRTUAL, function()
  local folder <close> = fs.tmpdir({ prefix = "clock-" })
  fs.write(folder.path .. "/a", "text")
  local start = task.now()
  local ticks = task.daemon(function()
    while true do task.sleep(DAY) end
  end)
  local result = task.timeout(DAY, process.run, { "cat", folder.path .. "/a" })
  test.equal(result.stdout, "text")
  assert(task.now() - start < 60, "it has not jumped")
  ticks:cancel()
end)

test("clock: a connection that idles does not hold it up", VIRTUAL, function()
  local listener = net.listen("127.0.0.1", 0)
  local server = task.spawn(function()
    local peer = listener:accept()
    local head = ""
    while not head:find("\r\n\r\n", 1, true) do
      head = head .. peer:read()
    end
    peer:write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    return peer
  end)
  test.equal(http.get(("http://127.0.0.1:%d/"):format(listener.port)).body, "ok")
  local _ <close> = server:join()
  listener:close()
  local start = real.now()
  task.sleep(DAY)
  assert(real.now() - start < 10)
end)

test("clock: a deadline ends what is real and takes too long", VIRTUAL, function()
  test.raises(function() task.timeout(0.05, process.run, { "sleep", "60" }) end, "timeout")
end)

test("clock: what listens holds it up, until it is moved on by hand", VIRTUAL, function()
  local clock = test.clock()
  local listener <close> = net.listen("127.0.0.1", 0)
  local served, ticks = 0, 0
  local server = task.daemon(function()
    while true do
      listener:accept():close()
      served = served + 1
    end
  end)
  task.scope(function(scope)
    scope:spawn(function()
      for _ = 1, 3 do
        task.sleep(60)
        ticks = ticks + 1
        local stream <close> = net.connect("127.0.0.1", listener.port)
        test.equal(stream:read(), nil)
      end
    end)
    clock:advance(59)
    test.equal({ ticks, served }, { 0, 0 })
    clock:advance(1)
    test.equal(ticks, 1)
    while ticks < 3 do
      clock:advance(60)
    end
  end)
  test.equal({ ticks, served }, { 3, 3 })
  server:cancel()
end)

test("clock: advance ends when everything has happened that was due", VIRTUAL, function()
  local clock = test.clock()
  local log = {}
  local waiter = task.waiter("the other")
  task.spawn(function()
    task.sleep(10)
    log[#log + 1] = "sleeper"
    waiter:wake()
  end)
  task.spawn(function()
    waiter:wait()
    for _ = 1, 20 do task.yield() end
    log[#log + 1] = "woken"
    task.sleep(1)
    log[#log + 1] = "too early"
  end)
  clock:advance(10)
  test.equal(log, { "sleeper", "woken" })
  test.equal(clock:elapsed(), 10)
end)

test("clock: advance can be cancelled, and needs a number of seconds", VIRTUAL, function()
  local clock = test.clock()
  test.equal(task.move_on(5, clock.advance, clock, 10), false)
  test.equal(clock:elapsed(), 5)
  task.sleep(10)
  for _, value in ipairs({ -1, 0 / 0, "1", 1e10 }) do
    local ok, err = pcall(clock.advance, clock, value)
    assert(not ok and type(err) == "string" and err:find("advance", 1, true), err)
  end
end)

test("clock: advance is refused where the clock is real", function()
  local ok, err = pcall(real.advance, 1)
  assert(not ok and tostring(err):find("not virtual", 1, true), err)
end)

test("clock: a guard counts real time, whatever the clock", VIRTUAL, function()
  local start = real.now()
  task.scope(function(scope)
    scope:daemon(function()
      while true do task.sleep(DAY) end
    end)
    real.guard(0.05)
  end)
  assert(real.now() - start >= 0.05)
  test.equal(task.move_on(0.001, real.guard, 60), false)
end)

-- ------------------------------------------------------------------ the runner

test("clock: each test has its own, and the next one the real one", function()
  local result = runner.run([[
    local task = require("sbx.task")
    local time = require("sbx.core.time")
    test("a", { clock = "virtual" }, function()
      task.sleep(86400 * 365)
    end)
    test("b", function()
      assert(math.abs(time.wall() - os.time()) < 5)
      local start = os.clock()
      assert(task.move_on(0.05, task.sleep, 60) == false)
    end)
    test("c", { clock = "virtual" }, function()
      test.equal(test.clock():elapsed(), 0)
      assert(math.abs(time.wall() - os.time()) < 5)
    end)
  ]])
  assert(result.code == 0, result.stdout)
end)

test("clock: a deadlock is still one, and real time still ends a test", function()
  local result = runner.run([[
    local task = require("sbx.task")
    test("stuck", { clock = "virtual" }, function()
      task.sleep(86400)
      task.waiter("godot"):wait()
    end)
    test("endless", { clock = "virtual", timeout = 0.2 }, function()
      while true do task.sleep(86400) end
    end)
  ]])
  assert(result.code == 1, result.stdout)
  test.contains(result.stdout, "deadlock: every task waits for another one")
  test.contains(result.stdout, "waits on godot")
  test.contains(result.stdout, "timed out after 0.2 s")
end)

test("clock: its functions say where they may be called", function()
  local result = runner.run('require("sbx.test").clock()')
  assert(result.code == 1, result.stdout)
  test.contains(result.stdout, "clock: no test is running")
end)
