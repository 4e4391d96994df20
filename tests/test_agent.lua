-- The real agent, run as a plain process, and fake ones that misbehave.

local agent = require("sbx.server.agent")
local core = require("sbx.core.process")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local net = require("sbx.net")
local streams = require("sbx.core.stream")
local task = require("sbx.task")

-- Runs `fn(agent, folder)` with an agent of its own, which ends with it.
local function with_agent(fn)
  local folder <close> = fs.tmpdir()
  local child = core.spawn {
    file = "/proc/self/fd/4",
    args = { "agent", "3", "lifetime=60" },
    cwd = folder.path,
    stdio = {
      { fd = 3, kind = "socket" },
      { fd = 4, kind = "bytes", data = host.agent() },
    },
  }
  local inside = agent.attach(child.fds[3])
  local ok, failure = pcall(fn, inside, folder.path)
  inside:close()
  assert(task.move_on(60, child.wait, child), "the agent outlived its socket")
  if not ok then error(failure, 0) end
end

local function shell(inside, command, options)
  local full = { command = command }
  for name, value in pairs(options or {}) do
    full[name] = value
  end
  return inside:exec(full)
end

-- Waits until the process in `path` (a file with its number) has ended.
local function await_dead(inside, path)
  for _ = 1, 500 do
    local probe = shell(inside, "kill -0 $(cat " .. path .. ") 2>/dev/null")
    if probe.exit_code ~= 0 then return end
    task.sleep(0.01)
  end
  error("still alive")
end

local function source_of(text, size)
  local at = 1
  return function()
    if at > #text then return nil end
    local piece = text:sub(at, at + size - 1)
    at = at + size
    return piece
  end
end

local function random_bytes(count)
  local file <close> = fs.open("/dev/urandom", "r")
  local parts = {}
  while count > 0 do
    parts[#parts + 1] = file:read(count)
    count = count - #parts[#parts]
  end
  return table.concat(parts)
end

-- All that comes until the peer has finished.
local function read_all(stream)
  local parts = {}
  repeat
    local bytes = stream:read()
    parts[#parts + 1] = bytes
  until not bytes
  return table.concat(parts)
end

local function collect(inside, path, options)
  local parts = {}
  local size, total = inside:get(path, function(bytes)
    parts[#parts + 1] = bytes
  end, options)
  return table.concat(parts), size, total
end

local function fails(code, fn, ...)
  local ok, failure = pcall(fn, ...)
  assert(not ok, "did not fail")
  assert(failure.code == code, tostring(failure.code) .. ": " .. tostring(failure))
  return failure
end

local ALL_BYTES = {}
for byte = 0, 255 do
  ALL_BYTES[byte + 1] = string.char(byte)
end
ALL_BYTES = table.concat(ALL_BYTES)

test("agent: keeps the two outputs apart and every byte of them", function()
  with_agent(function(inside, folder)
    fs.write(folder .. "/bytes", ALL_BYTES)
    local result = shell(inside, "cat bytes; echo problem >&2; exit 3")
    assert(result.stdout == ALL_BYTES and result.stderr == "problem\n")
    assert(result.exit_code == 3 and not result.timed_out)
    assert(not result.stdout_truncated and not result.stderr_truncated)
  end)
end)

test("agent: says which signal ended a command", function()
  with_agent(function(inside)
    assert(shell(inside, "kill -9 $$").exit_code == 137)
    assert(shell(inside, "kill -15 $$").exit_code == 143)
  end)
end)

test("agent: commands start with default signals and only three descriptors", function()
  with_agent(function(inside)
    local result = shell(inside, "grep -E 'SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd")
    assert(result.stdout:find("SigBlk:\t0000000000000000", 1, true))
    assert(result.stdout:find("SigIgn:\t0000000000000000", 1, true))
    -- The fourth is the folder that ls reads.
    assert(result.stdout:find("\n0\n1\n2\n3\n$"), result.stdout)
    assert(shell(inside, "yes | head -1").stdout == "y\n")
  end)
end)

test("agent: a command sees its directory and its environment", function()
  with_agent(function(inside, folder)
    inside.environment = { SBX_A = "base", SBX_B = "kept" }
    local result = shell(inside, 'pwd; echo "$SBX_A|$SBX_B"', {
      cwd = "/usr", env = { SBX_A = "two words=\n" },
    })
    assert(result.stdout == "/usr\ntwo words=\n|kept\n", result.stdout)
    assert(shell(inside, "pwd").stdout == fs.realpath(folder) .. "\n")
    local failure = fails("ENOENT", shell, inside, "true", { cwd = "/no/such/place" })
    assert(tostring(failure):find("/no/such/place", 1, true))
  end)
end)

test("agent: a timeout kills the whole tree, also what left its session", function()
  with_agent(function(inside)
    local result = shell(inside,
      "setsid sh -c 'echo $$ > child; exec sleep 1000' & echo before; sleep 1000",
      { timeout = 0.5 })
    assert(result.timed_out and result.exit_code == 137 and result.stdout == "before\n")
    assert(shell(inside, "kill -0 $(cat child)").exit_code ~= 0)
  end)
end)

test("agent: background children neither hold the answer nor die of it", function()
  with_agent(function(inside)
    local begun = task.now()
    local result = shell(inside, "sleep 1000 & echo $!")
    assert(task.now() - begun < 10)
    local pid = result.stdout:match("%d+")
    -- This one goes on writing to the pipe of an answered command.
    shell(inside, "(n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo $n; done; echo > all) &")
    task.timeout(60, function() -- until the writer has come to its end
      while shell(inside, "test -e all").exit_code ~= 0 do
        task.sleep(0.01)
      end
    end)
    assert(shell(inside, "kill -0 " .. pid .. " && kill " .. pid).exit_code == 0)
  end)
end)

test("agent: a cancelled exec takes its command down with it", function()
  with_agent(function(inside)
    local finished = task.move_on(0.3, shell, inside,
      "setsid sh -c 'echo $$ > child; exec sleep 1000' & sleep 1000")
    assert(not finished)
    await_dead(inside, "child")
  end)
end)

test("agent: keeps so much output and says that there was more", function()
  with_agent(function(inside)
    local result = shell(inside, "head -c 3000000 /dev/zero; echo end >&2", { max_output = 1000 })
    assert(result.stdout == ("\0"):rep(1000) and result.stdout_truncated)
    assert(result.stderr == "end\n" and not result.stderr_truncated)
    local exact = shell(inside, "head -c 1000 /dev/zero", { max_output = 1000 })
    assert(#exact.stdout == 1000 and not exact.stdout_truncated)
    local whole = shell(inside, "head -c 10485760 /dev/zero | tr '\\0' x")
    assert(#whole.stdout == 10485760 and not whole.stdout_truncated)
  end)
end)

test("agent: runs 64 commands at once beside one that floods", function()
  with_agent(function(inside)
    task.scope(function(scope)
      local flood = scope:spawn(shell, inside, "yes", { timeout = 3 })
      local numbers = {}
      for i = 1, 64 do
        numbers[i] = scope:spawn(shell, inside, "sleep 0.1; echo " .. i)
      end
      for i, running in ipairs(numbers) do
        assert(running:join().stdout == i .. "\n")
      end
      flood:cancel()
    end)
  end)
end)

test("agent: refuses what cannot be sent", function()
  with_agent(function(inside)
    fails("EINVAL", shell, inside, "echo \0")
    fails("EINVAL", shell, inside, "true", { env = { ["A=B"] = "c" } })
    fails("EINVAL", shell, inside, "true", { user = "nobody" })
    fails("E2BIG", shell, inside, ("x"):rep(1024 * 1024))
    fails("ENAMETOOLONG", inside.stat, inside, ("/x"):rep(5000))
    assert(not pcall(shell, inside, "true", { timeuot = 1 }))
    assert(not pcall(shell, inside, 5))
    assert(not pcall(shell, inside, "true", { timeout = -1 }))
    assert(not pcall(inside.dial, inside, 0))
    assert(not pcall(inside.put, inside, "/x", "text"))
    -- Longer than one argument may be, which only the kernel knows.
    fails("E2BIG", shell, inside, ": " .. ("x"):rep(200 * 1024))
    assert(shell(inside, "echo fine").stdout == "fine\n")
  end)
end)

test("agent: a file comes back as it went", function()
  with_agent(function(inside, folder)
    local text = random_bytes(3 * 1024 * 1024) .. ALL_BYTES
    local path = folder .. "/a/b/file"
    assert(inside:put(path, source_of(text, 100000), { mode = 493 }) == #text)
    local stat = inside:stat(path)
    assert(stat.type == "file" and stat.size == #text and stat.mode == 493)
    assert(math.abs(stat.mtime - require("sbx.core.time").wall()) < 60)
    local back, size, total = collect(inside, path)
    assert(back == text and size == #text and total == #text)
    assert(fs.read(path) == text)
  end)
end)

test("agent: a slow reader of a file slows it down and misses nothing", function()
  with_agent(function(inside, folder)
    local text = random_bytes(2 * 1024 * 1024)
    fs.write(folder .. "/file", text)
    local parts = {}
    inside:get(folder .. "/file", function(bytes)
      parts[#parts + 1] = bytes
      task.sleep(0.005)
      assert(shell(inside, "echo x").stdout == "x\n")
    end)
    assert(table.concat(parts) == text)
  end)
end)

test("agent: reads windows of a file", function()
  with_agent(function(inside, folder)
    local path = folder .. "/file"
    fs.write(path, "0123456789")
    assert(collect(inside, path, { offset = 3, length = 4 }) == "3456")
    assert(collect(inside, path, { offset = -3 }) == "789")
    assert(collect(inside, path, { offset = -30 }) == "0123456789")
    local text, size, total = collect(inside, path, { offset = 99 })
    assert(text == "" and size == 0 and total == 10)
    assert(collect(inside, path, { offset = math.mininteger, length = 1 }) == "0")
    assert(collect(inside, "/proc/self/comm") ~= "")
  end)
end)

test("agent: names the errno of a path that is no file", function()
  with_agent(function(inside, folder)
    local function put(path)
      return inside:put(path, source_of("x", 1))
    end
    assert(shell(inside, "mkfifo fifo; mkdir folder").exit_code == 0)
    fails("ENOENT", collect, inside, folder .. "/missing")
    fails("EISDIR", collect, inside, folder .. "/folder")
    fails("EINVAL", collect, inside, folder .. "/fifo")
    fails("EINVAL", collect, inside, "/dev/zero")
    fails("EISDIR", put, folder .. "/folder")
    fails("EINVAL", put, folder .. "/fifo")
    fails("ENOENT", inside.stat, inside, folder .. "/missing")
    assert(inside:stat(folder .. "/fifo").type == "other")
    assert(inside:stat(folder).type == "directory")
  end)
end)

test("agent: an upload replaces a file whole and keeps its mode", function()
  with_agent(function(inside, folder)
    fs.write(folder .. "/file", "before", { mode = 448 })
    assert(shell(inside, "ln -s file link").exit_code == 0)
    inside:put(folder .. "/link", function()
      if fs.read(folder .. "/file") == "before" and not inside.sent then
        inside.sent = true
        return "after"
      end
    end)
    assert(fs.read(folder .. "/file") == "after")
    assert(fs.stat(folder .. "/file").mode & 511 == 448)
    assert(fs.lstat(folder .. "/link").type == "symlink")
  end)
end)

test("agent: an upload that breaks off leaves nothing", function()
  with_agent(function(inside, folder)
    local path = folder .. "/a/b/file"
    local ok, failure = pcall(inside.put, inside, path, function()
      error("source broke", 0)
    end)
    assert(not ok and failure == "source broke")
    local first = true
    assert(not task.move_on(0.2, inside.put, inside, path, function()
      if not first then task.sleep(60) end
      first = false
      return "some bytes"
    end))
    -- A command that starts later finds the upload undone.
    assert(shell(inside, "find . -mindepth 1").stdout == "")
  end)
end)

test("agent: relays connections both ways, with half close", function()
  with_agent(function(inside)
    local listener <close> = net.listen("127.0.0.1", 0)
    task.scope(function(scope)
      scope:spawn(function()
        local peer <close> = listener:accept()
        peer:write(read_all(peer):upper() .. "!")
      end)
      local connection <close> = inside:dial(listener.port)
      local text = ("x"):rep(1000000)
      connection:write(text)
      connection:shutdown()
      assert(read_all(connection) == text:upper() .. "!")
      fails("EPIPE", connection.write, connection, "more")
    end)
  end)
end)

test("agent: a connection that nobody holds is closed", function()
  with_agent(function(inside)
    local listener <close> = net.listen("127.0.0.1", 0)
    inside:dial(listener.port)
    local peer <close> = listener:accept()
    collectgarbage()
    collectgarbage()
    assert(peer:read() == nil)
  end)
end)

test("agent: a port that nobody listens on refuses", function()
  with_agent(function(inside)
    local listener = net.listen("127.0.0.1", 0)
    local port = listener.port
    listener:close()
    local failure = fails("ECONNREFUSED", inside.dial, inside, port)
    assert(failure.kind == "connect")
  end)
end)

test("agent: everything that waits fails when it is closed", function()
  with_agent(function(inside)
    task.scope(function(scope)
      local running = scope:pspawn(shell, inside, "sleep 1000")
      local upload = scope:pspawn(inside.put, inside, "never", function()
        task.sleep(0.1)
        return "x"
      end)
      task.sleep(0.05)
      inside:close()
      for _, each in ipairs { running, upload } do
        local ok, failure = each:pjoin()
        assert(not ok and failure.kind == "not_running")
      end
    end)
    assert(inside.closed)
    local ok, failure = pcall(shell, inside, "true")
    assert(not ok and failure.kind == "not_running")
  end)
end)

-- ------------------------------------------------------------ hostile agents

local function frame(type, id, payload)
  return string.pack(">I4BI4", #payload + 5, type, id) .. payload
end

local HELLO = frame(32, 0, string.pack(">I4I4", 2, 1))

-- Runs `fn(agent)` against an agent that says `bytes` once it has been asked.
local function with_liar(greeting, bytes, fn)
  local ours, theirs = streams.pair()
  local peer <close> = theirs
  task.scope(function(scope)
    scope:spawn(function()
      peer:write(greeting)
      if not peer:read() then return end
      -- It may be hung up on in the middle.
      pcall(peer.write, peer, bytes)
      pcall(read_all, peer)
    end)
    local inside = agent.attach(ours)
    local ok, failure = pcall(fn, inside)
    inside:close()
    if not ok then error(failure, 0) end
  end)
end

local function expect_breach(bytes, call)
  with_liar(HELLO, bytes, function(inside)
    local ok, failure = pcall(call or function()
      shell(inside, "true")
    end, inside)
    assert(not ok and failure.kind == "not_running", tostring(failure))
    assert(tostring(failure):find("protocol", 1, true), tostring(failure))
    assert(inside.closed)
  end)
end

test("agent: bytes that are no frames end the sandbox", function()
  expect_breach(("\xff"):rep(100))
  expect_breach(string.pack(">I4", 0) .. "x")
end)

test("agent: answers that nobody waits for end the sandbox", function()
  expect_breach(frame(33, 99, "x"))
  expect_breach(frame(36, 1, "x"))
  expect_breach(frame(32, 0, string.pack(">I4I4", 2, 1)))
end)

test("agent: more data than was allowed ends the sandbox", function()
  expect_breach(frame(33, 1, ("x"):rep(65536)):rep(1000))
  expect_breach(frame(16, 1, ("x"):rep(65536)):rep(5), function(inside)
    inside:get("/x", function()
      while not inside.closed do
        task.sleep(0.01)
      end
    end)
  end)
end)

test("agent: a flood of empty frames ends the sandbox", function()
  for _, type in ipairs { 33, 34 } do
    expect_breach(frame(type, 1, ""))
  end
  expect_breach(frame(16, 1, ""), function(inside)
    inside:get("/x", function() end)
  end)
  expect_breach(frame(36, 1, "") .. frame(16, 1, ""), function(inside)
    inside:dial(80):read()
  end)
end)

test("agent: frames that are too short or say nonsense end the sandbox", function()
  expect_breach(frame(35, 1, "x"))
  expect_breach(frame(39, 1, string.pack(">I4", 0)))
  expect_breach(frame(18, 1, string.pack(">I4", 0xffffffff)))
  expect_breach(frame(38, 1, string.pack(">I8", 0)))
end)

test("agent: nonsense about a live program ends the sandbox", function()
  local started = frame(40, 1, string.pack(">I4", 7))
  local function start()
    return function(inside)
      local _ <close> = inside:start { argv = { "x" }, stdin = true }
      -- Nothing is read until it has said all.
      while not inside.closed do
        task.sleep(0.01)
      end
      shell(inside, "true")
    end
  end
  expect_breach(frame(40, 1, "x"), start())
  expect_breach(started .. started, start())
  expect_breach(started .. frame(33, 1, ""), start())
  expect_breach(started .. frame(34, 1, ("x"):rep(65536)):rep(5), start())
  expect_breach(started .. frame(16, 1, "x"), start())
  expect_breach(started .. frame(35, 1, "x"), start())
  expect_breach(started .. frame(37, 1, "x"), start())
  expect_breach(started .. frame(18, 1, string.pack(">I4", 0xffffffff)), start())
  expect_breach(started .. frame(35, 1, string.pack(">i4B", 0, 0)):rep(2), start())
  expect_breach(frame(40, 1, string.pack(">I4", 7)))
end)

test("agent: a live program that ends before it began is an error of its own", function()
  with_liar(HELLO, frame(35, 1, string.pack(">i4B", 137, 16)), function(inside)
    fails("ESRCH", inside.start, inside, { argv = { "x" } })
    assert(not inside.closed)
  end)
end)

test("agent: one of another version is not spoken to", function()
  local ok, failure = pcall(with_liar, frame(32, 0, string.pack(">I4I4", 7, 1)), "", function() end)
  assert(not ok and failure.kind == "not_running")
end)

test("agent: one that ends before its greeting is an error", function()
  local ours, theirs = streams.pair()
  theirs:close()
  local ok, failure = pcall(agent.attach, ours)
  assert(not ok and failure.kind == "not_running")
end)
