-- What the governor makes of the limits that servers have: a simulated server on the
-- virtual clock, and two processes before a real one.

local fs = require("sbx.fs")
local governor = require("sbx.sandbox.governor")
local host = require("sbx.core.host")
local process = require("sbx.process")
local state = require("sbx.sandbox.state")
local sync = require("sbx.sync")
local task = require("sbx.task")
local test_module = require("sbx.test")
local time = require("sbx.core.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local limiters = dofile(here .. "peers/limiters.lua")

local CONFIG = { api_key = "test-key-4711", base_url = "http://api.example", is_local = false }
local LIBRARY = os.getenv("SBXLUA_LUA")
local VIRTUAL = { clock = "virtual" }

-- Sends one request; the server's answer is what `answer()` returns.
---@async
local function send(g, class, answer, id)
  local grant <close> = assert(g:admit(class, id, math.huge, false))
  local reply = answer()
  g:learn(grant, { status = reply.status, headers = reply.headers or {},
    retry_after = reply.retry_after })
  return reply
end

local function ok() return { status = 200 } end

-- Lets governors send until the server has taken `total`, and says how many it
-- refused, how many of each it took, and how long that was.
---@async
local function drive(governors, limiter, options)
  local result = { refused = 0, taken = {}, all = 0 }
  local start, over = time.now(), sync.event("all are taken")
  local function serve(i)
    local taken, wait = limiter(time.now() - start)
    if not taken then
      result.refused = result.refused + 1
      return { status = 429, retry_after = options.round(wait) }
    end
    result.taken[i] = (result.taken[i] or 0) + 1
    result.all = result.all + 1
    if result.all == options.total then over:set() end
    return { status = 201 }
  end
  task.scope(function(scope)
    for i, g in ipairs(governors) do
      for _ = 1, 20 do
        scope:daemon(function()
          while true do
            send(g, "create", function()
              task.sleep(options.latency / 2)
              local reply = serve(i)
              task.sleep(options.latency / 2)
              return reply
            end)
          end
        end)
      end
    end
    over:wait()
  end)
  result.took = time.now() - start
  return result
end

local rounds = {
  up = math.ceil,
  exact = function(seconds) return seconds end,
  down = math.floor,
}

local limits = {
  window = function() return limiters.window(50, 10) end,
  ["window of the clock"] = function() return limiters.window(50, 10, -7) end,
  ["window of the clock, just over"] = function() return limiters.window(50, 10, -9.9) end,
  sliding = function() return limiters.sliding(50, 10) end,
  bucket = function() return limiters.bucket(50, 5) end,
}

for name, make in pairs(limits) do
  test("governor: learns a limit from refusals: " .. name, VIRTUAL, function()
    for how, round in pairs(rounds) do
      local found = drive({ governor.new(CONFIG) }, make(), {
        total = 150, latency = 0.02, round = round,
      })
      local text = ("%s: %d refused in %.1f s"):format(how, found.refused, found.took)
      assert(found.refused <= 3, text)
      assert(found.took < 45, text)
    end
  end)
end

test("governor: a limit is learnt from refusals that name no time, too", VIRTUAL, function()
  local found = drive({ governor.new(CONFIG) }, limiters.window(50, 10), {
    total = 150, latency = 0.02, round = function() return nil end,
  })
  assert(found.refused <= 8 and found.took < 60, found.refused .. " " .. found.took)
end)

test("governor: a limit far below the published one", VIRTUAL, function()
  local found = drive({ governor.new(CONFIG) }, limiters.bucket(2, 0.2), {
    total = 40, latency = 0.02, round = math.ceil,
  })
  assert(found.refused <= 20, found.refused)
  assert(found.took < 400, found.took)
end)

test("governor: the published limit is kept without any refusal", VIRTUAL, function()
  local found = drive({ governor.new(CONFIG) }, limiters.sliding(500, 60), {
    total = 1000, latency = 0.02, round = math.ceil,
  })
  assert(found.refused == 0 and found.took < 130, found.refused .. " " .. found.took)
end)

test("governor: two that share a file share a limit", VIRTUAL, function()
  local outer <close> = fs.tmpdir({})
  state.use(outer.path .. "/state")
  test_module.after(function() state.use(false) end)
  for _, make in ipairs({ limits.window, limits.bucket }) do
    local found = drive({ governor.new(CONFIG), governor.new(CONFIG) }, make(), {
      total = 100, latency = 0.02, round = math.ceil,
    })
    assert(found.refused <= 3, found.refused)
    assert(found.taken[1] >= 40 and found.taken[2] >= 40, found.taken[1])
    fs.remove(state.folder("limits"), { recursive = true })
  end
end)

test("governor: what was learnt is given up slowly", VIRTUAL, function()
  local g = governor.new(CONFIG)
  drive({ g }, limiters.window(50, 10), { total = 60, latency = 0.02, round = math.ceil })
  local function rate()
    local start = time.now()
    for _ = 1, 20 do
      send(g, "create", ok)
    end
    return 20 / (time.now() - start)
  end
  local learnt = rate()
  assert(learnt > 3 and learnt < 5.1, learnt)
  task.sleep(62)
  local later = rate()
  assert(later > learnt * 1.05 and later < learnt * 1.2, later)
  task.sleep(3600)
  assert(rate() > 20, "it is as it was at first")
end)

-- ---------------------------------------------------------------- two processes

-- Creates as fast as it may, until the server has had enough, and says what else
-- reached it.
local WORKER = [[
local sandbox, task, errors = require("sbx.sandbox"), require("sbx.task"), require("sbx.errors")
require("sbx.log").set_level("off")
local client <close> = sandbox.client()
task.scope(function(scope)
  for _ = 1, 40 do
    scope:spawn(function()
      while true do
        local wanted = { name = arg[1], docker_image = "x", keep = true }
        local box, err = errors.try(client.create, client, wanted)
        if not box then return print(err) end
      end
    end)
  end
end)
]]

-- Two processes of one user, until they have created 150 sandboxes together.
---@async
local function race(limiter)
  local counts, refused, total, over = { one = 0, two = 0 }, 0, 0, sync.event("enough")
  local server <close> = api.start({ create = function(call)
    local taken, wait = limiter(task.now())
    if not taken then
      refused = refused + 1
      return 429, { detail = "slow down" }, { ["retry-after"] = tostring(math.ceil(wait)) }
    end
    counts[call.body.name] = counts[call.body.name] + 1
    total = total + 1
    if total == 150 then over:set() end
  end })
  server.limited = true
  local home <close> = fs.tmpdir({})
  local workers, said = {}, {}
  for name in pairs(counts) do
    workers[name] = process.spawn({ host.executable(), "-e", WORKER, name }, {
      stdout = "pipe", clear_env = true, env = {
        PATH = os.getenv("PATH"), SBXLUA_LUA = LIBRARY, XDG_STATE_HOME = home.path,
        PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url,
      },
    })
  end
  task.timeout(100, over.wait, over)
  local shares = { counts.one, counts.two }
  for name, worker in pairs(workers) do
    worker:kill("KILL")
    said[#said + 1] = worker.stdout:read() or ""
    worker:wait()
    assert(name)
  end
  assert(table.concat(said) == "", "an error reached Lua: " .. table.concat(said))
  assert(refused <= 0.02 * (150 + refused), refused .. " of 150 and more were refused")
  assert(math.min(table.unpack(shares)) >= 60, shares[1] .. " and " .. shares[2])
end

test("governor: two processes keep to one limit and share it evenly", { timeout = 180 }, function()
  task.gather({
    function() race(limiters.window(50, 10)) end,
    function() race(limiters.bucket(50, 5)) end,
  })
end)
