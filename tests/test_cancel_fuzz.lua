-- Random trees of scopes, maps, channels, locks, deadlines, shields, generators
-- and finalizers, which are cancelled at random points. Whatever happens: every
-- finalizer that was opened ran exactly once, every value that was sent was
-- received once, no lock is held, nobody waits, and nothing is left. A failing
-- seed is named; it reproduces alone with SBXLUA_SEED=N.

local channel = require("sbx.channel")
local core = require("sbx.core.task")
local limit = require("sbx.limit")
local loop = require("sbx.core.test")
local retry = require("sbx.retry")
local sync = require("sbx.sync")
local task = require("sbx.task")

-- A small generator of its own, so that a seed means the same everywhere.
local function random_source(seed)
  local state = seed * 2654435761 % 4294967296 + 1
  return function(most)
    state = (state * 1103515245 + 12345) % 4294967296
    return (state >> 8) % most + 1
  end
end

local function new_world(seed)
  return {
    random = random_source(seed),
    budget = 120,
    opened = 0, closed = {}, order = {}, -- finalizers: how many, times by number, as they ran
    handles = {}, -- tasks and scopes to cancel
    mutexes = { sync.mutex("m1"), sync.mutex("m2") },
    semaphore = sync.semaphore(3, "s"),
    event = sync.event("e"),
    rate = limit.rate({ per_second = 2000, burst = 2 }),
    adaptive = limit.adaptive({ start = 2, max = 4 }),
    inside = {}, -- mutex → true while a task is in it
    channels = { channel.new(0, "c0"), channel.new(1, "c1"), channel.new(3, "c3") },
    sent = {}, received = {}, -- by channel: how many values
  }
end

-- A value that must be closed once; closing it may wait.
local function tracked(world)
  world.opened = world.opened + 1
  local id = world.opened
  local kind = world.random(3)
  return setmetatable({}, {
    __close = function()
      if kind == 2 then task.sleep(0.0005) end
      if kind == 3 then task.yield() end
      world.closed[id] = (world.closed[id] or 0) + 1
      world.order[#world.order + 1] = id
    end,
  })
end

local grow

local function keep(world, handle)
  world.handles[#world.handles + 1] = handle
end

local function pause(world)
  if world.random(4) == 1 then
    task.yield()
  else
    task.sleep(world.random(20) / 10000)
  end
end

local kinds = {
  pause,

  function(world)
    local _ <close> = tracked(world)
    pause(world)
  end,

  function(world, depth)
    task.scope(function(scope)
      keep(world, scope)
      for _ = 1, world.random(3) do
        local way = world.random(4)
        local start = way == 1 and scope.pspawn or way == 2 and scope.daemon or scope.spawn
        keep(world, start(scope, grow, world, depth))
      end
      if world.random(2) == 1 then
        scope:defer(function()
          local _ <close> = tracked(world)
          task.yield()
        end)
      end
      grow(world, depth)
    end)
  end,

  function(world, depth)
    local scope <close> = task.open_scope()
    keep(world, scope)
    scope:spawn(grow, world, depth)
    grow(world, depth)
  end,

  function(world, depth)
    task.timeout(world.random(30) / 10000, grow, world, depth)
  end,

  function(world, depth)
    task.move_on(world.random(30) / 10000, grow, world, depth)
  end,

  function(world, depth)
    task.shield(world.random(50) / 10000, grow, world, depth)
  end,

  function(world, depth)
    task.map({ 1, 2, 3, 4 }, function()
      grow(world, depth)
    end, { limit = world.random(3), on_error = world.random(2) == 1 and "collect" or "cancel" })
  end,

  function(world, depth)
    task.gather({
      function() grow(world, depth) end,
      function() grow(world, depth) end,
    })
  end,

  function(world, depth)
    pcall(grow, world, depth)
  end,

  function(world, depth)
    local values = coroutine.wrap(function()
      local _ <close> = tracked(world)
      for i = 1, 2 do
        grow(world, depth)
        if i == 1 then pause(world) end
      end
    end)
    values()
  end,

  function(world)
    local waiter = task.waiter("a wake that may come")
    local waker = task.spawn(function()
      pause(world)
      waiter:wake(1)
    end)
    keep(world, waker)
    task.move_on(0.002, waiter.wait, waiter)
  end,

  function(world)
    local handle = world.handles[world.random(#world.handles + 1)]
    if handle then handle:cancel("by the fuzzer") end
  end,

  function(world)
    local handle = world.handles[world.random(#world.handles + 1)]
    if handle and core.task_methods.join == handle.join and handle ~= task.current() then
      task.move_on(0.002, handle.pjoin, handle)
    end
  end,

  function(world)
    if world.random(3) == 1 then error("fuzz " .. world.random(9), 0) end
  end,
}

-- What is shared between the tasks: who is cancelled here must leave it as if it
-- had never come.

local function choose(world, list)
  return list[world.random(#list)]
end

local function count(counts, ch)
  counts[ch] = (counts[ch] or 0) + 1
end

local function send(world, ch)
  ch:send(world.random(3) ~= 1 and world.opened or nil)
  count(world.sent, ch)
end

local function receive(world, ch)
  ch:receive()
  count(world.received, ch)
end

-- Noted, not raised: the tree around catches what is raised in it.
local function expect(world, fact, problem)
  if not fact then world.problem = world.problem or problem end
end

local function is_text(err)
  return type(err) == "string"
end

local shared_kinds = {
  function(world, depth)
    local mutex = choose(world, world.mutexes)
    if mutex.owner == task.current() then return end
    local _ <close> = mutex:lock()
    expect(world, not world.inside[mutex], "two tasks hold one lock")
    world.inside[mutex] = true
    local _ <close> = setmetatable({}, { __close = function() world.inside[mutex] = nil end })
    grow(world, depth)
  end,

  function(world, depth)
    local _ <close> = world.semaphore:acquire(world.random(2))
    expect(world, world.semaphore.used <= 5, "too many permits") -- its largest size
    grow(world, depth)
  end,

  function(world)
    send(world, choose(world, world.channels))
  end,

  function(world)
    receive(world, choose(world, world.channels))
  end,

  function(world)
    local from, to = choose(world, world.channels), choose(world, world.channels)
    local case, result = task.select({
      from, to:sending(1), world.semaphore:acquiring(), world.event, world.random(20) / 10000,
    })
    if case == 1 then count(world.received, from) end
    if case == 2 then count(world.sent, to) end
    if case == 3 then
      local _ <close> = result
      pause(world)
    end
  end,

  function(world)
    if world.random(2) == 1 then
      world.event:set()
      world.event:clear()
    else
      task.move_on(0.002, world.event.wait, world.event)
    end
  end,

  function(world, depth)
    local fns = {
      function() grow(world, depth) end,
      function() pause(world) end,
      function() grow(world, depth) end,
    }
    choose(world, { task.race, task.any, task.settle })(fns)
  end,

  function(world, depth)
    local results <close> = task.imap({ 1, 2, 3, 4, 5 }, function()
      grow(world, depth)
    end, { limit = world.random(3), on_error = world.random(2) == 1 and "collect" or "cancel" })
    for _ = 1, world.random(5) do
      if not results() then break end
    end
  end,

  function(world, depth)
    task.with({ depth = depth }, function()
      grow(world, depth)
      expect(world, task.get("depth") == depth, "inherited values are mixed up")
    end)
  end,

  function(world, depth)
    task.scope({ limit = world.random(2) }, function(scope)
      for _ = 1, 3 do
        keep(world, scope:spawn(grow, world, depth))
      end
    end)
  end,

  function(world)
    world.rate:take(world.random(2))
  end,

  function(world, depth)
    world.adaptive:run(grow, world, depth)
  end,

  function(world, depth)
    retry.call(function() grow(world, depth) end, { attempts = 2, pause = 0, when = is_text })
  end,

  function(world)
    world.semaphore:resize(world.random(4) + 1)
  end,

  function(world, depth)
    local generator = coroutine.wrap(function()
      task.with({ inside = depth }, function()
        grow(world, depth)
        coroutine.yield()
        expect(world, task.get("inside") == depth, "a generator has lost its values")
        grow(world, depth)
      end)
    end)
    local before = task.get("inside")
    generator()
    expect(world, task.get("inside") == before, "a generator's values leak")
    if world.random(2) == 1 then generator() end
  end,
}
table.move(shared_kinds, 1, #shared_kinds, #kinds + 1, kinds)

function grow(world, depth)
  local _ <close> = tracked(world)
  if depth == 0 or world.budget <= 0 then return pause(world) end
  for _ = 1, world.random(3) do
    world.budget = world.budget - 1
    kinds[world.random(#kinds)](world, depth - 1)
  end
end

local function finalizer_problem(world)
  for id = 1, world.opened do
    local times = world.closed[id] or 0
    if times ~= 1 then
      return string.format("finalizer %d of %d ran %d times", id, world.opened, times)
    end
  end
end

local function shared_problem(world)
  for i, mutex in ipairs(world.mutexes) do
    if mutex.owner or mutex.waiting > 0 or not mutex:try_lock() then
      return "lock " .. i .. " is held or waited for"
    end
  end
  if world.semaphore.used > 0 or world.semaphore.waiting > 0 then return "a permit is lost" end
  if world.event.waiting > 0 then return "the event is waited for" end
  if world.rate.waiting > 0 then return "the rate is waited for" end
  if world.adaptive.active + world.adaptive.waiting > 0 then return "a place is lost" end
  for i, ch in ipairs(world.channels) do
    if ch.senders.count + ch.receivers.count > 0 then return "channel " .. i .. " is waited for" end
    local sent, received = world.sent[ch] or 0, world.received[ch] or 0
    if sent ~= received + ch.count then
      return ("channel %d: %d sent, %d received, %d in it"):format(i, sent, received, ch.count)
    end
  end
end

-- Runs one seed, in virtual time, so that it means the same each time; every
-- other one in an order of tasks of its own. Returns what is wrong or
-- nil, and the order in which finalizers ran.
local function run(seed)
  local before = core.stats()
  local world = new_world(seed)
  loop.set_virtual(true)
  local _ <close> = setmetatable({}, {
    __close = function()
      loop.shuffle(nil)
      loop.set_virtual(false)
    end,
  })
  loop.shuffle(seed % 2 == 0 and seed or nil)
  local in_time = task.move_on(5, pcall, task.move_on, world.random(100) / 10000, grow, world, 5)
  if not in_time then return "it hung\n" .. task.tree() end
  local problem = world.problem or finalizer_problem(world) or shared_problem(world)
  if problem then return problem end
  local after = core.stats()
  if after.tasks ~= before.tasks then return "a task is left\n" .. task.tree() end
  if after.waits ~= before.waits then return "a wait is left" end
  return nil, table.concat(world.order, " ")
end

local only = tonumber(os.getenv("SBXLUA_SEED") or "")
local seeds = tonumber(os.getenv("SBXLUA_SEEDS") or "") or 10000

test("cancellation: nothing is lost in random trees of scopes", { timeout = 1e6 }, function()
  for seed = only or 1, only or seeds do
    local problem = run(seed)
    assert(not problem, "seed " .. seed .. ": " .. tostring(problem))
  end
end)

test("cancellation: a seed means the same each time", { timeout = 1e6 }, function()
  for seed = 1, 200 do
    local problem, order = run(seed)
    assert(not problem and order ~= "", problem)
    assert(select(2, run(seed)) == order, "seed " .. seed .. " went another way the second time")
  end
end)
