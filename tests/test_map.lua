-- map and imap beyond their plain use, which test_task.lua covers.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fails = require("expect").fails
local task = require("sbx.task")

local function numbers(count)
  local list = {}
  for i = 1, count do
    list[i] = i
  end
  return list
end

local function transient()
  return errors.new({ kind = "connect", message = "refused", retryable = true })
end

test("map: retries each item by itself", function()
  local tries = {}
  local results = task.map(numbers(6), function(n)
    tries[n] = (tries[n] or 0) + 1
    if tries[n] < n then error(transient(), 0) end
    return n * n
  end, { retry = { attempts = 6, pause = 0 } })
  assert(table.concat(results, " ") == "1 4 9 16 25 36")
  assert(table.concat(tries, " ") == "1 2 3 4 5 6")
  local _, failures = task.map({ 1, 2 }, function(n)
    if n == 2 then error(transient(), 0) end
  end, { retry = 2, on_error = "collect" })
  assert(failures[2].attempts == 2 and failures[1] == nil)
end)

test("map: the timeout of an item covers its tries and pauses", function()
  local _, failures = task.map({ 1 }, function()
    error(transient(), 0)
  end, {
    retry = { attempts = 50, pause = 10, max_pause = 10 }, timeout = 0.02, on_error = "collect",
  })
  assert(failures[1].kind == "timeout", tostring(failures[1]))
end)

test("map: tells its progress after each item, failures counted", function()
  local told = {}
  task.map({ 1, 2, 3 }, function(n)
    if n == 2 then error("no", 0) end
  end, {
    limit = 1, on_error = "collect",
    progress = function(done, total, failed)
      told[#told + 1] = ("%d/%d/%d"):format(done, total, failed)
    end,
  })
  assert(table.concat(told, " ") == "1/3/0 2/3/1 3/3/1")
end)

test("map: takes items from a function when their turn has come", function()
  local taken, at_once = 0, 0
  local results = task.map(function()
    task.yield() -- a source may wait
    if taken == 5 then return nil end
    taken = taken + 1
    return taken
  end, function(n)
    at_once = at_once + 1
    assert(at_once <= 2 and taken <= n + 2)
    task.sleep(0.001)
    at_once = at_once - 1
    return n * 2
  end, { limit = 2 })
  assert(table.concat(results, " ") == "2 4 6 8 10")
end)

test("map: a generator that waits is resumed by one worker at a time", function()
  local source = coroutine.wrap(function()
    for i = 1, 20 do
      task.sleep(0)
      coroutine.yield(i)
    end
  end)
  local results = task.map(source, function(n)
    task.yield()
    return n
  end, { limit = 8 })
  assert(#results == 20 and results[20] == 20)
end)

test("map: a source that fails ends the map with its error", function()
  fails("no more", task.map, function() error("no more", 0) end, print)
end)

test("map: a source that failed is not called again by the next worker", function()
  for _, limit in ipairs({ 1, 2, 8 }) do
    local calls = 0
    fails("no more", task.map, function()
      calls = calls + 1
      task.yield()
      if calls == 3 then error("no more", 0) end
      return calls
    end, task.yield, { limit = limit })
    assert(calls == 3, calls)
  end
end)

test("map: a worker that is cancelled alone leaves no list that passes for whole", function()
  local function cancel_itself(n)
    if n == 2 then task.current():cancel("enough") end
    task.yield()
    return n
  end
  for _, way in ipairs({ "cancel", "collect" }) do
    fails("cancelled: enough", task.map, numbers(6), cancel_itself, { limit = 2, on_error = way })
  end
  fails("cancelled: enough", function()
    for _ in task.imap(numbers(6), cancel_itself, { limit = 2 }) do end
  end)
end)

test("map: an error of nil is an error", function()
  local results, failures = task.map({ 1, 2 }, function(n)
    if n == 1 then error() end
    return n
  end, { on_error = "collect" })
  assert(results[1] == nil and results[2] == 2)
  assert(failures[1] == "no error object" and failures[2] == nil)
  fails("no error object", function()
    for _ in task.imap({ 1 }, function() error() end) do end
  end)
end)

test("map: items that wait for their turn cost no task", function()
  local before, most = core.stats().tasks, 0
  task.map(numbers(500), function()
    most = math.max(most, core.stats().tasks - before)
    task.yield()
  end, { limit = 4 })
  assert(most == 4, most)
end)

-- --------------------------------------------------------------------- imap

test("imap: gives results in the order they finish", function()
  local order = {}
  for index, value, err in task.imap({ 0.02, 0.001, 0.01 }, function(seconds)
    task.sleep(seconds)
    return seconds * 1000
  end) do
    assert(err == nil)
    order[#order + 1] = ("%d=%g"):format(index, value)
  end
  assert(table.concat(order, " ") == "2=1 3=10 1=20")
end)

test("imap: nil results and an empty list", function()
  local count = 0
  for index, value in task.imap({ 1, 2 }, function() end) do
    count = count + index
    assert(value == nil)
  end
  assert(count == 3)
  for _ in task.imap({}, print) do
    error("no item")
  end
end)

test("imap: the first failure is raised after what had finished", function()
  local seen, done = {}, 0
  local function run()
    for index in task.imap({ 1, 2, 3, 4 }, function(n)
      if n == 3 then error("no " .. n, 0) end
      if n == 4 then task.sleep(60) end
      done = done + 1
    end, { limit = 4 }) do
      seen[#seen + 1] = index
    end
  end
  fails("no 3", run)
  assert(done == 2 and table.concat(seen, " ") == "1 2")
end)

test("imap: collected failures come along", function()
  local good, bad = 0, 0
  for _, value, err in task.imap(numbers(10), function(n)
    if n % 2 == 0 then error("even", 0) end
    return n
  end, { on_error = "collect", limit = 3 }) do
    if err then
      assert(err == "even" and value == nil)
      bad = bad + 1
    else
      good = good + value
    end
  end
  assert(good == 25 and bad == 5)
end)

test("imap: the work stands still while nobody looks, and goes on after", function()
  local started = 0
  local results = task.imap(numbers(100), function(n)
    started = started + 1
    return n
  end, { limit = 3 })
  task.sleep(0.01)
  assert(started <= 3 + 3, started) -- each worker's result waits, and as many in the channel
  local count = 0
  for _ in results do
    count = count + 1
  end
  assert(count == 100 and started == 100)
end)

test("imap: closing it ends the work that is left", function()
  local ended, before = 0, core.stats().tasks
  do
    local results <close> = task.imap(function() return 1 end, function()
      local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
      task.sleep(0.001)
      task.sleep(ended < 2 and 0 or 60)
    end, { limit = 4 })
    local index = results()
    assert(index)
  end
  task.sleep(0.01)
  assert(core.stats().tasks == before and ended >= 4, ended)
end)

test("imap: at the end of its block nothing is at work any more", function()
  local at_work, most = 0, 0
  do
    local results <close> = task.imap(numbers(9), function(n)
      at_work = at_work + 1
      most = math.max(most, at_work)
      local _ <close> = setmetatable({}, {
        __close = function()
          task.sleep(0.001)
          at_work = at_work - 1
        end,
      })
      task.sleep(n == 1 and 0 or 60)
    end, { limit = 3 })
    results()
  end
  assert(at_work == 0 and most == 3, at_work)
end)

test("imap: closed twice, or by its own work", function()
  local results
  results = task.imap(numbers(9), function(n)
    task.yield()
    if n == 3 then results:close() end
    return n
  end, { limit = 1 })
  local seen = 0
  for _ in results do
    seen = seen + 1
  end
  assert(seen == 2, seen)
  results:close()
  results:close()
  assert(results() == nil)
end)

test("imap: left without closing, it ends with the scope around it", function()
  local ended = 0
  task.scope(function()
    for index in task.imap(numbers(50), function(n)
      local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
      task.sleep(n == 1 and 0 or 60)
    end, { limit = 5 }) do
      if index then break end
    end
  end)
  assert(ended >= 5, ended)
end)

test("imap: cancelled while it waits for a result", function()
  local ended = 0
  local done = task.move_on(0.005, function()
    for _ in task.imap({ 1, 2 }, function()
      local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
      task.sleep(60)
    end) do
      error("no result")
    end
  end)
  assert(not done and ended == 2)
end)

test("map: an object that can be called is a source, a table of names is not", function()
  local left = 3
  local source = setmetatable({}, {
    __call = function()
      left = left - 1
      return left >= 0 and left or nil
    end,
  })
  assert(table.concat(task.map(source, function(n) return n end), " ") == "2 1 0")
  fails("map: expected a list, got a table that has names and no items", task.map, { a = 1 }, print)
end)

test("map: misuse names the argument", function()
  fails("imap: expected a function", task.imap, {})
  fails("imap: expected a list or a function, got a string", task.imap, "x", print)
  fails("retry", task.map, {}, print, { retry = "3" })
  fails("attempts", task.map, {}, print, { retry = 0 })
  fails("progress: expected a label or a function, got a boolean", task.map, {}, print,
    { progress = true })
  fails("attempts: expected a whole number, got 1.5", task.map, {}, print, { retry = 1.5 })
  fails("test_map.lua", function() task.map(5, print) end)
  fails("test_map.lua", function() task.map({}, print, { retry = "3" }) end)
end)
