-- `sbxlua serve --keep`, killed outright: start commands and the programs of clients go on,
-- and the next server knows them again.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local note = require("sbx.server.rpc.note")
local process = require("sbx.process")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

-- A server process on `folder` that keeps its sandboxes.
local function start(folder)
  local child = process.spawn({
    host.executable(), "serve", "--listen", "127.0.0.1:0", "--state", folder .. "/s", "--keep",
    "--profile", "both", "--key-file", folder .. "/key",
  }, { stderr = "pipe", stdout = "null" })
  local text = ""
  task.timeout(30, function()
    while not text:find("Ctrl-C", 1, true) do
      text = text .. assert(child.stderr:read(), text)
    end
  end)
  local drain = task.daemon(function()
    while errors.try(child.stderr.read, child.stderr) do end
  end)
  local server = {
    url = text:match("http://127%.0%.0%.1:%d+"), api_key = fs.read(folder .. "/key"):match("%S+"),
  }
  local client = sandbox.client({ base_url = server.url, api_key = server.api_key })
  return { child = child, api = support.api(server), client = client, drain = drain }
end

local function stop(server, signal)
  server.child:kill(signal)
  task.timeout(30, server.child.wait, server.child)
  errors.try(server.client.close, server.client)
  server.child:close()
end

-- Runs `fn(restart, folder)`; `restart(signal)` ends the server, if there is one, and starts
-- the next. Nothing is left behind, however it goes.
local function with_servers(fn)
  local folder <close> = fs.tmpdir { prefix = "kp-" }
  local running
  local ok, failure = pcall(fn, function(signal)
    if running then stop(running, signal) end
    running = start(folder.path)
    return running
  end)
  if running then stop(running, "KILL") end
  local driver = folder.path .. "/s/driver-bwrap"
  if fs.exists(driver) then bwrap.open({ folder = driver, keep = true }):sweep {} end
  if not ok then error(failure, 0) end
end

local function eventually(what, fn)
  local found
  task.timeout(60, function()
    repeat
      found = fn()
      if not found then task.sleep(0.01) end
    until found
  end)
  return assert(found, what)
end

local function log_of(server, id)
  return select(2, server.api:call("GET", "/sandbox/" .. id .. "/logs")).logs
end

test("kept programs: a start command is followed on, and its end is known", {
  timeout = 120,
}, function()
  with_servers(function(restart)
    local server = restart()
    local object = server.api:running {
      timeout_minutes = 5,
      start_command = "echo begun; while ! test -e /tmp/1; do sleep 0.02; done;"
        .. " echo second; while ! test -e /tmp/2; do sleep 0.02; done; echo third >&2; exit 5",
    }
    eventually("its begin", function() return log_of(server, object.id):find("begun", 1, true) end)

    server = restart("KILL")
    assert(server.api:await(object.id, "RUNNING", "TERMINATED").status == "RUNNING")
    server.api:gateway(object.id):exec("touch /tmp/1")
    eventually("its middle", function()
      return log_of(server, object.id):find("second", 1, true)
    end)
    -- A server that is told to stop leaves it in peace, too.
    server = restart("TERM")
    server.api:gateway(object.id):exec("touch /tmp/2")
    eventually("its end", function()
      return log_of(server, object.id):find("exit code 5", 1, true)
    end)
    assert(log_of(server, object.id):find("third", 1, true))
    local _, seen = server.api:call("GET", "/sandbox/" .. object.id)
    assert(seen.exitCode == 5, seen.exitCode)
    -- What has ended is not run again, nor taken up.
    server = restart("KILL")
    assert(select(2, server.api:call("GET", "/sandbox/" .. object.id)).exitCode == 5)
    assert(not log_of(server, object.id):find("begun", 1, true))
  end)
end)

test("kept programs: a start command that ends while no server runs is known to have", {
  timeout = 120,
}, function()
  with_servers(function(restart)
    local server = restart()
    local mark = "/tmp/go-" .. hash.random_hex(8)
    local object, box = server.api:running {
      timeout_minutes = 5,
      start_command = ("while ! test -e %s; do sleep 0.02; done; exit 9"):format(mark),
    }
    -- It waits for the server to be gone, seen from inside by a clock that goes on.
    box:exec(("(sleep 1; touch %s) > /dev/null 2>&1 &"):format(mark))
    server.child:kill("KILL")
    server.child:wait()
    eventually("it ends", function()
      local found = process.run({ "pgrep", "-f", "test -e " .. mark }, { timeout = 5 })
      return found.code == 1
    end)
    server = restart("KILL")
    eventually("its end is told", function()
      return select(2, server.api:call("GET", "/sandbox/" .. object.id)).exitCode == 9
    end)
  end)
end)

test("kept programs: those of a virtual machine are listed, found and talked with", {
  timeout = 120,
}, function()
  with_servers(function(restart)
    local server = restart()
    local box = server.client:create {
      name = "vm", docker_image = "i", vm = true, timeout_minutes = 5, keep = true,
    }
    box:wait()
    local plain = box:open_process('echo first; while read x; do echo "<$x>"; done; echo over', {
      tag = "loop", env = { A = "1" }, cwd = "/tmp",
    })
    assert(plain:lines()() == "first")
    plain:write("one\n")
    local pty = box:open_process('stty -echo; echo up; while read x; do stty size; done', {
      tag = "tty", pty = { cols = 101, rows = 41 },
    })
    assert(pty:lines()():find("up", 1, true))
    local id, pid = box.id, plain.pid
    plain:detach()
    pty:detach()

    for _, signal in ipairs { "KILL", "TERM" } do
      server = restart(signal)
      box = server.client:get(id)
      local list = eventually("both are listed", function()
        local found = box:list_processes()
        return #found == 2 and found
      end)
      assert(list[1].tag == "loop" and list[1].pid == pid and list[1].cwd == "/tmp")
      assert(list[1].env.A == "1" and list[2].tag == "tty")
      local again <close> = box:attach_process("loop")
      again:write("two\n")
      assert(again:lines()() == "<two>")
      again:detach()
      local window <close> = box:attach_process("tty", { pty = true })
      window:resize(77, 33)
      window:write("\n")
      assert(window:lines()():find("33 77", 1, true))
      window:detach()
    end

    local last <close> = box:attach_process("loop")
    last:signal("TERM")
    assert(last:wait().status == "signal: terminated")
    local window <close> = box:attach_process("tty", { pty = true })
    window:signal("KILL")
    assert(window:wait().status == "signal: killed")
    eventually("none is listed", function() return #box:list_processes() == 0 end)
    box:delete()
  end)
end)

test("kept programs: a note from a sandbox is taken for what it may be, and no more", function()
  local written = note.encode({
    tag = "t", session_uuid = "u", command = { cmd = "/bin/bash", args = { "-c", "x\255" },
      envs = { A = "1" }, cwd = "/tmp" },
  }, 100)
  local read = note.decode(written)
  assert(read.kind == "rpc" and read.tag == "t" and read.uuid == "u")
  assert(read.seconds > 0 and read.seconds <= 100 and read.command.cmd == "/bin/bash")
  assert(read.command.args[1] == "-c" and read.command.envs.A == "1")
  -- The longest there can be are cut to what the agent holds.
  local long = note.encode({ tag = "t", command = { cmd = "sh", args = { ("x"):rep(1 << 20) },
    envs = { B = ("y"):rep(1 << 20) } } })
  assert(#long < 32768 and note.decode(long).tag == "t" and note.decode(long).command.cmd == "sh")
  for _, odd in ipairs {
    "", "x", "[]", "1", '{"kind":1}', '{"kind":"rpc","tag":7,"command":3,"ends_at":"x"}',
    '{"kind":"rpc","command":{"args":[1,{}],"envs":[1],"cmd":{},"cwd":[]},"uuid":[]}',
    '{"kind":"rpc","tag":"' .. ("t"):rep(300) .. '"}', '{"kind":"rpc","ends_at":-1e308}',
  } do
    local found = note.decode(odd)
    if found then
      assert(found.tag == nil and found.uuid == nil and type(found.command.cmd) == "string")
      assert(type(found.command.args) == "table" and type(found.command.envs) == "table")
      assert(found.seconds == nil or found.seconds > 0)
    end
  end
end)
