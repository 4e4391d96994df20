local errors = require("sbx.errors")
local fails = require("expect").fails
local limit = require("sbx.limit")
local loop = require("sbx.core.test")
local task = require("sbx.task")

-- --------------------------------------------------------------------- rate

test("limit: a rate lets a burst through, then keeps its pace", function()
  local rate = limit.rate({ per_second = 20, burst = 5 })
  for _ = 1, 5 do
    assert(rate:try_take())
  end
  assert(not rate:try_take())
  local began = task.now()
  for _ = 1, 6 do
    rate:take()
  end
  local seconds = task.now() - began
  assert(seconds >= 5 / 20, seconds) -- a part of the first one may be there already
end)

test("limit: tokens are taken in the order of asking, many or few", function()
  local rate = limit.rate({ per_second = 1000, burst = 10 })
  rate:take(10)
  local order = {}
  task.scope(function(scope)
    for i, count in ipairs({ 8, 1, 5, 1 }) do
      scope:spawn(function()
        rate:take(count)
        order[#order + 1] = i
      end)
    end
  end)
  assert(table.concat(order, " ") == "1 2 3 4")
end)

test("limit: a cancelled task takes no token and lets the next one in", function()
  local rate = limit.rate({ per_second = 100, burst = 1 })
  rate:take()
  local first, second = task.pspawn(rate.take, rate), task.pspawn(rate.take, rate)
  task.yield()
  assert(rate.waiting == 1)
  first:cancel()
  second:join()
  assert(first.status == "cancelled" and rate.waiting == 0)
end)

test("limit: try_take says when it may work", function()
  local rate = limit.rate({ per_second = 0.1, burst = 2 })
  assert(rate:try_take(2))
  local ok, seconds = rate:try_take(2)
  assert(not ok and seconds > 15 and seconds <= 20, seconds)
  assert(rate.left < 1)
end)

test("limit: a paused rate lets nothing through, then goes on at its pace", function()
  local rate = limit.rate({ per_second = 100, burst = 1000 })
  rate:pause(0.03)
  local began = task.now()
  rate:take()
  local seconds = task.now() - began
  assert(seconds >= 0.03 and seconds < 60, seconds)
  assert(rate.left < 900)
end)

test("limit: a new rate counts for those who wait already", function()
  local rate = limit.rate({ per_second = 0.001, burst = 1 })
  rate:take()
  local waiting = task.spawn(rate.take, rate)
  task.sleep(0.002)
  assert(waiting.status == "waiting")
  rate:set(1000)
  task.timeout(60, waiting.join, waiting)
end)

-- Runs `fn` on a virtual clock and returns how many seconds it took there.
local function virtual_seconds(fn)
  loop.set_virtual(true)
  local _ <close> = setmetatable({}, { __close = function() loop.set_virtual(false) end })
  local began = task.now()
  fn()
  return task.now() - began
end

test("limit: a pause is as long as it was asked to be, whatever the rate becomes", function()
  for _, rates in ipairs({ { 1, 1000 }, { 1000, 1 } }) do
    local rate = limit.rate({ per_second = rates[1], burst = 1 })
    local seconds = virtual_seconds(function()
      rate:pause(10)
      rate:pause(1) -- a shorter one changes nothing
      rate:set(rates[2])
      rate:take()
    end)
    assert(seconds > 9.999 and seconds < 11.001, seconds)
  end
end)

test("limit: who waits for more than a new, smaller burst still gets it", function()
  local rate = limit.rate({ per_second = 1, burst = 10 })
  rate:take(10)
  local seconds = virtual_seconds(function()
    local many, one = task.spawn(rate.take, rate, 10), task.spawn(rate.take, rate, 1)
    task.yield()
    rate:set(1, 5)
    many:join()
    one:join()
  end)
  assert(seconds > 9.9 and seconds < 11.1, seconds) -- the rate is kept all the same
end)

test("limit: a rate that no clock can tell exactly keeps its pace", function()
  local seconds = virtual_seconds(function()
    local rate = limit.rate({ per_second = 7, burst = 1 })
    for _ = 1, 71 do
      rate:take()
    end
  end)
  assert(math.abs(seconds - 10) < 0.001, seconds)
end)

test("limit: try_take does not pass those who wait, and says when to come back", function()
  local rate = limit.rate({ per_second = 5, burst = 5 })
  rate:take(5)
  local waiting = task.pspawn(rate.take, rate, 5)
  task.sleep(0.02)
  local ok, seconds = rate:try_take(1)
  assert(not ok and seconds > 0.001, seconds)
  waiting:join()
end)

-- ----------------------------------------------------------------- adaptive

local function too_many()
  return errors.new({ kind = "api", status = 429, message = "too many" })
end

test("limit: an adaptive limit grows by one for each full round that goes well", function()
  local adaptive = limit.adaptive({ start = 2, max = 4 })
  local at_once, most = 0, 0
  local function work()
    at_once = at_once + 1
    most = math.max(most, at_once)
    task.yield()
    at_once = at_once - 1
  end
  task.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 }, function()
    adaptive:run(work)
  end)
  assert(adaptive.size > 3 and adaptive.size <= 4, adaptive.size)
  assert(most == 3 or most == 4, most)
  assert(adaptive.active == 0 and adaptive.waiting == 0)
end)

test("limit: it does not grow while it is not full", function()
  local adaptive = limit.adaptive({ start = 8 })
  for _ = 1, 50 do
    adaptive:run(task.yield)
  end
  assert(adaptive.size == 8)
end)

test("limit: it halves once for all that were under way, down to the least", function()
  local adaptive = limit.adaptive({ start = 16, min = 3 })
  local function overload()
    task.scope(function(scope)
      for _ = 1, 10 do
        scope:spawn(pcall, adaptive.run, adaptive, function()
          task.sleep(0.001)
          error(too_many(), 0)
        end)
      end
    end)
  end
  overload()
  assert(adaptive.size == 8, adaptive.size)
  overload()
  overload()
  overload()
  assert(adaptive.size == 3 and adaptive.active == 0)
end)

test("limit: it halves once, however much happens in one moment", function()
  local adaptive = limit.adaptive({ start = 16 })
  virtual_seconds(function()
    task.scope(function(scope)
      for _ = 1, 16 do
        scope:spawn(pcall, adaptive.run, adaptive, function()
          task.yield()
          error(too_many(), 0)
        end)
      end
    end)
  end)
  assert(adaptive.size == 8, adaptive.size)
end)

test("limit: other errors pass through and teach nothing", function()
  local adaptive = limit.adaptive({ start = 1 })
  fails("plain", adaptive.run, adaptive, error, "plain", 0)
  assert(adaptive.size == 1 and adaptive.active == 0)
  local odd = limit.adaptive({ start = 4, overloaded = function(err) return err == "plain" end })
  fails("plain", odd.run, odd, error, "plain", 0)
  assert(odd.size == 2)
end)

test("limit: a place can be told by hand, and comes back when cancelled", function()
  local adaptive = limit.adaptive({ start = 1 })
  local place = adaptive:acquire()
  assert(not task.move_on(0.001, adaptive.acquire, adaptive) and adaptive.waiting == 0)
  place:ok()
  place:overload() -- the first word counts
  place:release()
  place:release()
  assert(adaptive.size == 2 and adaptive.active == 0)
end)

test("limit: misuse names the argument", function()
  fails("rate: expected a table", limit.rate)
  fails("per_second: expected a number", limit.rate, {})
  fails("burst: expected a number between 1", limit.rate, { per_second = 1, burst = 0 })
  local rate = limit.rate({ per_second = 1, burst = 3 })
  fails("take: expected at most the burst of 3, got 4", rate.take, rate, 4)
  fails("take: expected a number", rate.take, rate, "1")
  fails("pause: expected a number", rate.pause, rate, -1)
  fails("start: expected a whole number between 1 and 2, got 3",
    limit.adaptive, { start = 3, max = 2 })
  fails("unknown option", limit.adaptive, { begin = 1 })
end)
