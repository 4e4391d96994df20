-- `sbxlua serve` with real sandboxes, killed outright in the middle of its work and
-- started again on the same state: what it had answered for must hold.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local task = require("sbx.task")

local ROUNDS, CLIENTS = 2, 4

local function read(path)
  return errors.try(fs.read, path) or ""
end

-- Processes whose command line holds `text`: bubblewrap's has the sandbox's id.
local function processes_with(text)
  local found = {}
  for _, name in ipairs(fs.list("/proc")) do
    if name:find("^%d+$") and read("/proc/" .. name .. "/cmdline"):find(text, 1, true) then
      found[#found + 1] = name
    end
  end
  return found
end

local function await_no_process(ids)
  task.timeout(60, function()
    for id in pairs(ids) do
      while #processes_with(id) > 0 do
        task.sleep(0.01)
      end
    end
  end)
end

-- A server process on `folder`, ready to be asked; `child` is to be ended.
local function start(folder, more)
  local argv = {
    host.executable(), "serve", "--listen", "127.0.0.1:0", "--state", folder .. "/state",
    "--key-file", folder .. "/key", table.unpack(more or {}),
  }
  local child = process.spawn(argv, { stderr = "pipe", stdout = "null" })
  local text = ""
  task.timeout(60, function()
    while not text:find("Ctrl-C", 1, true) do
      text = text .. assert(child.stderr:read(), text)
    end
  end)
  local api = support.api {
    url = text:match("http://127%.0%.0%.1:%d+"), api_key = read(folder .. "/key"):match("%S+"),
  }
  -- What it says later is of no use, but must not fill the pipe.
  local drain = task.daemon(function()
    while errors.try(child.stderr.read, child.stderr) do end
  end)
  return child, api, drain
end

local function finish(child, signal)
  child:kill(signal)
  return task.timeout(60, child.wait, child)
end

-- What one client was told: id → "created" or "deleted".
local function work(api, told, exposed)
  while true do
    local status, made = api:call("POST", "/sandbox", { name = "x", docker_image = "debian" })
    if status ~= 201 then return end
    told[made.id] = "created"
    if math.random() < 0.5 then task.sleep(0.03) end
    if math.random() < 0.4 then
      local code, exposure = api:call("POST", "/sandbox/" .. made.id .. "/expose", { port = 8000 })
      if code == 200 then exposed[exposure.exposure_id] = made.id end
    end
    if math.random() < 0.6 then
      told[made.id] = "deleting"
      if api:call("DELETE", "/sandbox/" .. made.id) == 200 then told[made.id] = "deleted" end
    end
  end
end

local function check(api, told, exposed)
  local count = 0
  for id, what in pairs(told) do
    count = count + 1
    local status, object = api:call("GET", "/sandbox/" .. id)
    assert(status == 200, id .. " was acknowledged and is unknown")
    assert(object.status == "TERMINATED", id .. " is " .. object.status)
    if what == "deleted" then assert(object.terminationReason == "deleted", id) end
    if what == "created" then
      assert(object.terminationReason == "server restarted", object.terminationReason)
    end
  end
  for _, id in pairs(exposed) do
    local _, list = api:call("GET", "/sandbox/" .. id .. "/expose")
    assert(#list.exposures == 0)
  end
  local _, active = api:call("GET", "/sandbox?is_active=true")
  assert(active.total == 0, active.total .. " are active after a restart")
  return count
end

test("crash: kill -9 amid creates, deletes and exposures; the next server is consistent", function()
  local folder <close> = fs.tmpdir { prefix = "crash-" }
  local told, exposed = {}, {}
  for _ = 1, ROUNDS do
    local known = 0
    for _ in pairs(told) do
      known = known + 1
    end
    local child <close>, api = start(folder.path)
    local clients = {}
    for i = 1, CLIENTS do
      clients[i] = task.pspawn(work, api, told, exposed)
    end
    task.sleep(0.05 + math.random() * 0.4)
    finish(child, "KILL")
    for _, client in ipairs(clients) do
      client:cancel()
      client:pjoin()
    end
    local second <close>, again = start(folder.path)
    assert(check(again, told, exposed) >= known)
    -- Before it was asked anything, it had seen to what was left.
    await_no_process(told)
    assert(again:running().status == "RUNNING")
    assert(finish(second, "TERM") == 0)
    local third <close>, api3 = start(folder.path)
    local _, active = api3:call("GET", "/sandbox?is_active=true")
    assert(active.total == 0)
    assert(finish(third, "TERM") == 0)
  end
  assert(next(told), "nothing was acknowledged in all that time")
end)

test("crash: the same create asked again after kill -9 makes no second one", function()
  local folder <close> = fs.tmpdir { prefix = "crash-" }
  local child <close>, api = start(folder.path)
  local made = api:create { idempotency_key = "once" }
  finish(child, "KILL")
  local second <close>, again = start(folder.path)
  assert(again:create({ idempotency_key = "once" }).id == made.id)
  local status = again:call("POST", "/sandbox", {
    name = "other", docker_image = "x", idempotency_key = "once",
  })
  assert(status == 409)
  assert(finish(second, "TERM") == 0)
end)

test("serve: a second server on a state is told whose it is; a damaged one is named", function()
  local folder <close> = fs.tmpdir { prefix = "crash-" }
  local child <close> = start(folder.path)
  local function try()
    return process.run({
      host.executable(), "serve", "--listen", "127.0.0.1:0", "--state", folder.path .. "/state",
    }, { timeout = 60, env = { PRIME_API_KEY = "k" } })
  end
  local result = try()
  assert(result.code == 1, result.code)
  assert(result.stderr:find("process " .. child.pid, 1, true), result.stderr)
  assert(finish(child, "TERM") == 0)
  fs.write(folder.path .. "/state/state.db", ("x"):rep(8192), { mode = 384 })
  result = try()
  assert(result.code == 1 and result.stderr:find("damaged", 1, true), result.stderr)
  assert(fs.stat(folder.path .. "/state/state.db").size == 8192)
end)

test("serve: a graceful stop answers what is under way, and a command has its end first", function()
  local folder <close> = fs.tmpdir { prefix = "crash-" }
  local child <close>, api = start(folder.path)
  local object, box = api:running()
  local begun = task.spawn(function()
    return box:exec("touch /tmp/begun; sleep 1; echo done")
  end)
  task.timeout(60, function()
    while box:read_file("/tmp/begun") ~= 200 do
      task.sleep(0.01)
    end
  end)
  child:kill("TERM")
  local status, result = begun:join()
  assert(status == 200 and result.stdout == "done\n")
  assert(task.timeout(60, child.wait, child) == 0)
  await_no_process { [object.id] = true }
end)

test("serve: what a start command writes is in the log while it runs", function()
  support.with_server(function(api)
    local object, box = api:running {
      start_command = "echo begun; while ! test -e /tmp/go; do sleep 0.05; done; echo over; exit 3",
    }
    local function await_log(text)
      task.timeout(60, function()
        while not select(2, api:call("GET", "/sandbox/" .. object.id .. "/logs")).logs
          :find(text, 1, true) do
          task.sleep(0.02)
        end
      end)
    end
    await_log(" begun\n")
    assert(box:exec("touch /tmp/go") == 200)
    await_log("start command ended with exit code 3")
    assert(select(2, api:call("GET", "/sandbox/" .. object.id)).exitCode == 3)
  end)
end)
