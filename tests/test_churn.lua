-- A day of a busy server in simulated time: sandboxes come and go under chaos, with
-- requests over real sockets and the state on the disk. In the end every one of them is
-- accounted for, and nothing has grown: memory, descriptors, rows.
--
-- Minutes of it in the suite; a whole day with SBXLUA_CHURN=24 (hours).

local fs = require("sbx.fs")
local http = require("sbx.http")
local json = require("sbx.json")
local sqlite = require("sbx.core.sqlite")
local state = require("sbx.server.state")
local task = require("sbx.task")
local test_module = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "sim_support.lua")

local HOURS = tonumber(os.getenv("SBXLUA_CHURN") or "")
local SECONDS = HOURS and HOURS * 3600 or 130
local KEPT = 40 -- ended sandboxes
local WORKERS = HOURS and 6 or 8
local LONG = HOURS and 10 or 2 -- minutes that a sandbox may live
local PAUSE = HOURS and { 20, 200 } or { 1, 4 } -- seconds between two sandboxes of a worker

local CHAOS = {
  all = {
    latency = { p50 = 0.05, p99 = 2 }, lost = 0.02, cut = 0.02, duplicate = 0.05,
    answers = { [429] = 0.03, [500] = 0.02, [503] = 0.02, [504] = { p = 0.02, after = true } },
  },
  clock = { offset = 30 },
  sandboxes = { image_pull = 0.05, boot = { 0, 20 },
    -- In minutes, too, so many that some die is no matter of luck.
    death = HOURS and { p = 0.2, after = { 5, 900 } } or { p = 0.5, after = { 5, 60 } },
  },
}

-- A request; nil where trouble came of it.
local function call(running, method, path, body, token)
  local ok, res = pcall(http.request, method, path:find("^http") and path
    or running.url .. "/api/v1" .. path, {
    headers = { Authorization = "Bearer " .. (token or running.api_key) }, json = body,
    timeout = 60, at_most_once = true,
  })
  if not ok or res.status >= 300 then return nil end
  return json.decode(res.body)
end

-- The life of one sandbox, as far as trouble lets it. Some are left to their time.
local function live(running, random, number)
  local made = call(running, "POST", "/sandbox", {
    name = "churn-" .. number, docker_image = "x", timeout_minutes = random(2) == 1 and 1 or LONG,
    idempotency_key = random(4) == 1 and "key-" .. random(50) or nil,
    labels = { "churn", "n" .. number % 5 }, secrets = { TOKEN = "secret-" .. number },
  })
  if not made then return end
  task.sleep(random(25))
  local auth = call(running, "POST", ("/sandbox/%s/auth"):format(made.id))
  if auth then
    local base = ("%s/%s/%s"):format(auth.gateway_url, auth.user_ns, auth.job_id)
    call(running, "POST", base .. "/exec", {
      command = "echo a > f; (sleep 500; echo b > f) > /dev/null 2>&1 & sleep 2; cat f",
      timeout = 60,
    }, auth.token)
    call(running, "GET", base .. "/read-file?path=f", nil, auth.token)
  end
  if random(3) == 1 then
    local exposed = call(running, "POST", ("/sandbox/%s/expose"):format(made.id), { port = 8000 })
    if exposed and random(2) == 1 then
      call(running, "DELETE", ("/sandbox/%s/expose/%s"):format(made.id, exposed.exposure_id))
    end
  end
  call(running, "GET", "/sandbox?labels=churn&is_active=true")
  local way = random(4)
  if way <= 2 then
    call(running, "DELETE", "/sandbox/" .. made.id)
  elseif way == 3 then
    call(running, "DELETE", "/sandbox", { sandbox_ids = { made.id } })
  end
end

local function worker(running, index, until_when)
  local random = require("sbx.server.dice").new("churn " .. index)
  local number = index
  while task.now() < until_when do
    live(running, random, number)
    task.sleep(random(PAUSE[1], PAUSE[2]))
    number = number + WORKERS
  end
end

local function descriptors()
  return #fs.list("/proc/self/fd")
end

local function measure()
  http.close_idle()
  task.sleep(5)
  collectgarbage()
  collectgarbage()
  local status = fs.read("/proc/self/status")
  return {
    heap = collectgarbage("count") * 1024, descriptors = descriptors(), tasks = #task.list(),
    resident = (tonumber(status:match("VmRSS:%s*(%d+)")) or 0) * 1024,
  }
end

-- How many sandboxes came to which end, from the server's own events.
local function watch(running, counts)
  running.fleet.events:observe(function(event)
    local kind = event.kind
    if kind == "ended" then
      local record = running.fleet.store:get(event.sandbox_id)
      kind = record.status == "TERMINATED" and "deleted"
        or record.status == "TIMEOUT" and "timed_out"
        or record.error_type == "IMAGE_PULL_FAILED" and "not_pulled" or "died"
    end
    counts[kind] = (counts[kind] or 0) + 1
  end)
end

-- Runs `fn` and moves the clock on until it has ended.
local function at_once(clock, fn)
  local running = task.spawn(fn)
  while running.status ~= "done" and running.status ~= "failed" do
    clock:advance(5)
  end
  return running:join()
end

local function rows(folder)
  local database <close> = sqlite.open(folder .. "/state.db")
  local found = {}
  for _, name in ipairs { "sandboxes", "exposures", "idempotency", "events" } do
    found[name] = database:transaction { { "SELECT count(*) AS n FROM " .. name } }[1][1].n
  end
  return found
end

local function check(counts, samples, alive)
  local created = counts.created or 0
  local ended = (counts.deleted or 0) + (counts.timed_out or 0) + (counts.died or 0)
    + (counts.not_pulled or 0)
  assert(created == ended + alive, ("%d created, %d ended, %d alive"):format(created, ended, alive))
  local first, last = samples[2] or samples[1], samples[#samples]
  -- Events (the last 2000), idempotency keys of a day, the figures of the metrics.
  assert(last.heap < first.heap + 3e6,
    ("heap %.0f to %.0f"):format(first.heap, last.heap))
  assert(last.descriptors <= samples[1].descriptors + 2,
    ("descriptors %d to %d"):format(samples[1].descriptors, last.descriptors))
  assert(last.tasks <= samples[1].tasks + 1,
    ("tasks %d to %d"):format(samples[1].tasks, last.tasks))
end

test("a churning server accounts for every sandbox, and grows by nothing",
  { timeout = HOURS and HOURS * 200 + 60 or 400 }, function()
    local folder <close> = fs.tmpdir()
    local clock = test_module.clock()
    local counts, samples = {}, {}
    do
      local kept <close> = state.open(folder.path .. "/state")
      support.with_server({ chaos = CHAOS, seed = 4, state = kept }, function(running)
        -- What ended is remembered; to see what grows besides, not for long.
        running.fleet.store.keep = KEPT
        watch(running, counts)
        at_once(clock, function()
          samples[1] = measure()
          local until_when = task.now() + SECONDS
          local workers = task.spawn(function()
            task.scope(function(scope)
              for index = 1, WORKERS do
                scope:spawn(worker, running, index, until_when)
              end
            end)
          end)
          for _ = 1, 8 do
            task.sleep(SECONDS / 8)
            samples[#samples + 1] = measure()
            local one = samples[#samples]
            if HOURS then
              print(("%6.0f s: %d created, heap %.1f MB, %.1f MB in all, %d descriptors, %d tasks")
                :format(clock:elapsed(), counts.created, one.heap / 1e6, one.resident / 1e6,
                  one.descriptors, one.tasks))
            end
          end
          workers:join()
          task.sleep(LONG * 60 + 90) -- the last of them are over their time
          samples[#samples + 1] = measure()
        end)
        local alive = #running.fleet.store:list({ active = true })
        assert(alive == 0, alive .. " are still alive")
        assert(next(running.fleet.living) == nil)
        check(counts, samples, alive)
      end)
    end
    local found = rows(folder.path .. "/state")
    if HOURS then print(json.encode({ counts = counts, rows = found }, { sort_keys = true })) end
    assert(found.sandboxes == KEPT, json.encode(found))
    assert(found.exposures == 0, json.encode(found))
    assert(found.idempotency <= 50)
    for _, kind in ipairs { "deleted", "timed_out", "died" } do
      assert((counts[kind] or 0) > 0, json.encode(counts))
    end
  end)
