-- `sbxlua serve` and the private server of `--local`, as processes of their own.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local json = require("sbx.json")
local local_server = require("sbx.local_server")
local process = require("sbx.process")
local task = require("sbx.task")

local function serve(args, env)
  local argv = { host.executable(), "serve" }
  table.move(args, 1, #args, 3, argv)
  return process.run(argv, { timeout = 60, env = env })
end

local function call(server, method, path, body)
  local res = http.request(method, server.url .. "/api/v1" .. path, {
    headers = { Authorization = "Bearer " .. server.api_key }, json = body, timeout = 60,
  })
  return res.status, json.decode(res.body)
end

local function running_sandbox(server)
  local status, made = call(server, "POST", "/sandbox", { name = "x", docker_image = "debian" })
  assert(status == 201)
  task.timeout(60, function()
    repeat
      task.sleep(0.01)
      made = select(2, call(server, "GET", "/sandbox/" .. made.id))
    until made.status ~= "PENDING" and made.status ~= "PROVISIONING"
  end)
  assert(made.status == "RUNNING", made.errorMessage)
  return made
end

-- The processes below `pid`, itself included, by their numbers.
local function family(pid)
  local found = {}
  local function add(number)
    found[#found + 1] = number
    local ok, text = pcall(fs.read, ("/proc/%d/task/%d/children"):format(number, number))
    for child in (ok and text or ""):gmatch("%d+") do
      add(math.tointeger(tonumber(child)))
    end
  end
  add(pid)
  return found
end

local function is_alive(pid)
  local ok, text = pcall(fs.read, "/proc/" .. pid .. "/stat")
  return ok and not text:match("^%d+ %(.*%) ([ZX])")
end

local function await_gone(pids)
  task.timeout(60, function()
    for _, pid in ipairs(pids) do
      while is_alive(pid) do
        task.sleep(0.01)
      end
    end
  end)
end

test("serve: refuses what it cannot do, with status 2 in a few words", function()
  for _, args in ipairs {
    { "--listen", "0.0.0.0:80" }, { "--listen", "example.org:80" }, { "--listen", "nonsense" },
    { "--listen" }, { "--listen", "127.0.0.1:99999" }, { "--what" }, { "--driver", "none" },
    { "--driver", "../x" }, { "--driver", "bwrap=x" }, { "more" }, { "--state" },
    { "--no-state", "--keep" }, { "--profile", "pods" }, { "--profile" },
    { "--no-state", "--state", "x" }, { "--no-state=1" },
  } do
    local result = serve(args, { PRIME_API_KEY = "k" })
    assert(result.code == 2, table.concat(args, " ") .. ": " .. result.stderr)
    assert(result.stderr:find("\nTry 'sbxlua serve %-%-help'%.\n$"), result.stderr)
  end
  assert(serve({ "--help" }).stdout:find("usage", 1, true))
end)

test("serve: makes a key that only its owner can read, and never prints it", function()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local key_file = folder.path .. "/key"
  local child <close> = process.spawn(
    { host.executable(), "serve", "--no-state", "--listen", "127.0.0.1:0",
      "--key-file", key_file }, { stderr = "pipe", stdout = "null" })
  local text = ""
  task.timeout(60, function()
    while not text:find("Ctrl-C", 1, true) do
      text = text .. assert(child.stderr:read(), text)
    end
  end)
  local key = fs.read(key_file):match("%S+")
  assert(#key == 64 and fs.stat(key_file).mode & 511 == 384)
  assert(not text:find(key, 1, true) and text:find(key_file, 1, true))

  local server = { url = text:match("http://127%.0%.0%.1:%d+"), api_key = key }
  running_sandbox(server)
  local pids = family(child.pid)
  assert(#pids > 1)
  child:kill("TERM")
  local code = task.timeout(60, child.wait, child)
  assert(code == 0, tostring(code))
  await_gone(pids)
end)

test("serve: a key file that others can read is refused", function()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  fs.write(folder.path .. "/key", "abc\n", { mode = 420 })
  local result = serve {
    "--no-state", "--listen", "127.0.0.1:0", "--key-file", folder.path .. "/key",
  }
  assert(result.code == 2 and result.stderr:find("chmod 600", 1, true))
end)

test("local server: runs, says once what image it uses, and stops without a trace", function()
  local said = {}
  local server = local_server.start {
    stderr = function(bytes)
      said[#said + 1] = bytes
    end,
  }
  running_sandbox(server)
  running_sandbox(server)
  local pids = family(server.pid)
  assert(#pids >= 3)
  server.stop()
  server.stop()
  await_gone(pids)
  local _, count = table.concat(said):gsub("debian", "")
  assert(count == 1, table.concat(said))
  assert(not pcall(http.get, server.url, { timeout = 60 }))
end)

test("local server: is gone when its owner is killed outright", function()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local script = folder.path .. "/owner.lua"
  fs.write(script, [[
    local server = require("sbx.local_server").start {}
    io.stdout:write(server.url, " ", server.api_key, " ", server.pid, "\n")
    io.stdout:flush()
    require("sbx.task").sleep(600)
  ]])
  local owner <close> = process.spawn({ host.executable(), script }, {
    stdout = "pipe", stderr = "null", grace = 0,
  })
  local line = task.timeout(60, owner.stdout.read, owner.stdout)
  local url, key, pid = line:match("(%S+) (%S+) (%d+)")
  running_sandbox { url = url, api_key = key }
  local pids = family(math.tointeger(tonumber(pid)))
  assert(#pids > 1)
  owner:kill("KILL")
  owner:wait()
  await_gone(pids)
end)
