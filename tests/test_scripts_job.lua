-- scripts/long_job.lua: a command that outlives its requests, in a sandbox of its
-- own and in one that stays.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local local_server = require("sbx.local_server")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local support = dofile(here .. "run_support.lua")
local task = require("sbx.task")
local watch = dofile(here .. "leftover_support.lua")

local script = here .. "../scripts/long_job.lua"

---Calls `fn(box, env)` with a sandbox that stays, and the environment that leads a
---run to its server.
---@async
local function with_box(fn)
  local server = local_server.start({ stderr = function() end })
  local ok, err = xpcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    local box <close> = client:create({ name = "kept", docker_image = "python:3.11-slim" })
    box:wait()
    fn(box, { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = server.api_key })
  end, function(err) return type(err) == "string" and debug.traceback(err) or err end)
  run.finish()
  server.stop()
  if not ok then error(err, 0) end
end

test("long_job: output is exact, whatever its bytes, and a failure is status 1", function()
  local command = [[
    for _ in 1 2 3; do head -c 150000 /dev/zero | tr '\0' '\377'; sleep 0.2; done
    printf 'ü\n'; echo "it's \"$PWD\"" >&2; exit 3]]
  local result = support.run({ "--local", script, "--folder", "/var", command })
  assert(result.code == 1 and result.stderr:find("exit code 3\n", 1, true), result.stderr)
  assert(result.stdout == ("\xff"):rep(450000) .. "ü\nit's \"/var\"\n", #result.stdout)
end)

test("long_job: a command that is killed with its shell does not hang it", function()
  local result = support.run({ "--local", script, "echo begun; kill -9 $PPID $$" })
  assert(result.code == 1 and result.stdout == "begun\n", result.stderr)
  assert(result.stderr:find("ended without an exit code", 1, true), result.stderr)
end)

test("long_job: looks that fail are made again, and nothing is shown twice or lost", function()
  with_box(function(box)
    local looks = 0
    local server <close> = api.start({
      exec = function(call)
        local body = call.body
        if body.env.FROM then looks = looks + 1 end
        if looks == 2 and body.env.FROM then return 500, { message = "broken" } end
        local result = box:exec(body.command, { env = body.env, timeout = body.timeout })
        if looks == 3 and body.env.FROM then return 200, "no JSON" end -- done, but not told
        return 200, result
      end,
    })
    server:add("sbx-1")
    local result = support.run(
      { script, "--sandbox", "sbx-1", "for i in 1 2 3 4; do echo $i; sleep 0.1; done" },
      { env = { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = api.KEY } })
    assert(result.code == 0 and result.stdout == "1\n2\n3\n4\n", result.stderr)
    local _, failed = result.stderr:gsub("a look failed, the next one is in", "")
    assert(failed == 2 and result.stderr:find("broken", 1, true), result.stderr)
    assert(server:count("delete") == 0)
  end)
end)

test("long_job: gives up when looks keep failing, and at once when the sandbox is gone", function()
  local server <close> = api.start({
    exec = function(call)
      if call.body.env.FROM then return 500, { message = "broken" } end
    end,
  })
  server:add("sbx-1")
  local env = { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = api.KEY }
  local words = { script, "--sandbox", "sbx-1", "--patience", "500ms", "true" }
  local result = support.run(words, { env = env })
  assert(result.code == 1 and result.stderr:find("broken", 1, true), result.stderr)

  server.handlers.exec = function(call)
    if call.body.env.FROM then return 502, { error = "sandbox_not_found", message = "Gone" } end
  end
  result = support.run({ script, "--sandbox", "sbx-1", "true" }, { env = env })
  assert(result.code == 1 and result.stderr:find("is not running", 1, true), result.stderr)
  assert(not result.stderr:find("a look failed", 1, true), result.stderr)
end)

test("long_job: Ctrl-C ends all of the command in a sandbox that stays", function()
  with_box(function(box, env)
    local stubborn = "echo begun; (trap '' TERM; sleep 4711) & sleep 4711"
    local going <close> = support.start({ script, "--sandbox", box.id, stubborn }, env)
    going:await("stdout", "begun\n")
    local count = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^4711$'"
    task.timeout(20, function()
      while box:exec(count).stdout ~= "2\n" do
        task.sleep(0.02)
      end
    end)
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
    assert(box:exec(count).stdout == "0\n")
    assert(box:exec("echo still here").stdout == "still here\n")
  end)
end)

test("long_job: Ctrl-C leaves nothing of a sandbox of its own", function()
  watch.run(function(start, look)
    local going <close> = start({ script, "echo begun; sleep 600" })
    going:await("stdout", "begun\n") -- while it runs: output comes as it is made
    assert(look(going.pid) >= 4)
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
  end)
end)
