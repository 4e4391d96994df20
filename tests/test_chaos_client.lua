-- Our own client against a server in trouble: a fleet script under each kind of it ends,
-- gets no wrong answer, and leaves nothing behind. All kinds, with several seeds each:
-- SBXLUA_CHAOS=20 SBXLUA_CHAOS_SEED=7 sbxlua test FILE

local errors = require("sbx.errors")
local hash = require("sbx.hash")
local run = require("sbx.run")
local task = require("sbx.task")
local test_module = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "sim_support.lua")
local profiles = dofile(here .. "chaos_profiles.lua")

local MANY = math.tointeger(tonumber(os.getenv("SBXLUA_CHAOS") or ""))
local SEEDS = MANY or 1
local FIRST_SEED = math.tointeger(tonumber(os.getenv("SBXLUA_CHAOS_SEED") or "") or 1)
local FLEET = MANY and 6 or 3
local WHOLE_RUN = 3600 -- simulated seconds

-- What may come of trouble: an error object that is no misuse and no bug of ours.
local function check_failure(problems, where, err)
  if errors.is_error(err) and err.kind ~= "assertion" then return end
  problems[#problems + 1] = where .. ": " .. tostring(err)
end

local function claim(problems, where, holds, words)
  if not holds then problems[#problems + 1] = ("%s: %s"):format(where, tostring(words)) end
end

-- The life of one sandbox. A step that raises ends it; one that answers must be right.
local function live(client, number, problems, done)
  local where = "sandbox " .. number
  local box <close> = client:create { name = "fleet-" .. number, docker_image = "x" }
  done("created")
  box:wait { timeout = 600 }
  local result = client:execute_command(box, ("echo %d; exit %d"):format(number, number))
  claim(problems, where, result.stdout == number .. "\n" and result.exit_code == number,
    "exec said " .. result.stdout .. result.exit_code)
  done("exec")
  local content = hash.random_hex(5000)
  client:upload_bytes(box.id, "/tmp/a", content)
  claim(problems, where, client:download_bytes(box.id, "/tmp/a") == content, "another file")
  done("files")
  -- Counted in the sandbox: it must not have run twice.
  local spooled = client:execute_command(box, "echo x >> /tmp/count; cat /tmp/count; exit 3", {
    spool = true, timeout = 120,
  })
  claim(problems, where, spooled.stdout == "x\n" and spooled.exit_code == 3,
    "spooled said " .. spooled.stdout .. spooled.exit_code)
  done("spooled")
  local job = client:run_background_job(box,
    "echo begun >> /tmp/job; cat /tmp/job; sleep 5; exit 4", { timeout = 300, poll = 5 })
  claim(problems, where, job.exit_code == 4 and job.stdout == "begun\n",
    ("job said %s %s"):format(job.exit_code, job.stdout))
  done("job")
end

-- Runs `fn` and moves the clock on until it has ended.
local function at_once(fn)
  local clock = test_module.clock()
  local began = clock:elapsed()
  local running = task.pspawn(fn)
  local ended = { done = true, failed = true, cancelled = true }
  while not ended[running.status] do
    clock:advance(1)
    assert(clock:elapsed() - began < WHOLE_RUN, task.tree())
  end
  return running:join()
end

local function run_fleet(name, seed)
  local problems, steps = {}, {}
  support.with_server({ chaos = profiles[name], seed = seed }, function(running)
    at_once(function()
      local client = support.client(running)
      task.map(table.move({ 1, 2, 3, 4, 5, 6 }, 1, FLEET, 1, {}), function(number)
        local ok, err = pcall(live, client, number, problems, function(step)
          steps[step] = (steps[step] or 0) + 1
        end)
        if not ok then check_failure(problems, "sandbox " .. number, err) end
        return true
      end, { limit = FLEET })
      client:close()
      -- As at the end of a script: what could not be deleted in its place goes now.
      for _, failure in ipairs(run.finish()) do
        problems[#problems + 1] = tostring(failure)
      end
    end)
    local left = running.fleet.store:list({ active = true })
    for _, record in ipairs(left) do
      problems[#problems + 1] = ("left: %s %s"):format(record.spec.name, record.status)
    end
  end)
  local where = ("%s, seed %d:\n"):format(name, seed)
  assert(#problems == 0, where .. table.concat(problems, "\n"))
  return steps
end

-- Trouble that none of the calls is to notice.
local harmless = { calm = true, throttled = true, early_clock = true, wrong_clock = true }

-- Without SBXLUA_CHAOS these only: the others take longer.
local usual = { "cut", "twice", "late_gateway", "throttled", "conflicts" }

local names = {}
for name in pairs(profiles) do
  names[#names + 1] = name
end
table.sort(names)

for _, name in ipairs(MANY and names or usual) do
  test("a fleet under chaos: " .. name, { timeout = MANY and 300 * SEEDS or 60 }, function()
    for seed = FIRST_SEED, FIRST_SEED + SEEDS - 1 do
      local steps = run_fleet(name, seed)
      assert((steps.created or 0) > 0, "nothing was created")
      if harmless[name] then
        assert(steps.job == FLEET, ("%s: %s of %d came through"):format(name, steps.job, FLEET))
      end
    end
  end)
end
