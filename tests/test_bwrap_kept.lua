-- Sandboxes that outlive their server: taken up again by the next one, or ended by it.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local processes = require("sbx.server.driver.bwrap_process")
local task = require("sbx.task")

local function with_folder(fn)
  local folder <close> = fs.tmpdir { prefix = "kept-" }
  local path = folder.path .. "/d"
  fs.mkdir(path, { mode = 448 })
  local ok, failure = pcall(fn, path)
  -- Whatever has become of the test, nothing is left running.
  bwrap.open({ folder = path, keep = true }):sweep {}
  if not ok then error(failure, 0) end
end

local function spec(id, more)
  local all = {
    id = id, hostname = id, memory_gb = 0.2, env = { MINE = "yes" }, log = function() end,
    lifetime = 120,
  }
  for name, value in pairs(more or {}) do
    all[name] = value
  end
  return all
end

-- Starts a server's driver in a process of its own, which makes a sandbox, prints what
-- was saved of it, and is killed.
local function killed_server(folder, id, more)
  local script = folder .. "-start.lua"
  fs.write(script, ([[
local box = require("sbx.server.driver.bwrap").open({ folder = %q, keep = true }):create {
  id = %q, hostname = %q, memory_gb = 0.2, env = { MINE = "yes" }, lifetime = 120, %s }
box.agent:exec { command = "echo before > /tmp/x; (while sleep 0.05; do echo >> /tmp/t; done) &" }
io.stdout:write(require("sbx.json").encode(box.saved), "\n")
io.stdout:flush()
require("sbx.task").sleep(60)
]]):format(folder, id, id, more or ""))
  local child <close> = process.spawn({ host.executable(), script }, { stdout = "pipe" })
  local line = task.timeout(60, child.stdout.read, child.stdout)
  child:kill(9)
  child:wait()
  return json.decode(line)
end

local function is_gone(saved)
  return processes.await_end(saved.inner, 60) and processes.await_end(saved.outer, 60)
    and processes.await_end(saved.helper, 60)
end

test("bwrap kept: after kill -9 of the server the next one takes it up", function()
  with_folder(function(folder)
    local saved = killed_server(folder, "one")
    assert(processes.is_alive(saved.inner) and fs.stat(saved.socket).mode & 511 == 384)
    local driver = bwrap.open { folder = folder, keep = true }
    local box, problem = driver:adopt(spec "one", saved)
    assert(box, problem)
    local result = box.agent:exec {
      command = "until test -s /tmp/t; do sleep 0.05; done; cat /tmp/x; echo $MINE; wc -l < /tmp/t",
    }
    local before, mine, first = result.stdout:match("^(%S+)\n(%S+)\n(%d+)")
    assert(before == "before" and mine == "yes", result.stdout)
    -- What ran then runs on.
    task.timeout(60, function()
      repeat
        local later = box.agent:exec({ command = "wc -l < /tmp/t" }).stdout
      until tonumber(later) > tonumber(first)
    end)
    assert(box.limits.memory == driver.enforced.memory and box.image_source == "host")
    assert(box.pid == saved.inner.pid and box.network_enforced)
    if driver.enforced.memory:find("cgroup") then
      assert(box:memory_kills() == 0)
      box.agent:exec { command = "python3 -c 'x = bytearray(500 << 20)'" }
      assert(box:memory_kills() == 1)
    end
    driver:sweep { one = true }
    assert(box.agent:exec({ command = "echo alive" }).stdout == "alive\n")
    box:kill()
    assert(is_gone(saved))
    assert(#fs.list(folder) == 0, table.concat(fs.list(folder), " "))
    driver:close()
  end)
end)

test("bwrap kept: let go and taken up, again and again", function()
  with_folder(function(folder)
    local saved
    for round = 1, 4 do
      task.scope(function()
        local driver = bwrap.open { folder = folder, keep = true }
        local box
        if round == 1 then
          box = driver:create(spec "again")
        else
          box = assert(driver:adopt(spec "again", json.decode(json.encode(saved))))
        end
        saved = box.saved
        local text = box.agent:exec({ command = "echo x >> /tmp/x; wc -l < /tmp/x" }).stdout
        assert(tonumber(text) == round)
        if round < 4 then box:release() else box:kill() end
        driver:close()
      end)
      assert(processes.is_alive(saved.inner) == (round < 4))
    end
  end)
end)

test("bwrap kept: what has ended, or is another, is not taken up", function()
  with_folder(function(folder)
    local saved = killed_server(folder, "two")
    local driver = bwrap.open { folder = folder, keep = true }
    local other = json.decode(json.encode(saved))
    other.inner.start = "1"
    local box, problem = driver:adopt(spec "two", other)
    assert(not box and problem:find("ended", 1, true))
    box, problem = bwrap.open():adopt(spec "two", saved)
    assert(not box and problem:find("not kept", 1, true))

    processes.kill(saved.inner)
    assert(is_gone(saved))
    box, problem = driver:adopt(spec "two", saved)
    assert(not box and problem:find("ended", 1, true))
    assert(driver:sweep {} >= 1) -- and groups of other servers that were killed
    assert(#fs.list(folder) == 0)
  end)
end)

test("bwrap kept: nobody but the server can take it", function()
  with_folder(function(folder)
    local saved = killed_server(folder, "three")
    local driver = bwrap.open { folder = folder, keep = true }
    -- A stranger at the socket's place.
    fs.rename(saved.socket, saved.socket .. ".real")
    local box, problem = driver:adopt(spec "three", saved)
    assert(not box and problem:find("does not answer", 1, true), problem)
    fs.rename(saved.socket .. ".real", saved.socket)
    assert(processes.is_alive(saved.inner))
  end)
end)

test("bwrap kept: a sweep ends all that nobody knows, and nothing else", function()
  with_folder(function(folder)
    local mine, theirs = killed_server(folder, "mine"), killed_server(folder, "theirs")
    fs.write(folder .. "/broken.json", "{")
    local driver = bwrap.open { folder = folder, keep = true }
    assert(driver:sweep { mine = true } >= 2)
    assert(is_gone(theirs) and processes.is_alive(mine.inner))
    local group = driver.limits:find("theirs")
    for _, path in ipairs(group and group.folders or {}) do
      assert(not fs.exists(path), path)
    end
    local names = table.concat(fs.list(folder), " ")
    assert(names == "mine.json mine.sock", names)
  end)
end)

test("bwrap kept: an end is noticed, also of one taken up", function()
  with_folder(function(folder)
    local saved = killed_server(folder, "ends")
    local driver = bwrap.open { folder = folder, keep = true }
    local box = assert(driver:adopt(spec "ends", saved))
    local told = task.waiter("the end")
    box:on_exit(function(reason)
      told:wake(reason)
    end)
    processes.kill(saved.inner)
    local reason = task.timeout(60, told.wait, told)
    assert(reason:find("ended", 1, true), reason)
    box:kill()
  end)
end)

test("bwrap kept: a way out outlives the server, and ends with the sandbox", function()
  with_folder(function(folder)
    local saved = killed_server(folder, "net", "network = true")
    if not saved.helper then return end -- no network to be had here
    assert(processes.is_alive(saved.helper))
    local driver = bwrap.open { folder = folder, keep = true }
    local box = assert(driver:adopt(spec("net", { network = true }), saved))
    assert(box.agent:exec({ command = "cat /proc/net/dev" }).stdout:find("tap0", 1, true))
    box:set_network { allowlist = {} }
    box:release()
    -- Killed with nobody there to look: the helper ends by itself.
    processes.kill(saved.inner)
    assert(is_gone(saved), "slirp4netns runs on")

    -- One that has died is started anew when the sandbox is taken up.
    saved = killed_server(folder, "net2", "network = true")
    processes.kill(saved.helper, true)
    assert(processes.await_end(saved.helper, 10))
    box = assert(driver:adopt(spec("net2", { network = true }), saved))
    assert(box.network_enforced and box.helper)
    assert(box.agent:exec({ command = "cat /proc/net/dev" }).stdout:find("tap0", 1, true))
    box:kill()
    assert(is_gone(box.saved) and is_gone(saved))
  end)
end)

test("bwrap kept: a name that is too long for a socket is told", function()
  with_folder(function(folder)
    local long = folder .. "/" .. ("x"):rep(100)
    fs.mkdir(long, { mode = 448 })
    local driver = bwrap.open { folder = long, keep = true }
    local ok, failure = pcall(driver.create, driver, spec "id")
    assert(not ok and failure.message:find("--state", 1, true), tostring(failure))
    fs.remove(long, { recursive = true })
  end)
end)

-- Servers that follow one another on one state.
local function serve(folder, keep, fn)
  local state = require("sbx.server.state")
  local kept <close> = state.open(folder .. "/state")
  fs.mkdir(folder .. "/driver", { parents = true, mode = 448 })
  local driver = bwrap.open { folder = folder .. "/driver", keep = keep }
  support.with_server(fn, { driver = driver, state = kept, keep = keep, api_key = "k" })
  driver:close()
end

test("bwrap kept: through the API, over two servers", function()
  local folder <close> = fs.tmpdir { prefix = "kept-" }
  local id
  serve(folder.path, true, function(api)
    local object, gateway = api:running { name = "stays", timeout_minutes = 5 }
    id = object.id
    local status = gateway:exec("echo mark > /tmp/m")
    assert(status == 200)
  end)
  serve(folder.path, true, function(api)
    assert(api:await(id, "RUNNING", "TERMINATED").status == "RUNNING")
    local _, result = api:gateway(id):exec("cat /tmp/m")
    assert(result.stdout == "mark\n")
  end)
  -- A server that does not keep ends it.
  serve(folder.path, false, function(api)
    local object = api:await(id, "RUNNING", "TERMINATED")
    assert(object.status == "TERMINATED", object.status)
    assert(object.terminationReason:find("server restarted", 1, true))
  end)
  assert(#fs.list(folder.path .. "/driver") == 0)
  local lines = errors.try(process.run, { "pgrep", "-f", id }, { timeout = 60 })
  assert(not lines or lines.stdout == "", hash.sha1(id))
end)
