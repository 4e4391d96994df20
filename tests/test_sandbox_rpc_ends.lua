-- Live processes in virtual machines: finding them again, and how they end.

local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local rpc = dofile(here .. "peers/rpc.lua")
local support = dofile(here .. "vm_support.lua")
local with_vm, eventually = support.with_vm, support.eventually

local function alive(pid)
  return require("sbx.fs").exists("/proc/" .. pid)
end

-- ------------------------------------------------------- finding it once more

test("rpc process: is listed and attached to, by tag and by pid", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1",
      "while read line; do echo $line; done", { tag = "worker", cwd = "/tmp", env = { A = "b" } })
    local list = client:list_processes("sbx-1")
    assert(#list == 1 and list[1].pid == p.pid and list[1].tag == "worker")
    assert(list[1].argv[1] == "/bin/bash" and list[1].argv[2] == "-c" and #list[1].argv == 3)
    assert(list[1].cwd == "/tmp" and list[1].env.A == "b")

    for _, which in ipairs({ "worker", p.pid }) do
      local q <close> = client:attach_process("sbx-1", which)
      assert(q.pid == p.pid)
      q:write("to both\n")
      assert(p:lines()() == "to both" and q:lines()() == "to both")
    end
    -- Closing those left it alone.
    assert(p.result == nil and #client:list_processes("sbx-1") == 1)
    p:detach()
    assert(#client:list_processes("sbx-1") == 1)
    local q <close> = client:attach_process("sbx-1", "worker")
    assert(q:signal("KILL") and q:wait().exit_code == -1)
    eventually(function() return #client:list_processes("sbx-1") == 0 end)
  end)
end)

test("rpc process: one that is not there is api, not_found", function()
  with_vm({}, function(client)
    for _, which in ipairs({ "nobody", 1 }) do
      local err = api.failure(client.attach_process, client, "sbx-1", which)
      assert(err.kind == "api" and err.code == "not_found", tostring(err))
      assert(err.message:find("no process " .. which, 1, true), err.message)
    end
  end)
  -- A sandbox that is over is more than that.
  local vm <close> = rpc.start()
  local server <close> = api.start({
    auth = vm:auth(), context = function() return 200, { status = "TERMINATED" } end,
  })
  local client <close> = server:client()
  assert(api.failure(client.attach_process, client, "sbx-1", "x").kind == "not_running")
end)

test("rpc process: containers have none", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  for _, call in ipairs({
    { client.open_process, "cat" }, { client.attach_process, "x" }, { client.list_processes },
  }) do
    local err = api.failure(call[1], client, "sbx-1", call[2])
    assert(err.kind == "unsupported" and err.message:find("execute_command", 1, true))
  end
  assert(server:count("exec") == 0)
end)

-- ------------------------------------------------------------------- its ends

test("rpc process: closing it asks it to end, and insists", { timeout = 180 }, function()
  with_vm({}, function(client, vm)
    local pid
    do
      local p <close> = client:open_process("sbx-1",
        "trap 'exit 0' TERM; echo ready; sleep 60 & wait")
      p:lines()()
      pid = p.pid
    end
    assert(vm:count("SendSignal") == 1)
    eventually(function() return not alive(pid) end)

    do
      local p <close> = client:open_process("sbx-1", "trap '' TERM; echo ready; read x")
      p:lines()()
      pid = p.pid
      local began = task.now()
      p:close()
      local took = task.now() - began
      assert(took > 4.5 and took < 20, took)
      p:close()
    end
    assert(vm:count("SendSignal") == 3 and vm.calls[#vm.calls].message.signal == 9)
    eventually(function() return not alive(pid) end)
  end)
end)

test("rpc process: one that has ended is not signalled at its closing", function()
  with_vm({}, function(client, vm)
    do
      local p <close> = client:open_process("sbx-1", "echo hi; exit 3")
      assert(p:wait().exit_code == 3)
      p:close()
      assert(p:wait().exit_code == 3 and p:read() == "hi\n" and p:read() == nil)
    end
    assert(vm:count("SendSignal") == 0)
    -- Its connection has served others since.
    assert(client:execute_command("sbx-1", "echo on").stdout == "on\n")
  end)
end)

test("rpc process: what was signalled already is not asked again", function()
  with_vm({}, function(client, vm)
    do
      local p <close> = client:open_process("sbx-1", "sleep 60")
      p:signal("KILL")
    end
    assert(vm:count("SendSignal") == 1)
  end)
end)

test("rpc process: who waits while it is closed is told", function()
  with_vm({}, function(client)
    local p = client:open_process("sbx-1", "sleep 60")
    local reading, waiting = task.pspawn(p.read, p), task.pspawn(p.wait, p)
    eventually(function() return reading.waiting_on and waiting.waiting_on end)
    p:detach()
    for _, one in ipairs({ reading, waiting }) do
      local ok, err = one:pjoin()
      assert(not ok and err.kind == "io" and err.code == "EBADF", tostring(err))
    end
    assert(api.failure(p.read, p).code == "EBADF")
  end)
end)

test("rpc process: a cancelled scope ends it", function()
  with_vm({}, function(client, vm)
    local pid
    expect.cancelled_once(function() return pid end, function()
      local p <close> = client:open_process("sbx-1", "sleep 60")
      pid = p.pid
      task.gather({ function() p:read() end, function() p:read("stderr") end })
    end)
    assert(vm:count("SendSignal") == 1)
    eventually(function() return not alive(pid) end)
  end)
end)

test("rpc process: a start that is cancelled leaves nothing running", function()
  local may_start
  with_vm({
    Start = function()
      eventually(function() return may_start end)
      return false
    end,
  }, function(client, vm)
    for _, pause in ipairs({ 0.2, 0.01 }) do
      local before = vm:count("Start")
      may_start = false
      local running = task.pspawn(client.open_process, client, "sbx-1", "exec sleep 61")
      eventually(function() return vm:count("Start") == before + 1 end)
      running:cancel()
      task.sleep(pause)
      may_start = true
      assert(not running:pjoin() and vm:count("Start") == before + 1)
      eventually(function() return vm.last_process and not alive(vm.last_process.pid) end)
      vm.last_process = nil
    end
    eventually(function() return #client:list_processes("sbx-1") == 0 end)
  end)
end)

test("rpc process: a start whose answer is lost leaves nothing running", function()
  with_vm({
    Start = function(call, vm)
      -- It runs, but we are not told.
      vm.on_started = function()
        call.request:close()
        return true
      end
      return false
    end,
  }, function(client, vm)
    local err = api.failure(client.open_process, client, "sbx-1", "exec sleep 61")
    assert(err.kind == "api" and err.outcome == "unknown", tostring(err))
    assert(vm:count("Start") == 1)
    eventually(function() return not alive(vm.last_process.pid) end)
  end)
end)

test("rpc process: a refused start is told, and kills nothing", function()
  with_vm({}, function(client, vm)
    local err = api.failure(client.open_process, client, "sbx-1", { "/no/such/program" })
    assert(err.kind == "api" and err.code == "internal" and err.message:find("no such file"))
    err = api.failure(client.open_process, client, "sbx-1", { "cat" }, { cwd = "/no/such/folder" })
    assert(err.kind == "api")
    vm.handlers.Start = function(call)
      call:fail("permission_denied", "not you", 403)
      return true
    end
    local before = vm:count("SendSignal")
    assert(api.failure(client.open_process, client, "sbx-1", "x").code == "permission_denied")
    assert(vm:count("SendSignal") == before)
  end)
end)

test("rpc process: a connection that breaks is an error after the bytes before it", function()
  with_vm({
    Start = function(call)
      call:write(rpc.event({ start = { pid = 12345678 } })
        .. rpc.event({ data = { stdout = "a\nb" } }), true)
      task.sleep(0.05)
      call.request:close()
      return true
    end,
  }, function(client, vm)
    do
      local p <close> = client:open_process("sbx-1", "x")
      local lines = p:lines()
      assert(lines() == "a")
      local err = api.failure(lines)
      assert(err.kind == "api" and err.outcome == "unknown" and err.sandbox_id == "sbx-1")
      assert(p:read() == "b", "the bytes before the break are still there")
      assert(api.failure(p.read, p) == err and api.failure(p.wait, p) == err)
    end
    -- It may still run: without its connection there is no use in waiting.
    assert(vm:count("SendSignal") == 1 and vm.calls[#vm.calls].message.signal == 9)
  end)
end)

test("rpc process: a stream without an end is no end", function()
  with_vm({
    Start = function(call)
      call:write(rpc.event({ start = { pid = 12345678 } }) .. rpc.last())
      return true
    end,
  }, function(client)
    local p <close> = client:open_process("sbx-1", "x")
    local err = api.failure(p.wait, p)
    assert(err.kind == "api" and err.outcome == "unknown" and p.result == nil)
  end)
end)

test("rpc process: its deadline ends it", function()
  with_vm({}, function(client, vm)
    local p <close> = client:open_process("sbx-1", "echo one; sleep 60", { deadline = 3 })
    assert(p:lines()() == "one")
    local err = api.failure(p.wait, p)
    assert(err.kind == "command_timeout" and err.timeout == 3, tostring(err))
    assert(vm:count("SendSignal") == 1)
    eventually(function() return not alive(p.pid) end)
  end)
end)

test("rpc process: keepalives are no news", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1", "read x; echo $x")
    assert(not task.move_on(0.2, p.read, p))
    p:write("y\n")
    assert(p:read() == "y\n")
  end, { keepalive = 0.005 })
end)

test("rpc process: is handed from one scope to another", function()
  with_vm({}, function(client)
    local p = task.scope(function()
      return client:open_process("sbx-1", "read x; echo $x")
    end)
    local q <close> = p
    task.scope(function(scope) scope:spawn(p.write, p, "still here\n") end)
    assert(q:lines()() == "still here")
  end)
end)

test("rpc process: misuse names the argument", function()
  with_vm({}, function(client, vm)
    local function refused(pattern, fn, ...)
      local ok, err = pcall(fn, ...)
      assert(not ok and type(err) == "string" and err:find(pattern), tostring(err))
    end
    local open, attach = client.open_process, client.attach_process
    refused("command: expected", open, client, "sbx-1")
    refused("command: expected", open, client, "sbx-1", {})
    refused("command%[2%]: expected a string", open, client, "sbx-1", { "a", 5 })
    refused("command%[2%]: has a NUL", open, client, "sbx-1", { "a", "b\0" })
    refused("command: has a NUL", open, client, "sbx-1", "b\0")
    refused("command%[1%]: is empty", open, client, "sbx-1", { "" })
    refused("unknown option 'dir'", open, client, "sbx-1", "x", { dir = "/" })
    refused("env%.A: expected a string", open, client, "sbx-1", "x", { env = { A = 1 } })
    refused("pty%.cols: expected", open, client, "sbx-1", "x", { pty = { cols = 0 } })
    refused("deadline: expected", open, client, "sbx-1", "x", { deadline = 0 })
    refused("tag: expected", open, client, "sbx-1", "x", { tag = "" })
    refused("tag: expected", attach, client, "sbx-1", true)
    refused("process: expected", attach, client, "sbx-1", -1)
    refused("pty: expected true or false", attach, client, "sbx-1", 1, { pty = {} })
    refused("sandbox: expected", open, client, nil, "x")
    assert(#vm.calls == 0)

    local p <close> = client:open_process("sbx-1", "sleep 60", { stdin = false })
    refused("signal: expected", p.signal, p, "HUP")
    refused("stdin = false", p.write, p, "x")
    refused("bytes: expected a string", p.write, p, 5)
    refused("no terminal", p.resize, p, 80, 24)
    refused("cols: expected", p.resize, p, 0, 24)
    refused('has "stdout" and "stderr", not "pty"', p.read, p, "pty")
    refused("n: expected", p.read, p, "stdout", 0)
    refused("not \"out\"", p.lines, p, "out")
    refused("process:read", p.read, {})
  end)
end)

test("rpc process: a client that was closed cannot signal, and says so in the log", function()
  with_vm({}, function(client)
    local lines = {}
    local p = client:open_process("sbx-1", "exec sleep 61")
    client:close()
    require("sbx.log").set_writer(function(line) lines[#lines + 1] = line end)
    local ok, err = pcall(p.close, p)
    require("sbx.log").set_writer(nil)
    assert(ok, tostring(err))
    assert(#lines == 1 and lines[1]:find("could not be ended", 1, true), lines[1])
  end)
end)

test("rpc process: 100 live ones leave commands their way", function()
  with_vm({}, function(client)
    local list = {}
    for i = 1, 100 do list[i] = i end
    local open = task.map(list, function(i)
      return client:open_process("sbx-1", { "head", "-c", "1" }, { tag = "n-" .. i })
    end, { limit = 10 })
    assert(client:execute_command("sbx-1", "echo hi").stdout == "hi\n")
    task.map(open, function(p)
      p:write("x")
      assert(p:wait().exit_code == 0 and p:read() == "x")
      p:close()
    end, { limit = 10 })
  end)
end)
