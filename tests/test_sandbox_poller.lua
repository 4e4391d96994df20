-- The shared looks of those who wait, with an API that is a function: whatever the
-- order of the tasks and whoever is cancelled, nobody is forgotten, and no sandbox is
-- asked about twice at once. For other orders: sbxlua test --seeds 1..200 FILE.

local commands = require("sbx.sandbox.commands")
local errors = require("sbx.errors")
local poller = require("sbx.sandbox.poller")
local task = require("sbx.task")
local test = require("sbx.test")
local waiting = require("sbx.sandbox.waiting")
local wire = require("sbx.sandbox.wire")

local LATENCY = 0.04 -- seconds

-- A client whose sandboxes run from the moment that `boots` names; `cloud.answer` may
-- answer instead. `is_ours`: its server is one of ours, without limits.
local function new_cloud(boots, is_ours)
  local cloud = { boots = boots, began = task.now(), asked = 0, flying = {}, requests = {} }
  local client = { reached = {}, config = {} }
  client.governor = { is_free = function() return is_ours or false end }
  client.poller = poller.new(client)
  cloud.client = client

  local function state_of(id)
    local at = cloud.boots[id]
    if not at then return nil end
    return task.now() - cloud.began >= at and "RUNNING" or "PENDING"
  end

  local function answer(call)
    local ids = call.body and call.body.sandbox_ids or { call.sandbox_id }
    cloud.asked = cloud.asked + 1
    cloud.requests[cloud.asked] = { at = task.now() - cloud.began, count = #ids }
    for _, id in ipairs(ids) do
      assert(not cloud.flying[id], "asked about twice at once: " .. id)
      cloud.flying[id] = true
    end
    local _ <close> = setmetatable({}, { __close = function()
      for _, id in ipairs(ids) do
        cloud.flying[id] = nil
      end
    end })
    task.sleep(cloud.latency or LATENCY)
    local special = cloud.answer and cloud.answer(call, cloud.asked)
    if special then return special end
    if not call.body then return { id = ids[1], status = state_of(ids[1]) } end
    local statuses = {}
    for i, id in ipairs(ids) do
      statuses[i] = { sandbox_id = id, status = state_of(id) }
    end
    return { statuses = statuses, errors = {} }
  end

  local real_call, real_probe = wire.call, commands.probe
  wire.call = function(_, call) return answer(call), 1 end
  commands.probe = function() task.sleep(0.01) end
  test.after(function() wire.call, commands.probe = real_call, real_probe end)

  function cloud.wait(id, seconds)
    return waiting.methods.wait_for_creation(client, id, { timeout = seconds })
  end

  function cloud.check_idle()
    local p = client.poller
    assert(next(p.entries) == nil and p.count == 0, "sandboxes are still watched")
    assert(next(p.sleepers) == nil and not p.keeper and p.carried == 0, "somebody still waits")
    assert(next(cloud.flying) == nil)
  end
  client.get = function() error("not called here") end
  return cloud
end

local function names(count)
  local ids, boots = {}, {}
  for i = 1, count do
    ids[i] = ("sbx-%04d"):format(i)
    boots[ids[i]] = 0
  end
  return ids, boots
end

-- One wait, up to RUNNING and no further.
local function watch_until_running(cloud, id)
  local watch <close> = cloud.client.poller:watch(id)
  while watch:next().status ~= "RUNNING" do end
  return task.now() - cloud.began
end

local virtual = { clock = "virtual" }

test("poller: those who begin within 25 ms are asked about together", virtual, function()
  local ids, boots = names(250)
  local cloud = new_cloud(boots)
  task.map(ids, function(id, i)
    task.sleep(i / 250 * 0.02)
    watch_until_running(cloud, id)
  end, { limit = #ids })
  test.equal(cloud.asked, 3, "requests")
  local total = 0
  for _, request in ipairs(cloud.requests) do
    assert(request.count <= 100)
    total = total + request.count
  end
  test.equal(total, 250)
  cloud.check_idle()
end)

test("poller: a thousand for a minute take few requests", virtual, function()
  local ids, boots = names(1000)
  for i, id in ipairs(ids) do
    boots[id] = 5 + (i * 7919 % 1000) / 1000 * 55
  end
  local cloud = new_cloud(boots)
  local worst = 0
  task.map(ids, function(id)
    worst = math.max(worst, watch_until_running(cloud, id) - boots[id])
  end, { limit = #ids })
  assert(worst < 7.5, "seen too late: " .. worst)
  assert(cloud.asked <= 150, "too many requests: " .. cloud.asked)
  cloud.check_idle()
end)

test("poller: a single one is looked at less and less often", virtual, function()
  local cloud = new_cloud({ a = 60 })
  local seen = watch_until_running(cloud, "a")
  assert(seen >= 60 and seen < 66.5, seen)
  assert(cloud.asked >= 12 and cloud.asked <= 26, cloud.asked)
  local first, second = cloud.requests[1].at, cloud.requests[2].at
  assert(first >= 0.0245 and first < 0.03 and second - first >= 0.1)
end)

test("poller: a server of our own is asked sooner, while there are few", virtual, function()
  local function looks_at(count, is_ours)
    local ids, boots = names(count)
    for _, id in ipairs(ids) do
      boots[id] = 0.06
    end
    local cloud = new_cloud(boots, is_ours)
    cloud.latency = 0.001
    task.map(ids, function(id) watch_until_running(cloud, id) end, { limit = count })
    cloud.check_idle()
    return cloud.requests
  end
  for _, count in ipairs({ 1, 8 }) do
    local ours = looks_at(count, true)
    assert(ours[1].at < 0.03 and ours[#ours].at < 0.1, ours[#ours].at)
    assert(#ours <= 4, #ours)
    local others = looks_at(count, false)
    assert(#others == 2 and others[2].at >= 0.1, others[2].at)
  end
  local many = looks_at(9, true)
  assert(#many == 2 and many[2].at >= 0.1, many[2].at)
end)

test("poller: a server of our own is not asked often for long", virtual, function()
  local cloud = new_cloud({ a = 60 }, true)
  assert(watch_until_running(cloud, "a") < 66.5)
  assert(cloud.asked <= 30, cloud.asked)
end)

test("poller: many tasks may wait for the same sandbox", virtual, function()
  local cloud = new_cloud({ a = 3 })
  local list = {}
  for i = 1, 50 do
    list[i] = i
  end
  task.map(list, function() watch_until_running(cloud, "a") end, { limit = 50 })
  assert(cloud.asked < 15, cloud.asked)
  cloud.check_idle()
end)

test("poller: whenever one is cancelled, the others go on", { clock = "virtual", timeout = 120 },
  function()
    -- Who keeps the time and who sends changes with every round: each is cancelled at
    -- every 5 ms of the first rounds, and just there where something happens.
    for who = 1, 3 do
      for step = 0, 80 do
        local cloud = new_cloud({ a = 0.2, b = 0.25, c = 0.3 })
        local ids, done = { "a", "b", "c" }, {}
        task.scope(function(scope)
          local tasks = {}
          for i, id in ipairs(ids) do
            tasks[i] = scope:pspawn(function()
              watch_until_running(cloud, id)
              done[i] = true
            end)
          end
          task.sleep(step * 0.005)
          tasks[who]:cancel()
        end)
        for i = 1, 3 do
          assert(i == who or done[i], ("%d forgotten, %d cut at step %d"):format(i, who, step))
        end
        assert(task.now() - cloud.began < 1.6)
        cloud.check_idle()
      end
    end
  end)

test("poller: at random, waits begin, end and are cancelled", { clock = "virtual", timeout = 120 },
  function()
    for _ = 1, 10 do
      local ids, boots = names(30)
      for _, id in ipairs(ids) do
        boots[id] = math.random() * 4
      end
      local cloud = new_cloud(boots)
      cloud.latency = math.random() * 0.3
      local left = 0
      task.scope(function(scope)
        for i = 1, 60 do
          local id = ids[math.random(#ids)]
          local cancelled = math.random() < 0.4
          if not cancelled then left = left + 1 end
          local work = scope:pspawn(function()
            task.sleep(math.random() * 2)
            watch_until_running(cloud, id)
            if not cancelled then left = left - 1 end
          end)
          if cancelled then
            scope:spawn(function()
              -- In groups: several at the same moment.
              task.sleep((i % 7) * 0.5 * math.random(2))
              work:cancel()
            end)
          end
        end
      end)
      test.equal(left, 0, "forgotten")
      cloud.check_idle()
    end
  end)

test("poller: a server that never answers holds up only those asked about", virtual, function()
  local ids, boots = names(101)
  local cloud = new_cloud(boots)
  cloud.answer = function(call)
    if call.body then task.sleep(1000) end
  end
  -- The batch of 100 hangs; the one that is alone in its request does not.
  local quick = 0
  task.move_on(5, task.map, ids, function(id)
    watch_until_running(cloud, id)
    quick = quick + 1
  end, { limit = 101 })
  test.equal(quick, 1)
  cloud.check_idle()
end)

local function refusal(retry_after)
  return errors.new({ kind = "api", status = 429, message = "slow", retry_after = retry_after })
end

test("poller: pauses grow with refusals in a row, whoever asks", virtual, function()
  local ids, boots = names(150)
  local cloud = new_cloud(boots)
  cloud.answer = function(_, n)
    if n <= 12 then error(refusal(), 0) end
  end
  -- Each gives up after a while, and another one comes: the pauses are common.
  task.map(ids, function(id, i)
    task.move_on(i == 1 and 1000 or 1 + i % 10, watch_until_running, cloud, id)
    if i > 1 then task.move_on(1000, watch_until_running, cloud, id) end
  end, { limit = #ids })
  local times = cloud.requests
  -- Two requests a round: the first six refusals that counted.
  assert(times[9].at - times[1].at > 1.5, "pauses do not grow")
  assert(cloud.asked <= 25, cloud.asked)
  cloud.check_idle()
end)

test("poller: no request goes before Retry-After, whoever begins to wait", virtual, function()
  local ids, boots = names(20)
  local cloud = new_cloud(boots)
  cloud.answer = function(_, n)
    if n == 1 then error(refusal(30), 0) end
  end
  task.map(ids, function(id, i)
    task.sleep(i)
    watch_until_running(cloud, id)
  end, { limit = #ids })
  assert(cloud.requests[2].at >= 31, cloud.requests[2].at)
  cloud.check_idle()
end)

test("poller: a failure is told to those it is about", virtual, function()
  local ids, boots = names(100)
  local cloud = new_cloud(boots)
  cloud.answer = function(call)
    if call.body then errors.raise({ kind = "api", status = 403, message = "no" }) end
  end
  local failed = 0
  task.map(ids, function(id)
    local ok, err = pcall(watch_until_running, cloud, id)
    if not ok then
      test.equal(err.status, 403)
      failed = failed + 1
    end
  end, { limit = #ids })
  test.equal(failed, 100)
  test.equal(cloud.asked, 1)
  cloud.check_idle()
end)

test("poller: a thousand for a minute of trouble take few requests", virtual, function()
  local ids, boots = names(1000)
  local cloud = new_cloud(boots)
  cloud.answer = function(call)
    if task.now() - cloud.began >= 60 then return nil end
    errors.raise({ kind = "api", status = call.body and 503 or 500, message = "broken" })
  end
  task.map(ids, function(id) watch_until_running(cloud, id) end, { limit = #ids })
  assert(cloud.asked < 400, cloud.asked)
  cloud.check_idle()
end)

test("poller: after trouble nobody asks before Retry-After", virtual, function()
  local ids, boots = names(2)
  local cloud = new_cloud(boots)
  cloud.answer = function(_, n)
    if n > 1 then return nil end
    errors.raise({ kind = "api", status = 503, retry_after = 30, message = "later" })
  end
  task.map(ids, function(id) watch_until_running(cloud, id) end, { limit = #ids })
  test.equal(cloud.asked, 2)
  assert(cloud.requests[2].at >= 30, cloud.requests[2].at)
  cloud.check_idle()
end)

test("poller: while an image is built, a look every 10 s, on a time of its own", virtual, function()
  local cloud = new_cloud({ a = 1500 })
  cloud.answer = function(call)
    if call.sandbox_id and task.now() - cloud.began < 1200 then
      return { id = "a", status = "PENDING", pendingImageBuildId = "build-1" }
    end
  end
  local err = test.raises(cloud.wait, "not_running", "a", 30)
  local took = task.now() - cloud.began
  assert(took > 1225 and took < 1250, "the normal time counts outside of the build: " .. took)
  test.contains(err.message, "not usable within 30 s")
  assert(cloud.asked >= 118 and cloud.asked <= 140, cloud.asked)

  cloud.answer = function()
    return { id = "a", status = "PENDING", pendingImageBuildId = "build-1" }
  end
  cloud.began = task.now()
  err = test.raises(cloud.wait, "not_running", "a", 30)
  test.contains(err.message, "its image was not built within 3000 s")
  assert(task.now() - cloud.began > 2999)
  cloud.check_idle()
end)

test("poller: paused and unknown states are waited out", virtual, function()
  local cloud = new_cloud({ a = 40 })
  cloud.answer = function(_, n)
    if n < 4 then return { id = "a", status = n % 2 == 0 and "PAUSED" or "NEW_STATE" } end
  end
  assert(watch_until_running(cloud, "a") >= 40)
end)
