local errors = require("sbx.errors")
local fails = require("expect").fails
local retry = require("sbx.retry")
local task = require("sbx.task")

local function transient(fields)
  fields = fields or {}
  fields.kind, fields.message, fields.retryable = "connect", "refused", true
  return errors.new(fields)
end

-- A function that fails `times` times with `err`, then returns; and its counter.
local function failing(times, err)
  local calls = { count = 0 }
  return function(attempt)
    calls.count = calls.count + 1
    assert(attempt == calls.count)
    if calls.count <= times then error(err, 0) end
    return "done", nil, calls.count
  end, calls
end

test("retry: calls again until it works and returns everything", function()
  local fn = failing(2, transient())
  local result = table.pack(retry.call(fn, { pause = 0 }))
  assert(result.n == 3 and result[1] == "done" and result[3] == 3)
end)

test("retry: raises the last failure, with the number of tries", function()
  local fn, calls = failing(9, transient())
  local err = fails("refused", retry.call, fn, { attempts = 4, pause = 0 })
  assert(calls.count == 4 and err.attempts == 4)
  fn, calls = failing(9, transient())
  assert(fails("refused", retry.call, fn, 1).attempts == nil and calls.count == 1)
end)

test("retry: only what says that it is retryable, unless `when` decides", function()
  local object = errors.new({ kind = "io", message = "a plain error" })
  for _, err in ipairs({ "a plain error", object }) do
    local fn, calls = failing(1, err)
    fails("a plain error", retry.call, fn, { pause = 0 })
    assert(calls.count == 1)
    fn = failing(1, err)
    assert(retry.call(fn, { pause = 0, when = function(e) return e == err end }) == "done")
  end
end)

test("retry: a cancelled task stops, whatever the function makes of it", function()
  local calls = 0
  local ok = task.move_on(0.005, retry.call, function()
    calls = calls + 1
    local fine = pcall(task.sleep, 10)
    if not fine then error(transient(), 0) end
  end, { attempts = 100, pause = 0, when = function() return true end })
  assert(not ok and calls == 1)
  local slow = { attempts = 99, pause = 60, max_pause = 60 }
  assert(not task.move_on(0.005, retry.call, failing(99, transient()), slow))
end)

test("retry: pauses are random, double, and keep to the longest", function()
  local most = { 0, 0, 0, 0, 0 }
  for _ = 1, 2000 do
    for attempt = 1, 5 do
      local pause = retry.pause({ pause = 1, max_pause = 6 }, attempt)
      assert(pause >= 0)
      most[attempt] = math.max(most[attempt], pause)
    end
  end
  for attempt, longest in ipairs({ 1, 2, 4, 6, 6 }) do
    assert(most[attempt] <= longest and most[attempt] > 0.8 * longest, attempt)
  end
  assert(retry.pause({ pause = 1, max_pause = 6 }, 1e9) <= 6)
end)

test("retry: pauses at least as long as the server asks, or gives up", function()
  local told = {}
  local function note(err, attempt, pause)
    told[#told + 1] = { err = err, attempt = attempt, pause = pause }
  end
  local err = transient({ retry_after = 0.02 })
  local began = task.now()
  retry.call(failing(1, err), { pause = 0.001, on_retry = note })
  assert(task.now() - began >= 0.02)
  assert(#told == 1 and told[1].err == err and told[1].attempt == 1)
  assert(told[1].pause >= 0.02 and told[1].pause <= 0.021)

  local fn, calls = failing(1, transient({ retry_after = 31 }))
  fails("refused", retry.call, fn)
  assert(calls.count == 1)
end)

test("retry: begins no try after its timeout", function()
  local fn, calls = failing(99, transient({ retry_after = 0.05 }))
  fails("refused", retry.call, fn, { attempts = 99, timeout = 0.01 })
  assert(calls.count == 1)
end)

test("retry: a shared budget ends the tries of all", function()
  local budget = retry.budget({ ratio = 0.5, burst = 2 })
  local calls = 0
  for _ = 1, 10 do
    pcall(retry.call, function()
      calls = calls + 1
      error(transient(), 0)
    end, { attempts = 5, pause = 0, budget = budget })
  end
  -- 10 first tries; 2 saved up, and half a one for each further call.
  assert(calls >= 10 + 2 and calls <= 10 + 2 + 5, calls)
  assert(budget.left < 1 and not budget:withdraw())
  for _ = 1, 100 do
    budget:deposit()
  end
  assert(budget.left == 2)
end)

test("retry: misuse names the argument", function()
  fails("call: expected a function", retry.call, 5)
  fails("attempts: expected a whole number of at least 1, got 0",
    retry.call, print, { attempts = 0 })
  fails("pause: expected a number", retry.call, print, { pause = "1" })
  fails("unknown option 'retries'", retry.call, print, { retries = 3 })
  fails("when: expected a function", retry.call, print, { when = true })
  fails("budget: expected what retry.budget made, got a table", retry.call, print, { budget = {} })
  fails("ratio: expected a number", retry.budget, { ratio = "x" })
end)
