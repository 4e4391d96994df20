-- Commands whose requests are lost, repeated, cut or refused: each runs at most once,
-- and what is said of it is true.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local expect = dofile(here .. "expect.lua")
local support = dofile(here .. "sandbox_exec_support.lua")
local api, kind = support.api, support.kind
local task = require("sbx.task")

local COUNT = "echo ran >> /var/tmp/count; echo out; exit 4"

local function runs_of(box)
  return tonumber(box:exec("cat /var/tmp/count 2>/dev/null | wc -l; rm -f /var/tmp/count").stdout)
end

local function spooled(client, options)
  local given = { spool = true }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return client:execute_command("sbx-1", COUNT, given)
end

-- Handlers of a relay: one kind of request, its first `times`, as `fn` says.
local function on(which, times, fn)
  local seen = 0
  return function(call, pass)
    if kind(call) ~= which then return nil end
    seen = seen + 1
    if seen <= times then return fn(call, pass) end
  end
end

local function answer_lost(call, pass)
  pass(call)
  return 500, { message = "lost" }
end

local function never_arrives()
  return 500, { message = "nowhere" }
end

test("exec: a plain command whose answer is lost ran once and is unknown", function()
  local function lose(call, pass)
    if call.body.command == COUNT then return answer_lost(call, pass) end
  end
  support.with_relay(lose, function(client, box)
    local err = api.failure(client.execute_command, client, "sbx-1", COUNT)
    assert(err.outcome == "unknown" and runs_of(box) == 1, tostring(err))
  end)
end)

test("spool: a start whose answer is lost is found out about, and its result is true", function()
  support.with_relay(on("start", 1, answer_lost), function(client, box, server)
    local result = spooled(client)
    assert(result.exit_code == 4 and result.stdout == "out\n" and runs_of(box) == 1)
    local starts = 0
    for _, call in ipairs(server.calls) do
      if call.op == "exec" and kind(call) == "start" then starts = starts + 1 end
    end
    assert(starts == 1, starts)
    support.await_nothing(box, "%.sbx%-%x+\n")
  end)
end)

test("spool: a start that got nowhere is made anew, and the old one never runs", function()
  local late
  local handler = on("start", 1, function(call, pass)
    late = function() return select(2, pass(call)) end
    return never_arrives()
  end)
  support.with_relay(handler, function(client, box)
    local result = spooled(client)
    assert(result.exit_code == 4 and runs_of(box) == 1)
    -- The lost request arrives after all.
    assert(late().exit_code == 76)
    task.sleep(0.2)
    assert(runs_of(box) == 0)
  end)
end)

test("spool: where no start gets through the outcome is not_started, and that is so", function()
  support.with_relay(on("start", 100, never_arrives), function(client, box)
    local err = api.failure(spooled, client)
    assert(err.outcome == "not_started" and err.retryable and runs_of(box) == 0, tostring(err))
  end)
end)

test("spool: a start that is refused is not_started", function()
  for _, status in ipairs({ 403, 422, 413 }) do
    support.with_relay(on("start", 1, function() return status, { message = "no" } end),
      function(client, box)
        local err = api.failure(spooled, client)
        assert(err.outcome == "not_started" and runs_of(box) == 0, tostring(err))
      end)
  end
end)

test("spool: a start that comes twice runs once", function()
  local function twice(call, pass)
    if kind(call) ~= "start" then return nil end
    pass(call)
    return pass(call)
  end
  support.with_relay(twice, function(client, box)
    assert(spooled(client).exit_code == 4 and runs_of(box) == 1)
    support.await_nothing(box)
  end)
end)

test("spool: looks that fail or are cut lose and repeat nothing", { timeout = 180 }, function()
  local n = 0
  local function hostile(call, pass)
    if kind(call) ~= "look" then return nil end
    n = n + 1
    if n % 3 == 1 then return answer_lost(call, pass) end
    if n % 3 == 2 then
      local _, result = pass(call)
      result.stdout = result.stdout:sub(1, #result.stdout // 2)
      return 200, result
    end
  end
  support.with_relay(hostile, function(client, box)
    local parts = {}
    local result = client:execute_command("sbx-1",
      "for i in 1 2 3; do head -c 40000 /dev/urandom | tee -a /tmp/all; done;"
        .. "md5sum < /tmp/all >&2",
      { on_stdout = function(part) parts[#parts + 1] = part end })
    local sum = box:exec("md5sum", { stdin = table.concat(parts) })
    assert(#table.concat(parts) == 120000 and sum.stdout == result.stderr)
  end)
end)

test("spool: looks that are no looks end it, bounded, and it is killed", function()
  local function nonsense(call)
    if kind(call) ~= "look" then return nil end
    return 200, { stdout = "run 99999999999999999999 0 base64\n\n", stderr = "", exit_code = 0 }
  end
  support.with_relay(nonsense, function(client, box)
    local err = api.failure(client.execute_command, client, "sbx-1", "echo a; sleep 4711",
      { on_stdout = function() end })
    assert(err.code == "BAD_STATE" and err.outcome == "unknown", tostring(err))
    support.await_nothing(box)
  end)
end)

test("spool: a sandbox that goes away meanwhile is not_running", function()
  local function gone(call)
    if kind(call) ~= "look" and kind(call) ~= "clean" then return nil end
    return 502, { error = "sandbox_not_found", message = "Gone" }
  end
  support.with_relay(gone, function(client)
    local err = api.failure(client.execute_command, client, "sbx-1", "echo a; sleep 4711",
      { on_stdout = function() end })
    assert(err.kind == "not_running", tostring(err))
  end)
end)

test("spool: files that vanish and a wrapper that is killed leave it unknown", function()
  support.with_box(function(box)
    local err = api.failure(box.exec, box, "rm -rf /tmp/.sbx-*; sleep 4711", { spool = true })
    assert(err.code == "LOST" and err.outcome == "unknown" and err.message:find("are gone"))
    err = api.failure(box.exec, box, "kill -9 $PPID; sleep 4711", { spool = true })
    assert(err.code == "LOST" and err.outcome == "unknown", tostring(err))
    box:exec("pkill -x sleep")
    support.await_nothing(box)
  end)
end)

test("spool: a start cancelled on its way, which arrives later, does not run", function()
  local late
  local handler = on("start", 1, function(call, pass)
    late = function() return select(2, pass(call)) end
    return api.HANG
  end)
  support.with_relay(handler, function(client, box)
    expect.cancelled_once(function() return late end, spooled, client)
    assert(late().exit_code == 76)
    task.sleep(0.2)
    assert(runs_of(box) == 0)
    support.await_nothing(box, "%.sbx%-%x+\n")
  end)
end)

test("exec: which commands run on their own", function()
  support.with_relay(function() end, function(client, _, server)
    local function requests(options)
      local before = server:count("exec")
      client:execute_command("sbx-1", "true", options)
      return server:count("exec") - before
    end
    assert(requests() == 1 and requests({ timeout = 60 }) == 1)
    assert(requests({ timeout = 61 }) == 2 and requests({ deadline = 5 }) == 2)
    assert(requests({ timeout = 61, spool = false }) == 1 and requests({ binary = true }) == 2)
    assert(requests({ stdin = "abc" }) == 1)
  end)
end)

test("spool: an image without setsid and base64 will do", function()
  local function poor(call)
    call.body.command = call.body.command:gsub("command %-v setsid", "command -v no-setsid")
      :gsub("command %-v base64", "command -v no-base64")
  end
  support.with_relay(poor, function(client, box)
    local result = client:execute_command("sbx-1", "printf '\\377\\000a\\n%2000s' x; exit 3",
      { binary = true })
    assert(result.stdout == "\xff\0a\n" .. (" "):rep(1999) .. "x" and result.exit_code == 3)
    local err = api.failure(client.execute_command, client, "sbx-1",
      "trap '' TERM; (trap '' TERM; setsid sleep 4711 &); sleep 4711", { deadline = 0.5 })
    assert(err.kind == "command_timeout" and err.outcome == "exited", tostring(err))
    support.await_nothing(box)
  end)
end)

test("spool: where there is no room for its files it says so, and nothing ran", function()
  local function poor(call)
    call.body.command = call.body.command:gsub("L='/tmp/", "L='/proc/")
  end
  support.with_relay(poor, function(client, box)
    local err = api.failure(spooled, client)
    assert(err.outcome == "not_started" and err.code == "NOT_STARTED", tostring(err))
    assert(err.message:find("cannot make the folder", 1, true) and runs_of(box) == 0)
  end)
end)
