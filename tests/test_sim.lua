-- The driver that simulates sandboxes: what its file may say, its agent, and servers and
-- clients on top of it.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local process = require("sbx.process")
local rules = require("sbx.server.driver.sim.rules")
local task = require("sbx.task")
local test_module = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "sim_support.lua")

local with_driver, with_server = support.with_driver, support.with_server

local function exec(box, command, options)
  local opts = { command = command }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  return box.agent:exec(opts)
end

-- ------------------------------------------------------------------------ its file

test("what commands do comes from the file, wherever they stand", { clock = "virtual" }, function()
  with_driver({
    exec = {
      ["^python3 train%.py"] = {
        stdout = "epoch 1\n", stderr = "warn\n", exit_code = 3, seconds = 90,
      },
      ["^python3"] = "Python\n",
      ["^roll"] = function(command, box, random)
        return { stdout = command .. " " .. box.id .. " " .. random(6) .. "\n" }
      end,
      ["^echo special"] = "changed\n",
      ["^maybe"] = function() return nil end,
    },
  }, function(_, create)
    local box = create()
    local began = task.now()
    local result = exec(box, "cd /tmp && python3 train.py --fast > log; echo $?; cat log")
    test_module.near(task.now() - began, 90)
    assert(result.stdout == "3\nepoch 1\n" and result.stderr == "warn\n")
    assert(exec(box, "python3 -V | head -c 3").stdout == "Pyt")
    assert(exec(box, "roll 'a b'").stdout:find("^roll a b sbx%-1 [1-6]\n$"))
    assert(exec(box, "echo special; echo usual").stdout == "changed\nusual\n")
    assert(exec(box, "maybe").exit_code == 127)
    local timed = exec(box, "python3 train.py", { timeout = 10 })
    assert(timed.timed_out and timed.stdout == "")
  end)
end)

test("a function may answer for all commands, and set a sandbox up", function()
  with_driver({
    setup = function(box) box:write("/etc/motd", "welcome\n") end,
    exec = function(command, box)
      if command == "die" then box:die("told to") end
      if command == "grow" then return { stdout = box:read("/etc/motd"), exit_code = 9 } end
    end,
  }, function(_, create)
    local box, reason = create(), nil
    box:on_exit(function(words, kind) reason = words .. tostring(kind) end)
    local result = exec(box, "grow; echo $?")
    assert(result.stdout == "welcome\n9\n", result.stdout)
    local ok, err = pcall(exec, box, "die")
    assert(not ok and err.kind == "not_running" and reason == "told tonil")
  end)
end)

test("randomness belongs to the sandbox: the same seed says the same", { clock = "virtual" },
  function()
    local function run(seed)
      local said = {}
      with_server({
        seed = seed,
        rules = { boot = { 1, 5 }, exec = { roll = function(_, _, random)
          return { stdout = tostring(random(1000)), seconds = random() }
        end } },
      }, function(running, driver)
        local records = {}
        for i = 1, 3 do
          records[i] = running.fleet:create { name = "n" .. i, docker_image = "x", labels = {},
            cpu_cores = 1, memory_gb = 1, disk_size_gb = 1, timeout_minutes = 60, network = true }
        end
        local _ = driver
        test_module.clock():advance(6)
        -- In another order: it changes nothing.
        for _, i in ipairs(seed == 7 and { 1, 2, 3 } or { 3, 1, 2 }) do
          local waiting = task.spawn(exec, records[i].box, "roll; roll")
          test_module.clock():advance(3)
          said[i] = waiting:join().stdout .. records[i].started_at - records[i].created_at
        end
      end)
      return table.concat(said, " ")
    end
    local first = run(7)
    assert(first == run(7), first)
    assert(first ~= run(8))
  end)

test("boots, images and deaths follow the file", function()
  local clock = test_module.clock()
  with_server({
    rules = {
      boot = function(spec) return spec.image == "slow" and 30 or 0 end,
      images = { gone = "no such tag" },
      death = function(spec)
        if spec.image == "weak" then return 100, "out of memory", "OOM_KILLED" end
      end,
    },
  }, function(running)
    local function create(image)
      return running.fleet:create { name = image, docker_image = image, labels = {}, cpu_cores = 1,
        memory_gb = 1, disk_size_gb = 1, timeout_minutes = 2, network = true }
    end
    local slow, gone, weak = create("slow"), create("gone"), create("weak")
    clock:advance(1)
    assert(slow.status == "PROVISIONING" and weak.status == "RUNNING")
    assert(gone.status == "ERROR" and gone.error_type == "IMAGE_PULL_FAILED")
    assert(gone.error_message:find("no such tag", 1, true))
    clock:advance(30)
    assert(slow.status == "RUNNING")
    clock:advance(70)
    assert(weak.status == "ERROR" and weak.error_type == "OOM_KILLED")
    clock:advance(60)
    assert(slow.status == "TIMEOUT")
  end)
end)

test("what is wrong with a file is told with its place", function()
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/rules.lua"
  for text, words in pairs {
    ["return {\n  boot = 1,\n  exce = {},\n}"] =
      "rules.lua:3: exce: unknown in a simulation; did you mean 'exec'",
    ["return {\n boot = -1 }"] = "rules.lua:2: boot: expected a number",
    ["local x\nreturn { boot = x.y }"] = "rules.lua:2: attempt to index a nil value",
    ["return {\n\n boot = = 1 }"] = "rules.lua:3:",
    ["return 5"] = "rules.lua: it must return a table",
    ["return { exec = {\n  ['^a'] = { stdot = 'x' } } }"] =
      "stdot: unknown in ^a; did you mean 'stdout'",
    ["return { exec = {\n  ['[a'] = 'x' } }"] = "not a Lua pattern",
    ["return { exec = { a = { exit_code = 'x' } } }"] = "exit_code: expected a whole number",
    ["return { death = { 5, 1 } }"] = "death: expected a number",
  } do
    fs.write(path, text)
    local err = test_module.raises(function() rules.load(path) end, "script")
    assert(err.message:find(words, 1, true), err.message)
  end
  test_module.raises(function() rules.load(folder.path .. "/none.lua") end, "script")
  -- What a function of it raises reaches whoever asked.
  with_driver({ exec = function() error("at work") end }, function(_, create)
    local err = test_module.raises(exec, "script", create(), "true")
    assert(err.message:find("test_sim.lua:%d+: at work"), err.message)
  end)
end)

-- ----------------------------------------------------------------------- the agent

test("files: whole or not at all, windows, folders, what is not there", function()
  with_driver({}, function(_, create)
    local agent = create().agent
    local function source(...)
      local list = { ... }
      return function() return table.remove(list, 1) end
    end
    local function get(path, options)
      local parts = {}
      local size, total = agent:get(path, function(bytes) parts[#parts + 1] = bytes end, options)
      return table.concat(parts), size, total
    end
    assert(agent:put("/data/deep/a.bin", source("abc", "def"), { mode = 448 }) == 6)
    assert(get("/data/deep/a.bin") == "abcdef")
    local bytes, size, total = get("/data/deep/a.bin", { offset = -4, length = 2 })
    assert(bytes == "cd" and size == 2 and total == 6)
    assert(get("/data/deep/a.bin", { offset = 10 }) == "")
    local stat = agent:stat("/data/deep/a.bin")
    assert(stat.type == "file" and stat.size == 6 and stat.mode == 448)
    assert(agent:stat("/data").type == "directory")
    pcall(agent.put, agent, "/data/deep/a.bin", function() error("cut off") end)
    assert(get("/data/deep/a.bin") == "abcdef")
    for path, code in pairs { ["/none"] = "ENOENT", ["/data"] = "EISDIR" } do
      test_module.raises(get, code, path)
    end
    test_module.raises(function() agent:put("/data", source("x")) end, "EISDIR")
    test_module.raises(function() agent:put("/data/deep/a.bin/x", source("x")) end, "ENOTDIR")
    test_module.raises(function() agent:exec { command = "true", cwd = "/none" } end, "ENOENT")
    test_module.raises(function() agent:exec { command = "true", user = "bob" } end, "EINVAL")
    local large = ("x"):rep(1024 * 1024)
    local pieces = 0
    local function endless()
      pieces = pieces + 1
      return large
    end
    test_module.raises(function() agent:put("/huge", endless) end, "ENOSPC")
    assert(pieces < 400)
    agent:close()
    test_module.raises(function() agent:stat("/data") end, "not_running")
  end)
end)

test("sessions: output as it comes, input, signals, a terminal", { clock = "virtual" }, function()
  with_driver({}, function(_, create)
    local agent = create().agent
    local session = agent:start { argv = { "sh", "-c", "echo a; sleep 5; echo b >&2; exit 4" } }
    local channel, bytes = session:read()
    assert(channel == "stdout" and bytes == "a\n" and session.exit_code == nil)
    channel, bytes = session:read()
    assert(channel == "stderr" and bytes == "b\n")
    assert(session:read() == nil and session.exit_code == 4)

    session = agent:start {
      argv = { "sh", "-c", "while read -r l; do echo got $l; done" }, stdin = true,
    }
    session:write("one\ntw")
    session:write("o\n")
    assert(select(2, session:read()) == "got one\n" and select(2, session:read()) == "got two\n")
    session:close_stdin()
    assert(session:read() == nil and session.exit_code == 0)
    test_module.raises(function() session:write("x") end, "EPIPE")

    session = agent:start { argv = { "sleep", "1000" } }
    session:kill(15)
    assert(session:read() == nil and session.exit_code == 143 and session.signal == 15)
    session = agent:start {
      argv = { "sh", "-c", "echo x >&2; sleep 1000" }, pty = { cols = 80, rows = 24 },
    }
    assert(session:read() == "pty")
    session:resize(100, 40)
    session:close()
    assert(session:read() == nil and session.signal == 9)
    session = agent:start { argv = { "no-such-program" } }
    repeat until not session:read()
    assert(session.exit_code == 127)
  end)
end)

test("ports: what the file says answers, also when it is exposed", function()
  with_server({
    rules = { ports = { [8000] = "hello", [9000] = function(request, box)
      local body = request:match("^(%u+)") .. " " .. box.image
      return "HTTP/1.0 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
    end } },
  }, function(running)
    local client <close> = support.client(running)
    local box <close> = client:create { name = "a", docker_image = "img" }
    box:wait()
    for port, body in pairs { [8000] = "hello", [9000] = "GET img" } do
      local exposed = client:expose(box.id, port)
      assert(http.get(exposed.url, { timeout = 60 }).body == body)
    end
    local closed = client:expose(box.id, 8080)
    assert(http.get(closed.url, { timeout = 60 }).status == 502)
  end)
end)

-- --------------------------------------------------------------------- our client

test("our client's commands, files and jobs run on it", function()
  local work = { stdout = "worked\n", exit_code = 6, seconds = 0.2 }
  with_server({ rules = { exec = { ["^work"] = work } } },
    function(running)
      local client <close> = support.client(running)
      local box <close> = client:create {
        name = "a", docker_image = "x", environment_vars = { A = "1" },
      }
      box:wait()
      assert(client:execute_command(box, "echo $A; pwd").stdout == "1\n/sandbox-workspace\n")
      client:upload_bytes(box.id, "/tmp/a.txt", "some\0bytes")
      assert(client:download_bytes(box.id, "/tmp/a.txt") == "some\0bytes")
      local spooled = client:execute_command(box, "cat; work; exit 5", {
        stdin = ("x"):rep(20000), spool = true,
      })
      assert(spooled.exit_code == 5 and #spooled.stdout == 20007, #spooled.stdout)
      assert(client:execute_command(box, "cat", { stdin = "a\\b'\1é" }).stdout == "a\\b'\1é")

      local done = client:run_background_job(box, "echo out; work; echo err >&2; exit 7")
      assert(done.completed and done.exit_code == 7)
      assert(done.stdout == "out\nworked\n" and done.stderr == "err\n")
      local job = client:start_background_job(box, "echo begun; sleep 1000; echo never")
      assert(client:get_background_job(box, job).completed == false)
      assert(client:cancel_background_job(job) == true)
      local after = client:get_background_job(box, job)
      assert(after.completed and after.exit_code == 143 and after.stdout == "begun\n")
      local late = test_module.raises(client.execute_command, "command_timeout", client, box,
        "echo a; sleep 1000", { deadline = 3 })
      assert(late.stdout == "a\n" and late.outcome == "exited")
    end)
end)

test("serve: --driver sim=FILE says where its file is wrong", function()
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/rules.lua"
  fs.write(path, "return {\n  boot = 'soon',\n}\n")
  local argv = { host.executable(), "serve", "--driver", "sim=" .. path, "--no-state", "--listen",
    "127.0.0.1:0" }
  local result = process.run(argv, { env = { PRIME_API_KEY = "k" }, timeout = 60 })
  assert(result.code == 1 and result.stderr:find("rules.lua:2: boot: expected", 1, true),
    result.stderr)
  assert(not result.stderr:find("traceback"))
  for _, more in ipairs { { "--seed", "x" }, { "--chaos-log", "x" } } do
    result = process.run({ host.executable(), "serve", table.unpack(more) }, { timeout = 60 })
    assert(result.code == 2 and result.stderr:find(more[1], 1, true))
  end
end)

test("a simulation that ends leaves nothing, whatever its sandboxes were doing", function()
  with_driver({ death = 1e6 }, function(driver, create)
    for i = 1, 3 do
      local box = create { id = "sbx-" .. i }
      exec(box, "sleep 100000 & (while :; do sleep 3; done) &")
      if i > 1 then box:kill() end
      if i == 3 then box:kill() end -- twice is harmless
    end
    local waiting = task.pspawn(exec, create(), "sleep 5000")
    task.sleep(0.01)
    driver:close()
    waiting:cancel()
    local ok, err = waiting:pjoin()
    assert(not ok and errors.is_error(err))
  end)
end)
