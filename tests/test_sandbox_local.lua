-- The client against the real server of this machine, and the two demos.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local http = require("sbx.http")
local local_server = require("sbx.local_server")
local process = require("sbx.process")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local scripts = here .. "../scripts/"
local WANTED = { name = "a", docker_image = "python:3.11-slim" }

state.use(false) -- nothing in the folder of who runs the tests

-- Calls `fn(client)` with a client of a private server, which ends with it.
---@async
local function with_client(fn)
  local server = local_server.start({ stderr = function() end })
  local ok, err = xpcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    fn(client)
  end, function(err) return type(err) == "string" and debug.traceback(err) or err end)
  local failures = run.finish()
  server.stop()
  if not ok then error(err, 0) end
  assert(#failures == 0, tostring(failures[1]))
end

local function sha256_of(path)
  local digest = hash.sha256_new()
  local file <close> = fs.open(path, "r")
  for bytes in function() return file:read(1048576) end do
    digest:update(bytes)
  end
  return digest:hex()
end

test("local: a whole life", function()
  with_client(function(client)
    local box <close> = client:create({
      name = "life", docker_image = "python:3.11-slim", labels = { "test" },
      environment_vars = { GREETING = "grüße" }, secrets = { PASS = "hunter2hunter2" },
    })
    assert(box:wait().status == "RUNNING")
    assert(box:exec("python -c 'print(42)'").stdout == "42\n")
    local result = box:exec('echo "$GREETING $PASS $X"; pwd; echo no >&2; exit 3', {
      working_dir = "/tmp", env = { X = "y" },
    })
    assert(result.stdout == "grüße hunter2hunter2 y\n/tmp\n")
    assert(result.stderr == "no\n" and result.exit_code == 3)
    assert(type(box:logs()) == "string")
    assert(client:get(box).secrets.PASS ~= "hunter2hunter2")
    assert(client:list({ labels = { "test" } })[1].id == box.id)
    assert(#client:list({ labels = { "other" } }) == 0)

    box:delete()
    local ok, after = pcall(client.get, client, box.id)
    assert(not ok or after.status == "TERMINATED")
  end)
end)

test("local: files of 64 MiB go up and down with equal SHA-256", function()
  local folder <close> = fs.tmpdir({})
  local there, back = folder.path .. "/up", folder.path .. "/down"
  do
    local from <close> = fs.open("/dev/urandom", "r")
    local to <close> = fs.open(there, "w")
    for _ = 1, 64 do
      to:write(from:read(1048576))
    end
  end
  with_client(function(client)
    local box <close> = client:create(WANTED)
    box:wait()
    local size = fs.stat(there).size
    assert(box:upload_file("/tmp/deep/er/file", there).size == size)
    local digest = sha256_of(there)
    assert(box:exec("sha256sum < /tmp/deep/er/file").stdout:find(digest, 1, true))
    assert(box:download_file("/tmp/deep/er/file", back) == size)
    assert(sha256_of(back) == digest)
  end)
end)

test("local: 64 commands at once in one sandbox", function()
  with_client(function(client)
    local box <close> = client:create(WANTED)
    box:wait()
    local list = {}
    for i = 1, 64 do
      list[i] = i
    end
    local results = task.map(list, function(i) return box:exec("echo $((" .. i .. " * 3))") end,
      { limit = 64 })
    for i, result in ipairs(results) do
      assert(result.stdout == ("%d\n"):format(i * 3))
    end
  end)
end)

test("local: a web server that the sandbox exposes", function()
  with_client(function(client)
    local box <close> = client:create(WANTED)
    box:wait()
    box:upload_bytes("/srv/www/hello.txt", "hello from inside")
    box:exec("nohup python -m http.server 8000 --bind 0.0.0.0 > /dev/null 2>&1 &", {
      working_dir = "/srv/www",
    })
    local exposed = box:expose(8000, { name = "web" })
    assert(box:list_exposed_ports()[1].exposure_id == exposed.exposure_id)
    local body
    while not body do
      local ok, answer = pcall(http.get, exposed.url .. "/hello.txt")
      if ok and answer.status == 200 then body = answer.body else task.sleep(0.05) end
    end
    assert(body == "hello from inside")
    box:unexpose(exposed)
    assert(#box:list_exposed_ports() == 0)
  end)
end)

test("local: without network access nothing gets out, and commands still run", function()
  with_client(function(client)
    local box <close> = client:create({
      name = "isolated", docker_image = "python:3.11-slim", network_access = false,
    })
    assert(box.network_access == false)
    box:wait()
    local result = box:exec("cat /proc/net/dev; python -c 'import socket; "
      .. "socket.create_connection((\"192.0.2.1\", 80), 2)'")
    assert(result.exit_code ~= 0 and result.stderr:find("OSError", 1, true), result.stderr)
    assert(not result.stdout:find("eth0", 1, true))
  end)
end)

test("local: a command over its time is a command_timeout", function()
  with_client(function(client)
    local box <close> = client:create(WANTED)
    box:wait()
    local ok, err = pcall(box.exec, box, "sleep 30", { timeout = 1 })
    assert(not ok and err.kind == "command_timeout", tostring(err))
    assert(box:exec("echo alive").stdout == "alive\n")
  end)
end)

test("local: kinds of errors as from the real API", function()
  with_client(function(client)
    local ok, err = pcall(client.get, client, "sbx-none")
    assert(not ok and err.kind == "api" and err.status == 404)
    local wrong <close> = sandbox.client({
      api_key = "not-the-key", base_url = client.config.base_url,
    })
    ok, err = pcall(wrong.list, wrong)
    assert(not ok and err.kind == "unauthorized")
    local box <close> = client:create(WANTED)
    box:wait()
    ok, err = pcall(box.read_file, box, "/tmp/none")
    assert(not ok and err.kind == "file_not_found", tostring(err))
    box:delete()
    ok, err = pcall(box.exec, box, "true")
    assert(not ok and (err.status == 404 or err:is("not_running")), tostring(err))
  end)
end)

test("local: 200 sandboxes created, used and deleted by one script", { timeout = 180 }, function()
  with_client(function(client)
    local list = {}
    for i = 1, 200 do
      list[i] = i
    end
    local boxes = task.map(list, function(i)
      return client:create({ name = "n-" .. i, docker_image = "python:3.11-slim" })
    end)
    client:bulk_wait_for_creation(boxes)
    local results = task.map(boxes, function(box) return box:exec("hostname") end)
    local names = {}
    for _, result in ipairs(results) do
      assert(result.exit_code == 0 and not names[result.stdout])
      names[result.stdout] = true
    end
    assert(#client:bulk_delete(boxes).succeeded == 200)
    assert(#client:list({ exclude_terminated = true }) == 0)
  end)
end)

---@async
local function run_script(...)
  local words = { host.executable(), ... }
  return process.run(words, { timeout = 60 })
end

test("demo: launch_demo prints 42 and ends with nothing left", function()
  local result = run_script("--local", scripts .. "launch_demo.lua")
  assert(result.code == 0, result.stderr)
  assert(result.stdout == "42\n", result.stdout)
  assert(result.stderr:find("Delete the sandbox", 1, true))
  assert(not result.stderr:find("the script left", 1, true))
end)

test("demo: fleet_demo names all that are ready", function()
  local result = run_script("--local", scripts .. "fleet_demo.lua", "3")
  assert(result.code == 0, result.stderr)
  assert(result.stdout:find("^Ready: batch%-1, batch%-2, batch%-3\n"), result.stdout)
  assert(result.stdout:find("batch%-3: [^\n]*: 42\n$"), result.stdout)
  assert(not result.stderr:find("the script left", 1, true))
end)

test("demo: both explain themselves, and refuse what they do not know", function()
  for _, name in ipairs({ "launch_demo.lua", "fleet_demo.lua" }) do
    local result = run_script(scripts .. name, "--help")
    assert(result.code == 0 and result.stdout:find("^sbxlua %-%-local"), result.stderr)
  end
  local result = run_script(scripts .. "launch_demo.lua", "--imgae", "x")
  assert(result.code == 2 and result.stderr:find("did you mean '--image'?", 1, true))
  for _, words in ipairs({ { "0" }, { "10001" }, { "3", "4" }, { "-x" } }) do
    result = run_script(scripts .. "fleet_demo.lua", table.unpack(words))
    assert(result.code == 2 and result.stderr:find("^fleet_demo: "), result.stderr)
  end
end)

test("local: a script that raises leaves nothing, and says what it deleted", function()
  local code = [[
    local client = require("sbx.sandbox").client()
    client:create({ name = "a", docker_image = "b" })
    error("the script's own", 0)
  ]]
  local result = run_script("--local", "-e", code)
  assert(result.code == 1 and result.stderr:find("the script's own", 1, true), result.stderr)
  local told = "created 1 sandbox, deleted 1 (1 that the script left)"
  assert(result.stderr:find(told, 1, true), result.stderr)
end)

test("local: no key and nothing of this machine's environment shows", function()
  local marker = "host-" .. hash.random_hex(12)
  local code = [[
    local fs = require("sbx.fs")
    local client <close> = require("sbx.sandbox").client()
    local box <close> = client:create({
      name = "e", docker_image = "x", environment_vars = { MINE = "m-4711" },
    })
    box:wait()
    local key = client.config.api_key
    local inside = box:exec("env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'").stdout
    assert(inside:find("MINE=m-4711", 1, true))
    print("inside", inside:find(key, 1, true), inside:find("]] .. marker .. [[", 1, true))
    local seen = 0
    for _, name in ipairs(fs.list("/proc")) do
      local ok, line = pcall(fs.read, "/proc/" .. name .. "/cmdline")
      if ok and line:find(key, 1, true) then seen = seen + 1 end
    end
    print("ps", seen)
    print("shown", (tostring(client) .. tostring(box)):find(key, 1, true))
  ]]
  local result = process.run({ host.executable(), "--local", "-e", code }, {
    env = { SOME_SECRET = marker, PRIME_API_KEY = marker },
  })
  assert(result.stdout == "inside\tnil\tnil\nps\t0\nshown\tnil\n", result.stdout .. result.stderr)
end)

test("local: a sandbox reaches neither the API nor another sandbox", function()
  with_client(function(client)
    local one <close> = client:create(WANTED)
    local two <close> = client:create(WANTED)
    client:bulk_wait_for_creation({ one, two })
    local serve = "cd /tmp && nohup python3 -m http.server 8000 > /dev/null 2>&1 &"
    two:exec(serve)
    local exposed = two:expose(8000)
    local dial = [[python3 - <<'END'
import socket
for host in ("127.0.0.1", "10.0.2.2", "10.0.2.100", "10.0.2.3", "169.254.169.254"):
    for port in (%s, %s, 8000):
        try:
            socket.create_connection((host, port), 2)
            print(host, port)
        except OSError:
            pass
END]]
    local port = client.config.base_url:match(":(%d+)$")
    local result = one:exec(dial:format(port, exposed.url:match(":(%d+)/$")))
    assert(result.exit_code == 0 and result.stdout == "", result.stdout .. result.stderr)
  end)
end)
