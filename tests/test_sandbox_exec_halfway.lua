-- Spooled commands whose client is gone, whose scripts are killed halfway, whose gateway
-- gets lost: what they started is ended in time, and what is said of them is true.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local faults = dofile(here .. "fault_support.lua")
local log = require("sbx.log")
local run_support = dofile(here .. "run_support.lua")
local support = dofile(here .. "sandbox_exec_support.lua")
local api, kind = support.api, support.kind
local task = require("sbx.task")

local LOCKS = "%.sbx%-[%x.shin]+\n"

test("exec: a deadline is kept though the client is killed", { timeout = 180 }, function()
  support.with_box(function(box, client)
    local child <close> = run_support.start({ "-e", ([[
      local client = require("sbx.sandbox").client()
      client:execute_command(%q, "trap '' TERM; (trap '' TERM; setsid sleep 4711 &) "
        .. "; echo begun; while :; do sleep 4712; done", {
        deadline = 4, on_stdout = function() print("begun") end,
      })]]):format(box.id) }, {
      PRIME_API_KEY = client.config.api_key, PRIME_API_BASE_URL = client.base_url,
    })
    child:await("stdout", "begun")
    child:kill("KILL")
    support.await(box, "test -e /tmp/.sbx-*/exit")
    support.await_nothing(box, LOCKS)
    assert(box:exec("cat /tmp/.sbx-*/exit").stdout == "137\n")
  end)
end)

test("exec: a command that the sandbox ended at its deadline is a command_timeout", function()
  -- The sandbox's deadline comes while the client is held up before its own.
  support.with_relay(function(call)
    call.body.command = call.body.command:gsub('"%$c" 33 >', '"$c" 1 >')
  end, function(client, box)
    local seen = ""
    local err = api.failure(client.execute_command, client, "sbx-1",
      "trap '' TERM; echo partly; while :; do sleep 4711; done", {
        timeout = 30, spool = true,
        on_stdout = function(bytes)
          seen = seen .. bytes
          support.await(box, "test -e /tmp/.sbx-*/exit")
        end,
      })
    assert(err.kind == "command_timeout" and err.outcome == "exited", tostring(err))
    assert(seen == "partly\n")
    support.await_nothing(box)
  end)
end)

-- ------------------------------------------------------- scripts ended halfway

local COUNT = "echo ran >> /var/tmp/count; echo out; exit 4"

test("spool: a start killed after the command began does not say that it did not", function()
  local function killed(call, pass)
    if kind(call) ~= "start" then return nil end
    pass(call)
    return 200, { stdout = "", stderr = "Killed", exit_code = 137 }
  end
  support.with_relay(killed, function(client, box)
    local result = client:execute_command("sbx-1", COUNT, { spool = true })
    assert(result.exit_code == 4 and result.stdout == "out\n")
    assert(box:exec("cat /var/tmp/count").stdout == "ran\n")
    support.await_nothing(box)
  end)
end)

test("spool: a start killed before that is not_started, and it never runs", function()
  for _, status in ipairs({ 2, 127, 137 }) do
    local late
    local function killed(call, pass)
      if kind(call) ~= "start" then return nil end
      late = function() return pass(call) end
      return 200, { stdout = "", stderr = "Cannot fork", exit_code = status }
    end
    support.with_relay(killed, function(client, box)
      local err = api.failure(client.execute_command, client, "sbx-1", COUNT, { spool = true })
      assert(err.outcome == "not_started" and err.message:find("Cannot fork"), tostring(err))
      support.await_nothing(box)
      assert(late and box:exec("test -e /var/tmp/count").exit_code == 1)
    end)
  end
end)

test("spool: a start that cannot fork says so, and is not waited for", function()
  support.with_relay(function(call)
    -- What a shell does that cannot fork.
    call.body.command = call.body.command:gsub('%$s "%$%(command %-v sh%)"', "exit 2; %0")
  end, function(client, box)
    local err = api.failure(client.execute_command, client, "sbx-1", COUNT, { spool = true })
    assert(err.outcome == "not_started", tostring(err))
    support.await_nothing(box)
  end)
end)

test("spool: a sandbox that is over before the start, or between the looks, is named", function()
  for _, which in ipairs({ "start", "look" }) do
    for error_type, wanted in pairs({ OOM_KILLED = "oom", other = "not_running" }) do
      local server <close> = api.start({
        exec = function(call)
          if kind(call) == which then return 502, { error = "sandbox_not_found" } end
          return 200, { stdout = "run 0 0 base64\n.\n.\n", stderr = "", exit_code = 0 }
        end,
        context = function() return 200, { status = "ERROR", errorType = error_type } end,
      })
      server:add("sbx-1")
      local client <close> = server:client()
      local err = api.failure(client.execute_command, client, "sbx-1", "x", { deadline = 9 })
      assert(err.kind == wanted, tostring(err))
      assert(err.outcome == (which == "start" and "not_started" or "unknown"), err.outcome)
      err = api.failure(client.run_background_job, client, "sbx-1", "x")
      assert(err.kind == wanted and err.outcome ~= nil, tostring(err))
    end
  end
end)

test("spool: looks that are killed are repeated", function()
  local n = 0
  support.with_relay(function(call)
    if kind(call) ~= "look" then return nil end
    n = n + 1
    if n <= 2 then return 200, { stdout = "ru", stderr = "", exit_code = 137 } end
  end, function(client)
    local seen = ""
    local result = client:execute_command("sbx-1", "echo a; sleep 0.5; echo b", {
      on_stdout = function(bytes) seen = seen .. bytes end,
    })
    assert(result.exit_code == 0 and seen == "a\nb\n" and n > 2)
  end)
end)

test("spool: a gateway lost meanwhile costs little more than the deadline", function()
  local server <close> = api.start({ exec = function(call)
    if kind(call) ~= "start" then return 500, { message = "lost" } end
    return 200, { stdout = "run 2 0 base64\nYQo=.\n.\n", stderr = "", exit_code = 0 }
  end })
  server:add("sbx-1")
  local client <close> = server:client()
  local began, took
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line end)
  local err = faults.failure(function()
    began = task.now()
    local ok, err = pcall(client.execute_command, client, "sbx-1", "sleep 99",
      { deadline = 5, on_stdout = function() end })
    took = task.now() - began
    error(not ok and err or "no error", 0)
  end)
  log.set_writer(nil)
  assert(table.concat(lines):find("may run on", 1, true))
  assert(err.kind == "command_timeout" and err.outcome == "unknown", tostring(err))
  assert(err.timeout == 5 and err.cause and took < 60, took)
end)
