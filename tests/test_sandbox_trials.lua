-- Trials: a run that makes 100 sandboxes is hit by a signal at a random moment, while
-- the server takes up to two seconds for each answer. Nothing of the run may be left,
-- and nothing of another run may be missing.
--
-- A few of them run with the suite. Many, as before a release:
--
--   SBXLUA_TRIALS=200 sbxlua test -k trials tests/test_sandbox_trials.lua
--
-- One that failed tells its seed, and runs alone with SBXLUA_TRIALS=1
-- SBXLUA_TRIAL_SEED=N.

local fs = require("sbx.fs")
local task = require("sbx.task")
local time = require("sbx.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local support = dofile(here .. "run_support.lua")

local TRIALS = tonumber(os.getenv("SBXLUA_TRIALS") or "") or 12
local SEED = tonumber(os.getenv("SBXLUA_TRIAL_SEED") or "")
local AT_ONCE = tonumber(os.getenv("SBXLUA_TRIALS_AT_ONCE") or "") or 12

local SLOWEST = 2 -- seconds for one answer
local LATEST = 6 -- seconds after its start that a run is hit
local OTHERS = 20
local GONE_WITHIN = 15 -- seconds from the signal

local signals = { "INT", "TERM", "HUP", "KILL" }
local numbers = { INT = 2, TERM = 15, HUP = 1, KILL = 9 }

-- Makes all at once and holds them; or makes, uses and deletes them one after the
-- other; or deletes every second one.
local scripts = {
  [[client:create(wanted(i))]],
  [[
    local box <close> = client:create(wanted(i))
    task.sleep(math.random() * 3)
    if i % 3 == 0 then box:exec("true") end
  ]],
  [[
    local box = client:create(wanted(i))
    if i % 2 == 0 then box:delete() end
  ]],
}

local VICTIM = [[
  local task = require("sbx.task")
  local client = require("sbx.sandbox").client()
  local function wanted(i) return { name = "victim-" .. i, docker_image = "x" } end
  local list = {}
  for i = 1, 100 do list[i] = i end
  task.map(list, function(i) %s end, { limit = %d })
  %s
]]

local OTHER = ([[
  local client = require("sbx.sandbox").client()
  for i = 1, %d do client:create({ name = "other-" .. i, docker_image = "x" }) end
  print("ready") io.stdout:flush()
  require("sbx.task").sleep(600)
]]):format(OTHERS)

-- Mostly it is hit while it works; or while the end of the run cleans up.
local ends = { "task.sleep(600)", "task.sleep(600)", "error('the end of the script', 0)" }

-- Numbers of its own for each trial, whatever the others do meanwhile.
local function generator(seed)
  local x = (seed * 2654435761 + 1) & 0xffffffff
  local function next_number()
    x = (x * 1664525 + 1013904223) & 0xffffffff
    return (x >> 8) / (1 << 24)
  end
  next_number()
  return next_number
end

-- A server that is slow once `slow` is set. What it was asked for it does, before or
-- after the wait, also when nobody waits for the answer any more.
---@async
local function slow_server(random)
  local self = { slow = false, busy = 0 }

  -- In some trials only creates are slow: what is not there yet comes later.
  local others = random() < 0.5 and SLOWEST or 0.02

  local function slowly(fn, slowest)
    return function(call, server)
      if not self.slow then return nil end
      self.busy = self.busy + 1
      local first = random() < 0.5
      local result = first and table.pack(fn(call, server)) or nil
      time.sleep(random() * slowest)
      result = result or table.pack(fn(call, server))
      self.busy = self.busy - 1
      return table.unpack(result, 1, result.n)
    end
  end

  local handlers = {}
  for _, op in ipairs({ "create", "delete", "bulk_delete", "list", "get", "exec", "auth" }) do
    local slowest = op == "create" and SLOWEST or others
    handlers[op] = slowly(function(call, server) return api.usual[op](server, call) end, slowest)
  end
  self.api = api.start(handlers)
  return self
end

local function of_victim(server)
  local ids = {}
  for id, object in pairs(server.sandboxes) do
    if object.name:find("^victim") then ids[#ids + 1] = id end
  end
  return ids
end

local function count_others(server)
  local count = 0
  for _, object in pairs(server.sandboxes) do
    if object.name:find("^other") then count = count + 1 end
  end
  return count
end

-- Until nothing is under way in the server any more.
---@async
local function await_quiet(slow)
  while slow.busy > 0 do
    time.sleep(0.02)
  end
end

-- Whether a script that ends by itself has done so before the signal.
local function ended_before(run, code)
  return code == 1 and run.text.stderr:find("the end of the script", 1, true) ~= nil
end

---@async
local function end_killed(run, env)
  local code = run:finish()
  assert(code == 128 + 9 or ended_before(run, code), code)
  local result = support.run({ "gc", "--yes" }, { env = env, timeout = 120 })
  assert(result.code == 0, result.stderr)
  return result.stderr
end

---@async
local function one_trial(seed)
  local random = generator(seed)
  local name = signals[seed % 4 + 1]
  local slow = slow_server(random)
  local server <close> = slow.api
  local folder <close> = fs.tmpdir({ prefix = "trial" })
  local env = {
    PRIME_API_BASE_URL = server.url, PRIME_API_KEY = api.KEY, XDG_STATE_HOME = folder.path,
  }
  local other <close> = support.start({ "-e", OTHER }, env)
  other:await("stdout", "ready")
  slow.slow = true

  local function one_of(list) return list[math.floor(random() * #list) + 1] end
  local code = VICTIM:format(one_of(scripts), one_of({ 100, 100, 20 }), one_of(ends))
  local victim <close> = support.start({ "-e", code }, env)
  time.sleep(random() * LATEST)
  local before = #of_victim(server)
  victim:kill(name)
  local hit = time.now()
  local said
  if name == "KILL" then
    said = end_killed(victim, env)
    await_quiet(slow)
  else
    local status = victim:finish()
    said = victim.text.stderr
    assert(status == 128 + numbers[name] or ended_before(victim, status),
      ("exit status %d: %s"):format(status, said))
    assert(not said:find("while cleaning up", 1, true), said)
    await_quiet(slow)
    assert(time.now() - hit < GONE_WITHIN, ("it took %.1f s: %s"):format(time.now() - hit, said))
  end
  local left = of_victim(server)
  assert(#left == 0, ("%d are left of %d, such as %s: %s"):format(#left, before, left[1], said))
  assert(count_others(server) == OTHERS, "another run has lost sandboxes")

  slow.slow = false
  other:kill("TERM")
  assert(other:finish() == 143 and next(server.sandboxes) == nil, other.text.stderr)
  assert(#fs.list(folder.path .. "/sbxlua/runs") == 0, "a ledger is left")
  return { signal = name, before = before, seconds = time.now() - hit }
end

test("trials: whatever hits a run, nothing of it is left", { timeout = 3600 }, function()
  local first = SEED or math.random(1 << 30)
  print(("trials: %d, seeds %d to %d"):format(TRIALS, first, first + TRIALS - 1))
  local seeds = {}
  for i = 1, TRIALS do
    seeds[i] = first + i - 1
  end
  local results, failures = task.map(seeds, one_trial, { limit = AT_ONCE, on_error = "collect" })
  for i, err in pairs(failures) do
    error(("seed %d (%s): %s"):format(seeds[i], signals[seeds[i] % 4 + 1], tostring(err)), 0)
  end
  local made, slowest = 0, 0
  for _, result in ipairs(results) do
    made = made + result.before
    if result.signal ~= "KILL" then slowest = math.max(slowest, result.seconds) end
  end
  print(("trials: %d sandboxes had been made when the signals came; the slowest end took %.1f s")
    :format(made, slowest))
end)
