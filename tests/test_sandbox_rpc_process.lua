-- Live processes in virtual machines: what they say and what they are told.

local task = require("sbx.task")
local test_module = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")
local support = dofile(here .. "vm_support.lua")
local with_vm, eventually = support.with_vm, support.eventually

local function collect(p, name)
  local parts = {}
  for bytes in function() return p:read(name) end do
    parts[#parts + 1] = bytes
  end
  return table.concat(parts)
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
