-- Live processes in virtual machines: output, input, signals, ends and closings.

local task = require("sbx.task")
local test_module = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")

-- Runs `fn(client, vm, server)` with a virtual machine `sbx-1`.
local function with_vm(handlers, fn, options)
  local vm <close> = rpc.start(handlers, options)
  local server <close> = api.start({ auth = vm:auth() })
  local client <close> = server:client()
  server:add("sbx-1", { vm = true })
  fn(client, vm, server)
end

-- Waits until `condition()` holds.
local function eventually(condition)
  task.timeout(20, function()
    while not condition() do task.sleep(0.005) end
  end)
end

local function collect(p, name)
  local parts = {}
  for bytes in function() return p:read(name) end do
    parts[#parts + 1] = bytes
  end
  return table.concat(parts)
end

local function alive(pid)
  return require("sbx.fs").exists("/proc/" .. pid)
end

test("rpc process: is talked with", function()
  with_vm({}, function(client, vm)
    local p <close> = client:open_process("sbx-1",
      "while read line; do echo \"<$line>\"; done", { cwd = "/", env = { A = "1" } })
    assert(math.type(p.pid) == "integer" and p.sandbox_id == "sbx-1" and p.result == nil)
    p:write("one\n")
    assert(p:lines()() == "<one>")
    p:write("two\nthree\n")
    local lines = p:lines("stdout", true)
    assert(lines() == "<two>\n" and lines() == "<three>\n")
    assert(tostring(p):find("running", 1, true))

    local start = vm.calls[1].message
    assert(start.stdin == true and start.tag == p.tag and start.command.cwd == "/")
    assert(vm.calls[1].headers["connect-timeout-ms"] == "86400000")
    assert(p:signal("TERM") == true)
    local over = p:wait()
    assert(over.exit_code == -1 and over.exited == false and over.status == "signal: 15")
    assert(p.result == over and p:signal("TERM") == false and p:read() == nil)
    assert(tostring(p):find("signal: 15", 1, true))
  end)
end)

test("rpc process: is a program and its words, too", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1", { "printf", "%s|", "a b", "$HOME", "" })
    assert(collect(p, "stdout") == "a b|$HOME||" and p:wait().exit_code == 0)
    local q <close> = client:open_process("sbx-1", { "sh", "-c", "cat; exit 5" }, { stdin = false })
    assert(q:wait().exit_code == 5 and q:wait().exited)
    assert(not pcall(q.write, q, "x"))
  end)
end)

test("rpc process: two tasks read its outputs at once", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1",
      "for i in $(seq 2000); do echo out $i; echo err $i >&2; done", { max_buffer = 4096 })
    local out, err = task.gather({
      function() return collect(p, "stdout") end,
      function() return collect(p, "stderr") end,
    })
    local wanted = {}
    for i = 1, 2000 do wanted[i] = "out " .. i .. "\n" end
    assert(out == table.concat(wanted))
    assert(err == out:gsub("out", "err"))
    assert(p:wait().exit_code == 0)
  end)
end)

test("rpc process: what nobody reads holds up the process, not our memory", function()
  local written = 0
  local event = rpc.event({ data = { stdout = ("x"):rep(65536) } })
  with_vm({
    Start = function(call)
      call:write(rpc.event({ start = { pid = 9 } }), true)
      pcall(function()
        while true do
          call:write(event, true)
          written = written + 65536
        end
      end)
      return true
    end,
  }, function(client)
    local p <close> = client:open_process("sbx-1", "x")
    local before = -1
    eventually(function()
      local still = written == before
      before = written
      task.sleep(0.2)
      return still
    end)
    assert(written < 16 * 1024 * 1024, written)
    assert(#p:read() > 0)
    p:detach()
  end)
end)

test("rpc process: the end can be waited for though nobody reads", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1",
      "head -c 3000000 /dev/zero; echo last >&2; exit 6", { max_buffer = 100000 })
    assert(p:wait().exit_code == 6)
    assert(p:lines("stderr")() == "last")
    -- The beginning is kept; that the rest is lost is no secret.
    local read, err = 0, nil
    while not err do
      local ok, bytes = pcall(p.read, p)
      if ok then read = read + #bytes else err = bytes end
    end
    assert(read >= 100000 - 65536 and read < 3000000, read)
    assert(err.kind == "limit" and err.message:find(("%d bytes"):format(3000000 - read), 1, true),
      tostring(err))
    assert(not pcall(p.read, p))
  end)
end)

test("rpc process: a slow reader loses nothing while others wait", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1",
      "for i in $(seq 30); do printf %010000d $i; done; echo done >&2", { max_buffer = 20000 })
    local size, last = 0, nil
    task.gather({
      function()
        for bytes in function() return p:read("stdout", 8192) end do
          size = size + #bytes
          task.sleep(0.002)
        end
      end,
      function() last = p:lines("stderr")() end,
      function() p:wait() end,
    })
    assert(size == 300000 and last == "done", size)
  end)
end)

test("rpc process: a reader that went away does not hold up the others for ever", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1",
      "echo listening; head -c 3000000 /dev/zero; echo last >&2", { max_buffer = 50000 })
    assert(p:lines()() == "listening")
    local clock = test_module.clock()
    local waiting = task.spawn(p.wait, p)
    for _ = 1, 10 do
      if waiting.status == "done" then break end
      clock:advance(10)
      -- What is real needs real time.
      task.move_on(0.2, waiting.pjoin, waiting)
    end
    assert(waiting:join().exit_code == 0 and clock:elapsed() >= 30)
    assert(p:lines("stderr")() == "last")
  end)
end)

test("rpc process: one task reads an output at a time", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1", "sleep 60")
    local reading = task.spawn(pcall, p.read, p)
    eventually(function() return reading.waiting_on ~= nil end)
    local ok, err = pcall(p.read, p, "stdout")
    assert(not ok and type(err) == "string" and err:find("another task reads stdout", 1, true))
    -- Of which another output is not part.
    assert(not task.move_on(0.05, p.read, p, "stderr"))
    reading:cancel()
  end)
end)

test("rpc process: a cancelled reader loses nothing", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1",
      "for i in $(seq 200); do printf %d, $i; sleep 0.002; done")
    local parts = {}
    while true do
      local in_time, bytes = task.move_on(0.003, p.read, p)
      if in_time and not bytes then break end
      parts[#parts + 1] = in_time and bytes or ""
    end
    local wanted = {}
    for i = 1, 200 do wanted[i] = i .. "," end
    assert(table.concat(parts) == table.concat(wanted))
  end)
end)

-- ---------------------------------------------------------------------- input

test("rpc process: a megabyte goes in as it is, writes do not mix", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1", { "head", "-c", "1800000" })
    local one, two = ("a"):rep(900000), ("b"):rep(900000)
    local text = task.gather({
      function() return collect(p) end,
      function() p:write(one) end,
      function() p:write(two) end,
    })
    assert(text == one .. two or text == two .. one)
    p:write("") -- is nothing
  end)
end)

test("rpc process: writing to one that has ended is EPIPE", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1", "exit 0")
    eventually(function()
      local ok, err = pcall(p.write, p, "x")
      assert(ok or (err.kind == "io" and err.code == "EPIPE"), tostring(err))
      return not ok
    end)
    p:wait()
    assert(api.failure(p.write, p, "x").code == "EPIPE")
  end)
end)

test("rpc process: input and signals get a new token where the old one is refused", function()
  local refused = 0
  local function refuse(call)
    if call.token ~= "Bearer gateway-token-1" then return false end
    refused = refused + 1
    call:fail("unauthenticated", "too old", 401)
    return true
  end
  with_vm({ SendInput = refuse, SendSignal = refuse }, function(client, vm, server)
    local p <close> = client:open_process("sbx-1", "read x; echo got $x; sleep 60")
    p:write("it\n")
    assert(p:lines()() == "got it" and refused == 1 and vm:count("SendInput") == 2)
    assert(server:count("auth") == 2)
    p:signal("KILL")
    assert(p:wait().status == "signal: 9" and refused == 1)
  end)
end)

test("rpc process: input whose answer is lost is not sent twice", function()
  with_vm({
    SendInput = function(call)
      call:fail("unavailable", "who knows", 503)
      return true
    end,
  }, function(client, vm)
    local p <close> = client:open_process("sbx-1", "cat")
    local err = api.failure(p.write, p, "x")
    assert(err.code == "unavailable" and err.outcome == "unknown" and vm:count("SendInput") == 1)
  end)
end)

-- -------------------------------------------------------------------- terminal

test("rpc process: has a terminal, whose size can change", function()
  with_vm({}, function(client)
    local p <close> = client:open_process("sbx-1",
      "stty size; tty >/dev/null && echo tty; read x; stty size; echo \"$TERM $x\"; exit 4", {
        pty = { cols = 100, rows = 30 },
      })
    local lines = p:lines()
    assert(lines() == "30 100\r" and lines() == "tty\r")
    p:resize(50, 20)
    p:write("hello\r")
    assert(lines() == "hello\r" and lines() == "20 50\r")
    assert(p:lines("pty")() == "xterm-256color hello\r")
    assert(lines() == nil and p:wait().exit_code == 4)
    assert(select(2, pcall(p.read, p, "stdout")):find('has "pty"', 1, true))
  end)
end)

test("rpc process: a server without terminals says so", function()
  with_vm({
    Update = function(call)
      call.request:respond(404, {}, "404 page not found")
      return true
    end,
  }, function(client)
    local p <close> = client:open_process("sbx-1", "sleep 60", { pty = {} })
    local err = api.failure(p.resize, p, 10, 10)
    assert(err.kind == "unsupported" and err.message:find("Update", 1, true), tostring(err))
  end)
end)

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

test("rpc process: closing it asks it to end, and insists", { timeout = 60 }, function()
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
    local ok = task.move_on(0.3, function()
      local p <close> = client:open_process("sbx-1", "sleep 60")
      pid = p.pid
      task.gather({ function() p:read() end, function() p:read("stderr") end })
    end)
    assert(not ok and vm:count("SendSignal") == 1)
    eventually(function() return not alive(pid) end)
  end)
end)

test("rpc process: a start that is cancelled leaves nothing running", function()
  with_vm({
    Start = function()
      task.sleep(0.3)
      return false
    end,
  }, function(client, vm)
    for _, limit in ipairs({ 0.1, 0.29 }) do
      local before = vm:count("Start")
      assert(not task.move_on(limit, client.open_process, client, "sbx-1", "exec sleep 61"))
      assert(vm:count("Start") == before + 1)
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
    local p <close> = client:open_process("sbx-1", "echo one; sleep 60", { deadline = 0.3 })
    assert(p:lines()() == "one")
    local err = api.failure(p.wait, p)
    assert(err.kind == "command_timeout" and err.timeout == 0.3, tostring(err))
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
