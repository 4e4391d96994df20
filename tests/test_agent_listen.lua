-- An agent that listens: it outlives its server, and commands under way go on.

local agent = require("sbx.server.agent")
local core = require("sbx.core.process")
local errors = require("sbx.errors")
local expect = require("tests.expect")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local net = require("sbx.net")
local process = require("sbx.process")
local task = require("sbx.task")

local function spawn(folder, ...)
  return core.spawn {
    file = "/proc/self/fd/4",
    args = { "agent", "3", "listen", ... },
    cwd = folder,
    detached = true,
    stdio = {
      { fd = 3, kind = "listen", path = folder .. "/socket" },
      { fd = 4, kind = "bytes", data = host.agent() },
    },
  }
end

-- Runs `fn(connect, folder, child)` with an agent; `connect()` is a new connection.
local function with_listener(fn)
  local folder <close> = fs.tmpdir()
  local child = spawn(folder.path, "lifetime=60")
  local last
  local ok, failure = pcall(fn, function()
    last = agent.connect(folder.path .. "/socket")
    return last
  end, folder.path, child)
  if last and not last.closed then
    last:shutdown()
  else
    child:kill(9)
  end
  assert(task.move_on(60, child.wait, child), "the agent did not end")
  if not ok then error(failure, 0) end
end

local function sh(inside, command)
  return inside:exec({ command = command, timeout = 60 }).stdout
end

local function await(what, fn)
  for _ = 1, 1000 do
    if fn() then return end
    task.sleep(0.01)
  end
  error("did not happen: " .. what)
end

local function await_file(path, text)
  await(path .. " says " .. text, function()
    return errors.try(fs.read, path) == text
  end)
end

test("agent, listening: only its owner may connect", function()
  with_listener(function(connect, folder)
    local facts = fs.stat(folder .. "/socket")
    assert(facts.type == "socket" and facts.mode & 511 == 384, facts.mode)
    assert(sh(connect(), "echo here") == "here\n")
  end)
end)

test("agent, listening: a command goes on without its server", function()
  with_listener(function(connect, folder)
    local first = connect()
    task.scope(function(scope)
      local running = scope:pspawn(sh, first,
        "echo > up; while ! test -e go; do sleep 0.01; done; yes | head -c 1000000; echo all > end")
      await_file(folder .. "/up", "\n")
      first:close()
      local ok, failure = running:pjoin()
      assert(not ok and failure.kind == "not_running")
    end)
    -- What it says at its end is for nobody, whatever the ids of the next server are.
    local second = connect()
    task.scope(function(scope)
      for _ = 1, 5 do
        scope:spawn(sh, second, "while ! test -e end; do sleep 0.01; done")
      end
      fs.write(folder .. "/go", "")
      await_file(folder .. "/end", "all\n")
    end)
    task.sleep(0.2)
    assert(sh(second, "echo fine") == "fine\n")
  end)
end)

test("agent, listening: a timeout holds without a server", function()
  with_listener(function(connect, folder)
    local first = connect()
    task.scope(function(scope)
      local running = scope:pspawn(first.exec, first, {
        command = "echo $$ > pid; exec sleep 300", timeout = 0.5,
      })
      await("it runs", function()
        return (errors.try(fs.read, folder .. "/pid") or "") ~= ""
      end)
      first:close()
      assert(not running:pjoin())
    end)
    local second = connect()
    local pid = fs.read(folder .. "/pid"):match("%d+")
    await("it is killed", function()
      return sh(second, "kill -0 " .. pid .. " 2>/dev/null || echo gone") == "gone\n"
    end)
  end)
end)

test("agent, listening: of a session the input ends, a terminal is hung up", function()
  with_listener(function(connect, folder)
    local first = connect()
    local piped = first:start { argv = { "sh", "-c",
      "cat > got; yes | head -c 1000000; echo end > end" }, stdin = true }
    local terminal = first:start { argv = { "sh", "-c",
      "trap 'echo hup > hup; exit' HUP; echo ready; while :; do sleep 0.01; done" },
      pty = { cols = 80, rows = 24 } }
    assert(select(2, terminal:read()) == "ready\r\n")
    piped:write("some input")
    await_file(folder .. "/got", "some input")
    first:close()
    await_file(folder .. "/end", "end\n")
    await_file(folder .. "/hup", "hup\n")
    assert(sh(connect(), "echo fine") == "fine\n")
    piped:close()
    terminal:close()
  end)
end)

test("agent, listening: an upload that lost its server leaves nothing", function()
  with_listener(function(connect, folder)
    local first = connect()
    local ok, failure = pcall(first.put, first, folder .. "/a/file", function()
      first:close()
      return "x"
    end)
    assert(not ok and failure.kind == "not_running")
    local second = connect()
    assert(sh(second, "ls -A") == "socket\n")
  end)
end)

test("agent, listening: a newer connection replaces the older", function()
  with_listener(function(connect)
    local first = connect()
    local second = connect()
    await("the first has ended", function()
      return first.closed
    end)
    assert(not second.closed and sh(second, "echo two") == "two\n")
  end)
end)

test("agent, listening: bytes that are no frames cost only their connection", function()
  with_listener(function(connect, folder)
    for _, bytes in ipairs { ("\255"):rep(100), "\0\0\0\0", "\0\0\0\5\1\0\0\0\1", "" } do
      local stream <close> = net.connect_unix(folder .. "/socket")
      stream:write(bytes)
      if #bytes == 100 then
        repeat until not errors.try(stream.read, stream)
      end
    end
    assert(sh(connect(), "echo fine") == "fine\n")
  end)
end)

test("agent, listening: told to end, it takes everything with it", function()
  with_listener(function(connect, folder, child)
    local inside = connect()
    local session = inside:start { argv = { "setsid", "sh", "-c", "echo $$ > pid; sleep 300" } }
    await("it runs", function()
      return (errors.try(fs.read, folder .. "/pid") or "") ~= ""
    end)
    inside:shutdown()
    child:wait()
    await("its end is heard", function()
      return inside.closed
    end)
    session:close()
    local pid = fs.read(folder .. "/pid"):match("%d+")
    assert(not errors.try(fs.stat, "/proc/" .. pid))
    expect.failure(agent.connect, folder .. "/socket")
  end)
end)

test("agent, listening: it ends with its lifetime, and with it its commands", function()
  local folder <close> = fs.tmpdir()
  local child = spawn(folder.path, "lifetime=1")
  local inside = agent.connect(folder.path .. "/socket")
  task.scope(function(scope)
    local running = scope:pspawn(sh, inside, "echo $$ > pid; exec sleep 300")
    assert(not running:pjoin())
  end)
  child:wait()
  local pid = fs.read(folder.path .. "/pid"):match("%d+")
  assert(not errors.try(fs.stat, "/proc/" .. pid))
end)

test("agent, listening: it outlives a server that is killed", function()
  local folder <close> = fs.tmpdir()
  fs.write(folder.path .. "/server.lua", [[
local agent = require("sbx.server.agent")
local core = require("sbx.core.process")
local host = require("sbx.core.host")
local task = require("sbx.task")
local folder = ...
local child = core.spawn {
  file = "/proc/self/fd/4", args = { "agent", "3", "listen", "lifetime=60" }, cwd = folder,
  detached = true,
  stdio = {
    { fd = 3, kind = "listen", path = folder .. "/socket" },
    { fd = 4, kind = "bytes", data = host.agent() },
  },
}
local inside = agent.connect(folder .. "/socket")
task.scope(function(scope)
  scope:spawn(inside.exec, inside, { command = "echo > up; sleep 0.3; echo end > end" })
  while inside:exec({ command = "test -e up" }).exit_code ~= 0 do
    task.sleep(0.01)
  end
  core.spawn { file = "kill", args = { "kill", "-9", tostring(core.pid()) } }:wait()
  task.sleep(60)
end)
]])
  local result = process.run({ host.executable(), folder.path .. "/server.lua", folder.path })
  assert(result.code == 137, result.stderr)
  local inside = agent.connect(folder.path .. "/socket")
  await_file(folder.path .. "/end", "end\n")
  assert(sh(inside, "echo taken up") == "taken up\n")
  inside:shutdown()
  await("its end is heard", function()
    return inside.closed
  end)
end)

test("agent, listening: as first process of a sandbox nothing inside ends it", function()
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/socket"
  -- As the driver does it: never as this machine's root.
  local uid = fs.stat("/proc/self").uid == 0 and 1200000 or nil
  local child = core.spawn {
    file = "bwrap",
    uid = uid,
    gid = uid,
    args = {
      "bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--as-pid-1",
      "--unshare-net", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
      "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc",
      "--dev", "/dev", "--perms", "0555", "--ro-bind-data", "4", "/.agent",
      "/.agent", "3", "listen", "lifetime=60",
    },
    cwd = "/",
    detached = true,
    stdio = {
      { fd = 3, kind = "listen", path = path },
      { fd = 4, kind = "bytes", data = host.agent() },
    },
  }
  local first = agent.connect(path)
  local session = first:start { argv = { "sleep", "300" } }
  assert(sh(first, "pgrep -x sleep | wc -l") == "1\n")
  first:close()
  local second = agent.connect(path)
  for _, signal in ipairs { "ALRM", "USR1", "TERM", "KILL" } do
    sh(second, ("trap '' %s; kill -%s 1; kill -%s -1"):format(signal, signal, signal))
  end
  -- Nor can its descriptors be got at.
  assert(sh(second, "for each in /proc/1/fd/*; do readlink $each; cat $each; done 2>&1 "
    .. "| grep -c socket") == "0\n")
  assert(sh(second, "pgrep -x sleep | wc -l") == "0\n")
  second:shutdown()
  child:wait()
  session:close()
end)

test("spawn: a listening socket that cannot be is an error, and leaves nothing", function()
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/socket"
  local function try(file, where)
    return core.spawn {
      file = file, args = { file }, stdio = { { fd = 3, kind = "listen", path = where } },
    }
  end
  expect.code("ENOENT", try, "/no/such/program", path)
  assert(#fs.list(folder.path) == 0)
  expect.code("ENOENT", try, "true", folder.path .. "/no/such")
  expect.code("ENAMETOOLONG", try, "true", path .. ("x"):rep(200))
  fs.write(path, "kept")
  expect.code("EADDRINUSE", try, "true", path)
  assert(fs.read(path) == "kept")
  expect.misuse("path missing", try, "true", nil)
  expect.misuse("zero byte", try, "true", path .. "\0")
end)

test("spawn: a child has its listening socket, and we do not", function()
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/socket"
  local child = core.spawn {
    file = "readlink", args = { "readlink", "/proc/self/fd/5" },
    stdio = { { fd = 1, kind = "pipe" }, { fd = 5, kind = "listen", path = path } },
  }
  assert(child.stdout:read():find("^socket:"))
  assert(child:wait() == 0 and child.fds[5] == nil)
  child.stdout:close()
  expect.code("ECONNREFUSED", net.connect_unix, path)
end)
