local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local support = dofile("tests/process_support.lua")
local task = require("sbx.task")

local await_gone, runs = support.await_gone, support.runs

local function read_all(stream)
  local parts = {}
  while true do
    local part = stream:read()
    if not part then return table.concat(parts) end
    parts[#parts + 1] = part
  end
end

test("process.run: output, exit code, no shell", function()
  local result = process.run({ "sh", "-c", 'printf "%s|" "$@"; echo oops >&2; exit 3',
    "sh", "a b", "$HOME", "*" })
  assert(result.stdout == "a b|$HOME|*|")
  assert(result.stderr == "oops\n")
  assert(result.code == 3 and result.signal == nil)
  assert(result.truncated == false)
end)

test("process.run: input reaches stdin byte for byte", function()
  local bytes = {}
  for i = 0, 255 do
    bytes[#bytes + 1] = string.char(i)
  end
  local input = table.concat(bytes):rep(4096)
  assert(process.run({ "cat" }, { input = input }).stdout == input)
  assert(process.run({ "cat" }).stdout == "")
end)

test("process.run: both streams are read at once", function()
  local script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1));"
    .. " echo 0123456789012345678901234567890123456789;"
    .. " echo 0123456789012345678901234567890123456789 >&2; done"
  local result = process.run({ "sh", "-c", script })
  assert(#result.stdout == 4000 * 41 and #result.stderr == 4000 * 41)
end)

test("process.run: output beyond the limit is dropped and told", function()
  local result = process.run({ "sh", "-c", "head -c 300000 /dev/zero; echo end >&2" },
    { max_output = 1000 })
  assert(#result.stdout == 1000 and result.truncated and result.stderr == "end\n")
  assert(result.code == 0)
end)

test("process.run: a missing program is ENOENT and named", function()
  local ok, err = pcall(process.run, { "no-such-program" })
  assert(not ok and errors.is_error(err) and err.code == "ENOENT")
  assert(err.message == "spawn no-such-program: no such file or directory")
end)

test("process.run: a missing directory is named", function()
  local ok, err = pcall(process.run, { "true" }, { cwd = "/nowhere" })
  assert(not ok and err.code == "ENOENT" and err.message:find("in /nowhere", 1, true))
end)

test("process.run: check raises with the code and the tail of stderr", function()
  local ok, err = pcall(process.run, { "sh", "-c", "echo broken >&2; exit 7" },
    { check = true })
  assert(not ok and err.kind == "process" and err.exit_code == 7)
  assert(err.stderr == "broken\n")
  assert(err.message == "sh: exit code 7: broken")
  assert(process.run({ "true" }, { check = true }).code == 0)
end)

test("process.run: a child killed by a signal says so", function()
  local result = process.run({ "sh", "-c", "kill -9 $$" })
  assert(result.code == 137 and result.signal == 9)
end)

test("process.run: the time limit ends the whole group", function()
  local dir <close> = fs.tmpdir()
  local ok, err = pcall(process.run, { "sh", "-c", "sleep 1000 & echo $! > pid; wait" },
    { timeout = 2, cwd = dir.path })
  assert(not ok and err.kind == "timeout", tostring(err))
  assert(err.message == "sh: timed out after 2 s")
  await_gone(tonumber(fs.read(dir.path .. "/pid")))
end)

test("process.run: who ignores SIGTERM is killed after the grace", function()
  local dir <close> = fs.tmpdir()
  local script = "trap '' TERM; echo $$ > pid; while :; do sleep 1000; done"
  local ok, err = pcall(process.run, { "sh", "-c", script },
    { timeout = 2, grace = 0.1, cwd = dir.path })
  assert(not ok and err.kind == "timeout")
  assert(not runs(tonumber(fs.read(dir.path .. "/pid"))))
end)

test("process.run: a descendant that ignores SIGTERM goes with its parent", function()
  local dir <close> = fs.tmpdir()
  local script = "(trap '' TERM; while :; do sleep 1000; done) & echo $! > pid; wait"
  local ok = pcall(process.run, { "sh", "-c", script }, { timeout = 2, cwd = dir.path })
  assert(not ok)
  await_gone(tonumber(fs.read(dir.path .. "/pid")))
end)

test("process.run: cancellation ends the child first", function()
  local dir <close> = fs.tmpdir()
  task.scope(function(scope)
    scope:spawn(process.run, { "sh", "-c", "echo $$ > pid; mv pid ready; exec sleep 1000" },
      { cwd = dir.path })
    task.timeout(60, function()
      while not fs.exists(dir.path .. "/ready") do
        task.sleep(0.005)
      end
    end)
    scope:cancel()
  end)
  assert(not runs(tonumber(fs.read(dir.path .. "/ready"))))
end)

test("process.run: a background descendant does not make it hang", function()
  local began = task.now()
  local result = process.run({ "sh", "-c", "sleep 1000 & echo $!" })
  assert(result.code == 0 and task.now() - began < 60)
  process.run({ "kill", "-9", (result.stdout:gsub("%s", "")) })
end)

test("process.run: the environment is ours with changes, or only what is given", function()
  local function environment(options)
    return process.run({ "/usr/bin/env" }, options).stdout
  end
  local text = environment({ env = { SBX_A = "1 2", PATH = false } })
  assert(text:find("SBX_A=1 2\n", 1, true) and not text:find("\nPATH="))
  assert(environment({ env = { A = 1 }, clear_env = true }) == "A=1\n")
  assert(environment({ clear_env = true }) == "")
end)

test("process.run: misuse raises plain errors", function()
  for _, call in ipairs({
    function() process.run({}) end,
    function() process.run("ls") end,
    function() process.run({ "ls", {} }) end,
    function() process.run({ "a\0b" }) end,
    function() process.run({ "ls" }, { timout = 1 }) end,
    function() process.run({ "ls" }, { env = { ["A=B"] = "" } }) end,
    function() process.run({ "ls" }, { env = { A = {} } }) end,
    function() process.run({ "ls" }, { input = 1 }) end,
    function() process.spawn({ "ls" }, { stdout = "file" }) end,
    function() process.spawn({ "ls" }, { fds = { [64] = "pipe" } }) end,
    function() process.spawn({ "ls" }, { fds = { [2] = "pipe" } }) end,
    function() process.spawn({ "ls" }, { uid = -5 }) end,
    function() core.spawn({ file = "ls" }) end,
    function() core.spawn({ file = "ls", args = {} }) end,
    function() core.spawn({ file = "ls", args = { "ls" }, stdio = { { fd = 99 } } }) end,
    function() core.spawn({ file = "ls", args = { "ls" }, stdio = { {} } }) end,
  }) do
    local ok, err = pcall(call)
    assert(not ok and type(err) == "string", tostring(err))
  end
end)

test("process.spawn: a conversation over pipes", function()
  local child <close> = process.spawn({ "cat" }, { stdin = "pipe", stdout = "pipe" })
  child.stdin:write("one")
  assert(child.stdout:read() == "one")
  child.stdin:close()
  assert(child.stdout:read() == nil)
  assert(child:wait() == 0)
  assert(child:wait() == 0)
end)

test("process.spawn: a socket as standard input and output", function()
  local child <close> = process.spawn({ "sh", "-c", "exec cat >&0" }, { stdin = "socket" })
  child.stdin:write("round trip")
  assert(child.stdin:read() == "round trip")
  child.stdin:shutdown()
  assert(child.stdin:read() == nil and child:wait() == 0)
end)

test("process.spawn: extra descriptors, bytes without a file on disk", function()
  local child <close> = process.spawn({ "sh", "-c", "cat <&9; echo done >&5; echo x 2>&- >&9" }, {
    stdout = "pipe", stderr = "null",
    fds = { [5] = "pipe", [9] = { bytes = "a\0b" }, [63] = "socket" },
  })
  assert(read_all(child.stdout) == "a\0b")
  assert(read_all(child.fds[5]) == "done\n")
  assert(child.fds[63]:read() == nil)
  -- The last command must fail: nobody can write to the bytes.
  assert(child:wait() ~= 0)
end)

test("process.spawn: the child's pipes are real pipes", function()
  local result = process.run({ "sh", "-c", "echo through > /proc/self/fd/1" })
  assert(result.stdout == "through\n")
end)

test("process.spawn: signals are as in a fresh shell", function()
  local status = process.run({ "cat", "/proc/self/status" }).stdout
  assert(tonumber(status:match("SigIgn:%s*(%x+)"), 16) == 0, status:match("SigIgn[^\n]*"))
  assert(tonumber(status:match("SigBlk:%s*(%x+)"), 16) == 0, status:match("SigBlk[^\n]*"))
end)

test("process.spawn: no descriptor of ours leaks into the child", function()
  local left <close>, right = require("sbx.core.stream").pair()
  local names = process.run({ "ls", "/proc/self/fd" }).stdout
  assert(names == "0\n1\n2\n3\n", names) -- 3 is the directory that ls reads
  assert(left)
  right:close()
end)

test("process.spawn: any number of tasks may wait", function()
  local child <close> = process.spawn({ "sh", "-c", "read x; exit 4" }, { stdin = "pipe" })
  local codes = {}
  task.scope(function(scope)
    for i = 1, 5 do
      scope:spawn(function() codes[i] = child:wait() end)
    end
    assert(not task.move_on(0.01, child.wait, child))
    child.stdin:close()
  end)
  assert(table.concat(codes, " ") == "4 4 4 4 4")
end)

test("process.spawn: killing an ended child is a no-op that says so", function()
  local child <close> = process.spawn({ "true" })
  child:wait()
  assert(child.running == false)
  assert(child:kill("KILL") == false and child:kill_group() == false)
end)

test("process.spawn: kill takes names and numbers", function()
  local child <close> = process.spawn({ "sleep", "1000" })
  assert(child.running)
  assert(child:kill("SIGUSR1") == true)
  local code, signal = child:wait()
  assert(code == 128 + 10 and signal == 10)
  local ok, err = pcall(child.kill, child, "NONSENSE")
  assert(not ok and type(err) == "string")
end)

test("process.spawn: the end of a <close> variable ends the child", function()
  local pid
  do
    local child <close> = process.spawn({ "sleep", "1000" })
    pid = child.pid
  end
  assert(not runs(pid))
end)

test("process.spawn: without a session there is no group to kill", function()
  local child <close> = process.spawn({ "sleep", "1000" }, { session = false })
  local ok, err = pcall(child.kill_group, child)
  assert(not ok and type(err) == "string")
end)

test("process.spawn: a collected object leaves its child to end and be reaped", function()
  local child = process.spawn({ "sh", "-c", "read x" }, { stdin = "pipe" })
  local pid = child.pid
  child = nil
  collectgarbage()
  collectgarbage() -- closes its stdin, so that it ends
  assert(child == nil)
  await_gone(pid)
end)

test("process.spawn: another user, where we may", function()
  if process.run({ "id", "-u" }).stdout ~= "0\n" then
    local ok, err = pcall(process.run, { "id" }, { uid = 0, gid = 0 })
    assert(not ok and err.code == "EPERM")
    return
  end
  assert(process.run({ "id", "-u" }, { uid = 65534, gid = 65534 }).stdout == "65534\n")
end)

test("process.spawn: fifty at once", function()
  task.scope(function(scope)
    for i = 1, 50 do
      scope:spawn(function()
        local result = process.run({ "sh", "-c", "cat; exit $1", "sh", i }, { input = "in" .. i })
        assert(result.code == i and result.stdout == "in" .. i)
      end)
    end
  end)
end)

test("process.spawn: what still runs at the end of the program is ended", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/x.lua", [[
    local process = require("sbx.process")
    kept = process.spawn({ "sleep", "1000" }, { stdout = "null", stderr = "null" })
    kept:unref()
    ended = process.spawn({ "sleep", "1000" })
    print(kept.pid, ended.pid)
  ]])
  local result = process.run({ host.executable(), dir.path .. "/x.lua" }, { check = true })
  local kept, ended = result.stdout:match("(%d+)%s+(%d+)")
  assert(runs(kept))
  process.run({ "kill", kept }, { check = true })
  await_gone(ended)
  await_gone(kept)
end)

test("process: a plain file cannot be opened as a stream", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/x.lua", [[
    local ok, err = pcall(require("sbx.core.stream").open, 0)
    print(ok, err.code)
  ]])
  local result = process.run({ host.executable(), dir.path .. "/x.lua" }, { input = "bytes" })
  assert(result.stdout == "false\tEINVAL\n", result.stdout .. result.stderr)
end)

test("process: shutdown of a child's stdin is its end", function()
  local child <close> = process.spawn({ "cat" }, { stdin = "pipe", stdout = "pipe" })
  child.stdin:write("all of it")
  child.stdin:shutdown()
  assert(child.stdout:read() == "all of it")
  assert(child.stdout:read() == nil)
  assert(child:wait() == 0)
end)
