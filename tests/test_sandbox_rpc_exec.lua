-- Commands in virtual machines: what goes over the wire, what comes back, and what
-- each refusal becomes.

local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")

-- Runs `fn(client, server, vm)` with a virtual machine `sbx-1`.
local function with_vm(handlers, fn, api_handlers)
  local vm <close> = rpc.start(handlers)
  local given = { auth = vm:auth() }
  for name, handler in pairs(api_handlers or {}) do
    given[name] = handler
  end
  local server <close> = api.start(given)
  local client <close> = server:client()
  server:add("sbx-1", { vm = true })
  fn(client, server, vm)
end

local function exec(client, options)
  return client:execute_command("sbx-1", "echo hi", options)
end

test("rpc exec: runs a command, with folder, variables and both streams", function()
  with_vm({}, function(client, server)
    local result = client:execute_command("sbx-1",
      "pwd; echo $A; echo oops >&2; [[ x == x ]] && exit 3", {
        working_dir = "/tmp", env = { A = "ü b" },
      })
    assert(result.stdout == "/tmp\nü b\n" and result.stderr == "oops\n")
    assert(result.exit_code == 3 and not result.stdout_truncated and not result.stderr_truncated)
    assert(server:count("exec") == 0)
    -- There is no input to wait for.
    assert(client:execute_command("sbx-1", "cat").stdout == "")
  end)
end)

test("rpc exec: sends what the protocol wants", function()
  with_vm({}, function(client, _, vm)
    exec(client, { working_dir = "/", env = { A = "b" }, timeout = 7 })
    local call = vm.calls[1]
    local headers, command = call.headers, call.message.command
    assert(headers["content-type"] == "application/connect+proto")
    assert(headers["connect-protocol-version"] == "1")
    assert(headers["connect-timeout-ms"] == "7000")
    assert(headers["connect-content-encoding"] == "identity")
    assert(headers["connect-accept-encoding"] == "identity")
    assert(headers["accept-encoding"] == nil)
    assert(headers.authorization == "Bearer gateway-token-1")
    assert(command.cmd == "/bin/bash" and command.args[1] == "-c" and command.args[2] == "echo hi")
    assert(command.cwd == "/" and command.envs.A == "b" and call.message.stdin == false)
    assert(call.message.tag == nil and call.message.pty == nil)
  end)
end)

test("rpc exec: bytes are joined as they came, also in the middle of a character", function()
  with_vm({
    Start = function(call)
      call:write(rpc.event({ start = { pid = 1 } }), true)
      for _, bytes in ipairs({ "a\xc3", "\xbc\0", "\xff", "" }) do
        call:write(rpc.event({ data = { stdout = bytes } }), true)
        call:write(rpc.event({ keepalive = {} }), true)
        call:write(rpc.event({ data = { stderr = bytes } }), true)
      end
      -- What a terminal shows counts as stdout.
      call:write(rpc.event({ data = { pty = "p" } }) .. rpc.ended(-1) .. rpc.last())
      return true
    end,
  }, function(client)
    local result = exec(client)
    assert(result.stdout == "aü\0\xffp")
    assert(result.stderr == "aü\0\xff" and result.exit_code == -1)
  end)
end)

test("rpc exec: many megabytes come whole", function()
  with_vm({}, function(client)
    local result = client:execute_command("sbx-1", "head -c 20000000 /dev/zero; echo done >&2")
    assert(#result.stdout == 20000000 and result.stderr == "done\n" and result.exit_code == 0)
  end)
end)

test("rpc exec: too much output ends the command", { timeout = 180 }, function()
  local event = rpc.event({ data = { stdout = ("x"):rep(15 << 20) } })
  with_vm({
    Start = function(call)
      call:write(rpc.event({ start = { pid = 77 } }), true)
      pcall(function()
        for _ = 1, 30 do call:write(event, true) end
      end)
      return true
    end,
  }, function(client, _, vm)
    local err = api.failure(exec, client)
    assert(err.kind == "limit" and err.outcome == "unknown", tostring(err))
    assert(vm:count("SendSignal") == 1)
    assert(vm.calls[2].message.session.pid == 77 and vm.calls[2].message.signal == 9)
  end)
end)

-- -------------------------------------------------------------------- profile

test("rpc exec: whether it is a virtual machine is asked once, if at all", function()
  -- The token's answer says it.
  with_vm({}, function(client, server)
    exec(client)
    assert(server:count("get") == 0 and server:count("auth") == 1)
    -- A new token does not change it.
    client:clear_auth_cache()
    exec(client)
    assert(server:count("get") == 0 and server:count("auth") == 2)
  end)

  -- Nothing says it: one of many tasks asks.
  local vm <close> = rpc.start()
  local server <close> = api.start({ auth = vm:auth("silent") })
  local client <close> = server:client()
  server:add("sbx-1", { vm = true })
  local results = task.map({ 1, 2, 3, 4, 5, 6 }, function() return exec(client).stdout end)
  assert(#results == 6 and results[6] == "hi\n")
  assert(server:count("get") == 1 and server:count("auth") == 1)
  client:clear_auth_cache()
  exec(client)
  assert(server:count("get") == 1 and server:count("auth") == 2)
end)

test("rpc exec: create and get tell what it is", function()
  local vm <close> = rpc.start()
  local to_vm = vm:auth("silent")
  local server <close> = api.start({
    auth = function(call, server)
      if call.id == "sbx-9" then return to_vm(call, server) end
    end,
    create = function(_, server)
      server.sandboxes["sbx-9"] = api.object("sbx-9", { vm = true })
      return 201, server.sandboxes["sbx-9"]
    end,
  })
  local client <close> = server:client()
  local box <close> = client:create({ name = "a", docker_image = "b", vm = true })
  assert(box:exec("echo hi").stdout == "hi\n" and server:count("get") == 0)

  server:add("sbx-2")
  assert(client:get("sbx-2").vm == false)
  assert(client:execute_command("sbx-2", "x").exit_code == 0)
  assert(server:count("get") == 1 and server:count("exec") == 1)
end)

test("rpc exec: a failure to learn what it is, is shared and not remembered", function()
  local vm <close> = rpc.start()
  local server <close> = api.start({
    auth = vm:auth("silent"),
    get = function(call)
      task.sleep(0.05)
      if call.n == 1 then return 403, { detail = "no" } end
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1", { vm = true })
  local failed = 0
  task.map({ 1, 2, 3 }, function()
    local ok, err = pcall(exec, client)
    assert(not ok and err.status == 403)
    failed = failed + 1
  end)
  assert(failed == 3 and server:count("get") == 1)
  assert(exec(client).exit_code == 0 and server:count("get") == 2)
end)

test("rpc exec: the one who asks is cancelled, and another one asks", function()
  local vm <close> = rpc.start()
  local server <close> = api.start({
    auth = vm:auth("silent"),
    get = function(call) if call.n == 1 then return api.HANG end end,
  })
  local client <close> = server:client()
  server:add("sbx-1", { vm = true })
  task.scope(function(scope)
    local first = scope:pspawn(exec, client)
    while server:count("get") == 0 do task.sleep(0.01) end
    local second = scope:spawn(exec, client)
    task.sleep(0.05)
    first:cancel()
    assert(second:join().stdout == "hi\n" and server:count("get") == 2)
  end)
end)

test("rpc exec: another user is refused before anything is sent", function()
  with_vm({}, function(client, _, vm)
    local err = api.failure(exec, client, { user = "root" })
    assert(err.kind == "unsupported" and err.message:find("su NAME", 1, true), tostring(err))
    assert(err.sandbox_id == "sbx-1" and err.code == "user" and #vm.calls == 0)
  end)
end)

test("rpc exec: text that is no UTF-8 arrives as it is, though messages carry none", function()
  with_vm({}, function(client)
    local result = client:execute_command("sbx-1", "echo \xff$A", { env = { A = "\xfe" } })
    assert(result.stdout == "\xff\xfe\n")
  end)
end)

-- ------------------------------------------------------------------- refusals

-- Refuses the first `times` starts in this way.
local function refuse(times, code, status, extra)
  return function(call)
    if call.n > times then return false end
    if status then
      call.request:respond(status, extra or {}, code
        and ('{"code":"%s","message":"told so"}'):format(code) or "{}")
    else
      call:write(rpc.last(code, "told so"))
    end
    return true
  end
end

test("rpc exec: a refused token is renewed once", function()
  for _, status in ipairs({ 401, false }) do
    with_vm({ Start = refuse(1, "unauthenticated", status) }, function(client, server, vm)
      assert(exec(client).exit_code == 0)
      assert(vm:count("Start") == 2 and server:count("auth") == 2)
    end)
    with_vm({ Start = refuse(9, "unauthenticated", status) }, function(client, server, vm)
      local err = api.failure(exec, client)
      assert(err.kind == "api" and err.code == "unauthenticated" and err.outcome == nil)
      assert(vm:count("Start") == 2 and server:count("auth") == 2 and err.attempts == 2)
    end)
  end
  -- A 401 without words is one, too.
  with_vm({ Start = refuse(1, nil, 401) }, function(client)
    assert(exec(client).exit_code == 0)
  end)
end)

test("rpc exec: once something came, a refused token is the end", function()
  with_vm({
    Start = function(call)
      call:write(rpc.event({ start = { pid = 1 } }) .. rpc.last("unauthenticated", "too old"))
      return true
    end,
  }, function(client, server, vm)
    local err = api.failure(exec, client)
    assert(err.kind == "api" and err.code == "unauthenticated" and err.outcome == "unknown")
    assert(vm:count("Start") == 1 and server:count("auth") == 1)
  end)
end)

-- Code → what the error is, and whether the command may have run.
local meanings = {
  canceled = { "api", true }, unknown = { "api", true }, invalid_argument = { "api" },
  deadline_exceeded = { "command_timeout", true }, not_found = { "not_running" },
  already_exists = { "api" }, permission_denied = { "api" }, resource_exhausted = { "api" },
  failed_precondition = { "api" }, aborted = { "api", true }, out_of_range = { "api" },
  unimplemented = { "api" }, internal = { "api", true }, unavailable = { "api", true },
  data_loss = { "api", true }, ["no code of any kind"] = { "api", true },
}

test("rpc exec: each code has its kind, and none runs a command twice", function()
  for code, meaning in pairs(meanings) do
    for _, status in ipairs({ false, 418 }) do
      with_vm({ Start = refuse(9, code, status) }, function(client, _, vm)
        local err = api.failure(exec, client)
        assert(err.kind == meaning[1], code .. ": " .. tostring(err))
        assert((err.outcome == "unknown") == (meaning[2] or false), code)
        assert(vm:count("Start") == 1, code)
        if err.kind == "api" then
          assert(err.code == (code:find(" ") and "unknown" or code))
          assert(err.message:find("told so", 1, true) and err.detail == "told so")
        end
      end)
    end
  end
end)

test("rpc exec: each code after the first event leaves the outcome unknown", function()
  for code, meaning in pairs(meanings) do
    with_vm({
      Start = function(call)
        call:write(rpc.event({ start = { pid = 1 } }) .. rpc.last(code, "told so"))
        return true
      end,
    }, function(client, _, vm)
      local err = api.failure(exec, client)
      assert(err.kind == meaning[1] and vm:count("Start") == 1, code)
      assert(err.outcome == "unknown" or err.kind == "not_running", code)
    end)
  end
end)

test("rpc exec: without a code the status tells one", function()
  local codes = {
    [400] = "internal", [403] = "permission_denied", [404] = "unimplemented",
    [502] = "unavailable", [503] = "unavailable", [504] = "unavailable", [418] = "unknown",
    [500] = "unknown",
  }
  for status, code in pairs(codes) do
    with_vm({ Start = refuse(9, nil, status) }, function(client)
      local err = api.failure(exec, client)
      assert(err.kind == "api" and err.code == code and err.status == status, tostring(err))
    end)
  end
end)

test("rpc exec: a sandbox that is gone is not_running, and its token dropped", function()
  local function gone(call)
    call.request:respond(502, {}, '{"error":"sandbox_not_found","message":"Gone","code":502}')
    return true
  end
  for _, handler in ipairs({ refuse(9, "not_found", 404), gone }) do
    with_vm({ Start = handler }, function(client, server)
      local err = api.failure(exec, client)
      assert(err.kind == "oom" and err:is("not_running") and err.status == "TERMINATED")
      pcall(exec, client)
      assert(server:count("auth") == 2)
    end, { context = function() return 200, { status = "ERROR", errorType = "OOM_KILLED" } end })
  end
end)

test("rpc exec: a sandbox that does not run yet is tried again only while it should", function()
  with_vm({ Start = refuse(2, nil, 409) }, function(client, _, vm)
    assert(exec(client).exit_code == 0 and vm:count("Start") == 3)
  end)
  with_vm({ Start = refuse(9, nil, 409) }, function(client, _, vm)
    local err = api.failure(exec, client)
    assert(err.kind == "not_running" and err.status == "PENDING" and vm:count("Start") == 1)
  end, { context = function() return 200, { status = "PENDING" } end })
end)

test("rpc exec: 429 is waited out, with or without a code", function()
  for _, code in ipairs({ "resource_exhausted", false }) do
    local handler = refuse(2, code or nil, 429, { ["retry-after"] = "0" })
    with_vm({ Start = handler }, function(client, _, vm)
      assert(exec(client).exit_code == 0 and vm:count("Start") == 3)
    end)
  end
end)

test("rpc exec: a command over its time is killed and named", function()
  with_vm({}, function(client, server, vm)
    local err = api.failure(client.execute_command, client, "sbx-1", "sleep 60", { timeout = 1 })
    assert(err.kind == "command_timeout" and err.timeout == 1 and err.sandbox_id == "sbx-1")
    assert(err.message:find("1 s", 1, true) and server:count("context") == 1)
    assert(vm:count("SendSignal") == 1 and vm:count("Start") == 1)
  end)
  with_vm({ Start = refuse(9, "deadline_exceeded") }, function(client)
    local err = api.failure(exec, client)
    assert(err.kind == "sandbox_timeout" and err:is("not_running"))
  end, { context = function() return 200, { status = "TIMEOUT" } end })
end)

test("rpc exec: a server that keeps silent does not hold it for ever", function()
  with_vm({
    Start = function(call)
      call:write(rpc.event({ start = { pid = 5 } }), true)
      call.server.kept = call -- an answer without end
      return true
    end,
  }, function(client, _, vm)
    local err = api.failure(exec, client, { timeout = 1 })
    assert(err.kind == "command_timeout" and err.outcome == "unknown", tostring(err))
    assert(vm:count("SendSignal") == 1)
    -- A deadline of the script's own comes first.
    err = api.failure(task.timeout, 0.1, exec, client)
    assert(err.kind == "timeout" and vm:count("SendSignal") == 2) -- nor does that run on
  end)
end)

test("rpc exec: a gateway that cannot be reached is tried again, for nothing ran", function()
  local dead = api.dead_url()
  local vm <close> = rpc.start()
  local server <close> = api.start({
    auth = function(call, server) return rpc.auth(call.n == 1 and dead or vm.url)(call, server) end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  task.scope(function(scope)
    scope:spawn(function()
      while server:count("auth") == 0 do task.sleep(0.01) end
      task.sleep(0.2)
      client:clear_auth_cache()
    end)
    assert(exec(client).stdout == "hi\n")
  end)
  assert(vm:count("Start") == 1)
end)

test("rpc exec: no secret shows in an error", function()
  with_vm({
    Start = function(call)
      call:fail("internal", "token " .. call.token .. " password " .. call.message.command.envs.PW)
      return true
    end,
  }, function(client)
    local err = api.failure(exec, client, { env = { PW = "hunter2-4711" } })
    for name, value in pairs(err) do
      value = tostring(value)
      assert(not value:find("gateway-token", 1, true) and not value:find("hunter2", 1, true), name)
    end
  end)
end)

test("rpc exec: 60 at once, each with its own output", function()
  with_vm({}, function(client, server)
    local numbers = {}
    for i = 1, 60 do numbers[i] = i end
    local results = task.map(numbers, function(i)
      return client:execute_command("sbx-1", "echo " .. i).stdout
    end, { limit = 20 })
    for i, text in ipairs(results) do assert(text == i .. "\n") end
    assert(server:count("auth") == 1)
  end)
end)

test("rpc exec: waiting for a virtual machine goes on while it may get there", function()
  local tries = {
    refuse(9, "unavailable"), refuse(9, "aborted"), refuse(9, "not_found", 404),
    refuse(9, nil, 503), refuse(9, "deadline_exceeded"),
  }
  with_vm({
    Start = function(call) return tries[call.n] and tries[call.n](call) end,
  }, function(client, _, vm)
    assert(client:wait_for_creation("sbx-1").status == "RUNNING")
    assert(vm:count("Start") == 6)
  end)
  with_vm({ Start = refuse(9, "permission_denied") }, function(client, _, vm)
    local err = api.failure(client.wait_for_creation, client, "sbx-1")
    assert(err.code == "permission_denied" and vm:count("Start") == 1)
  end)
end)
