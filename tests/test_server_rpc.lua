-- The command session of virtual machines, by our own client: real programs in real
-- sandboxes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local errors = require("sbx.errors")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

-- Runs fn(box, client, api) with a virtual machine that runs.
local function with_vm(fn, options)
  local opts = { profile = "vm" }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  support.with_server(function(api)
    local client <close> = sandbox.client {
      base_url = api.server.url, api_key = api.server.api_key,
    }
    local box <close> = client:create { name = "vm", docker_image = "i", vm = true }
    box:wait()
    fn(box, client, api)
  end, opts)
end

local function raises(kind, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "it was to fail")
  assert(errors.is_error(err) and err:is(kind), tostring(err))
  return err
end

local function eventually(condition)
  task.timeout(60, function()
    while not condition() do task.sleep(0.005) end
  end)
end

test("rpc: a command's bytes, folder, variables and exit code arrive", function()
  with_vm(function(box)
    local result = box:exec("pwd; printf '%s\\n' \"$A\"; echo oops >&2; exit 3", {
      env = { A = "b  c" }, working_dir = "/tmp",
    })
    assert(result.stdout == "/tmp\nb  c\n" and result.stderr == "oops\n", result.stdout)
    assert(result.exit_code == 3)
    local bytes = box:exec("printf '\\000\\377\\n'; head -c 3000000 /dev/zero | tr '\\0' x")
    assert(bytes.stdout == "\0\255\n" .. ("x"):rep(3000000))
    assert(box:exec("pwd").stdout == "/sandbox-workspace\n")
    assert(box:exec("no-such-command").exit_code == 127)
    assert(box:exec("kill -9 $$").exit_code == -1)
    assert(box:exec("").exit_code == 0)
  end)
end)

test("rpc: what a command leaves behind lives on and holds nobody up", function()
  with_vm(function(box)
    local result = box:exec("sleep 1000 & echo $!", { timeout = 60 })
    local pid = result.stdout:match("%d+")
    assert(box:exec("kill -0 " .. pid).exit_code == 0)
  end)
end)

test("rpc: over its time a command is ended with all that it has started", function()
  with_vm(function(box)
    raises("command_timeout", box.exec, box,
      "setsid sleep 4321 & echo $! > /tmp/pid; sleep 1000", { timeout = 4 })
    local pid = box:exec("cat /tmp/pid").stdout:match("%d+")
    eventually(function() return box:exec("kill -0 " .. pid).exit_code ~= 0 end)
    assert(#box:list_processes() == 0)
  end)
end)

test("rpc: a program is written to, read, listed and signalled", function()
  with_vm(function(box)
    local p <close> = box:open_process('while read x; do echo "<$x>"; done', {
      tag = "loop", env = { A = "1" }, cwd = "/tmp",
    })
    p:write("one\n")
    assert(p:lines()() == "<one>")
    local list = box:list_processes()
    assert(#list == 1 and list[1].tag == "loop" and list[1].pid == p.pid)
    assert(list[1].argv[1] == "/bin/bash" and list[1].cwd == "/tmp" and list[1].env.A == "1")
    assert(raises("api", box.open_process, box, "true", { tag = "loop" }).code == "already_exists")
    assert(p:signal("TERM"))
    local ended = p:wait()
    assert(ended.exit_code == -1 and not ended.exited and ended.status == "signal: terminated")
    assert(p:signal("KILL") == false)
    raises("io", p.write, p, "more")
    assert(#box:list_processes() == 0)
  end)
end)

test("rpc: a program without input reads its end at once; input goes to none", function()
  with_vm(function(box)
    local p <close> = box:open_process("cat; echo end; read x; sleep 1000", { stdin = false })
    assert(p:lines()() == "end")
    local q <close> = box:open_process({ "sh", "-c", "exec 0<&-; echo shut; sleep 1000" })
    assert(q:lines()() == "shut")
    local err = raises("api", function()
      while true do q:write(("x"):rep(65536)) end
    end)
    assert(err.code == "failed_precondition", tostring(err))
  end)
end)

test("rpc: a program has a terminal of the size that it is given", function()
  with_vm(function(box)
    local p <close> = box:open_process("stty size; read x; stty size; tty", {
      pty = { cols = 132, rows = 43 },
    })
    local lines = p:lines()
    assert(lines():find("^43 132"))
    p:resize(99, 33)
    p:write("\n")
    local text = {}
    for line in lines do
      text[#text + 1] = line
    end
    text = table.concat(text, "\n")
    assert(text:find("33 99", 1, true) and text:find("/dev/pts/", 1, true), text)
    assert(p:wait().exit_code == 0)
    local _ <close> = box:open_process("sleep 1000", { tag = "plain" })
    local other = box:attach_process("plain", { pty = true })
    assert(raises("api", other.resize, other, 80, 24).code == "failed_precondition")
    other:close()
  end)
end)

test("rpc: a program outlives its connection, and is found by tag and by pid", function()
  with_vm(function(box)
    local p = box:open_process('echo first; while read x; do echo "<$x>"; done', { tag = "t" })
    assert(p:lines()() == "first")
    local pid = p.pid
    p:detach()
    local again <close> = box:attach_process("t")
    local also <close> = box:attach_process(pid)
    again:write("both\n")
    assert(again:lines()() == "<both>" and also:lines()() == "<both>")
    assert(again.pid == pid and also.pid == pid)
    assert(also:signal("KILL"))
    assert(again:wait().status == "signal: killed" and also:wait().exit_code == -1)
    assert(raises("api", box.attach_process, box, "t").code == "not_found")
    assert(raises("api", box.attach_process, box, pid).code == "not_found")
  end)
end)

test("rpc: the time of an attachment ends it, and not the program", function()
  with_vm(function(box)
    local _ <close> = box:open_process("sleep 1000", { tag = "t" })
    local again = box:attach_process("t", { deadline = 3 })
    raises("command_timeout", again.wait, again)
    again:close()
    assert(#box:list_processes() == 1)
  end)
end)

test("rpc: a silent program's stream shows signs of life", function()
  with_vm(function(box)
    -- Most of what arrives here is keepalives; the client passes them over.
    assert(box:exec("sleep 0.3; echo late").stdout == "late\n")
  end, { keepalive = 0.01 })
end)

test("rpc: what cannot be started says why", function()
  with_vm(function(box)
    local err = raises("api", box.open_process, box, { "/no/such/program" })
    assert(err.code == "invalid_argument" and err.message:find("/no/such/program", 1, true))
    err = raises("api", box.exec, box, "true", { working_dir = "/nowhere" })
    assert(err.code == "invalid_argument" and err.message:find("/nowhere", 1, true))
  end)
end)

test("rpc: the end of a sandbox ends its programs, and says so", function()
  with_vm(function(box, client)
    local p = box:open_process("sleep 1000")
    task.scope(function(scope)
      scope:spawn(function()
        raises("not_running", p.wait, p)
      end)
      task.sleep(0.05)
      client:delete(box)
    end)
    p:close()
    raises("not_running", box.exec, box, "true")
  end)
end)

test("rpc: a command that takes all the memory ends the sandbox, and says so", function()
  with_vm(function(box, client, api)
    local _, object = api:call("GET", "/sandbox/" .. box.id)
    if object.limitsEnforced.memory == "none" then skip("no limits of memory on this machine") end
    local hog = client:create {
      name = "hog", docker_image = "i", vm = true, memory_gb = 0.1,
    }
    local _ <close> = hog
    hog:wait()
    local err = raises("oom", hog.exec, hog, "python3 -c 'bytearray(400000000)'")
    assert(err.sandbox_id == hog.id)
    assert(box:exec("true").exit_code == 0)
  end)
end)

test("rpc: many programs side by side keep their output apart", function()
  with_vm(function(box)
    local results = task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function(n)
      return box:exec(("for i in $(seq 200); do echo %d; done"):format(n)).stdout
    end)
    for n, text in ipairs(results) do
      assert(text == (n .. "\n"):rep(200))
    end
  end)
end)

test("rpc: files and background jobs are as in containers", function()
  with_vm(function(box, client)
    box:upload_bytes("/tmp/a", "0123456789")
    assert(box:read_file("/tmp/a") == "0123456789")
    local result = box:run_background_job("echo out; echo err >&2; exit 5")
    assert(result.exit_code == 5 and result.stdout == "out\n" and result.stderr == "err\n")
    local job = box:start_background_job("sleep 1000")
    assert(client:get_background_job(box, job).completed == false)
  end)
end)
