-- The files of stock Lua that make their reader or writer wait: pipes, FIFOs,
-- sockets and terminals behind `io` and `print`.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local process = require("sbx.process")
local task = require("sbx.task")
local support = dofile(here .. "run_support.lua")

local run_code = support.run_code

local function has(text, plain)
  assert(text:find(plain, 1, true), ("%q is not in: %s"):format(plain, text))
end

---Runs a script with a pipe for its standard input, which `feed(stream)` fills.
---@async
local function with_input(code, feed)
  local child <close> = process.spawn({ host.executable(), "-e", code }, {
    stdin = "pipe", stdout = "pipe", stderr = "pipe", env = { SBXLUA_SLOW_STEP = "0" },
  })
  local out, err = {}, {}
  local status = task.timeout(60, task.scope, function(scope)
    for stream, into in pairs({ [child.stdout] = out, [child.stderr] = err }) do
      scope:spawn(function()
        for bytes in function() return stream:read() end do
          into[#into + 1] = bytes
        end
      end)
    end
    feed(child.stdin, out)
    child.stdin:close()
    return child:wait()
  end)
  return table.concat(out), status, table.concat(err)
end

---Waits until `condition()` holds.
---@async
local function await(condition)
  task.timeout(60, function()
    while not condition() do
      task.sleep(0.005)
    end
  end)
end

-- -------------------------------------------------------------------- reading

test("stdio: who reads a pipe waits, and the others go on", function()
  local out = with_input([[
    local task = require("sbx.task")
    local ticks = 0
    task.daemon(function() while true do task.sleep(0.005) ticks = ticks + 1 end end)
    print("ready")
    for line in io.lines() do print(line, ticks > 0) end
    print("end", io.read())
  ]], function(input, seen)
    await(function() return seen[1] end)
    task.sleep(0.05)
    input:write("one\ntw")
    await(function() return table.concat(seen):find("one") end)
    input:write("o\nthree")
  end)
  assert(out == "ready\none\ttrue\ntwo\ttrue\nthree\ttrue\nend\tnil\n", out)
end)

test("stdio: a cancelled read takes nothing, of several formats neither", function()
  local out = with_input([[
    local task = require("sbx.task")
    print("ready")
    print(task.move_on(0.05, io.read, "l", "n", "l"))
    print(task.move_on(0.05, io.read, "a"))
    print("again")
    print(io.read("l", "n", "l"))
  ]], function(input, seen)
    input:write("first\n1")
    await(function() return table.concat(seen):find("again") end)
    input:write("2 rest\n")
  end)
  assert(out == "ready\nfalse\nfalse\nagain\nfirst\t12\t rest\n", out)
end)

test("stdio: tasks that read one file take turns, and one that goes is no loss", function()
  local out = with_input([[
    local task = require("sbx.task")
    local quitter = task.pspawn(io.read)
    local got = {}
    for i = 1, 3 do
      task.spawn(function()
        for line in io.lines() do got[#got + 1] = line task.yield() end
      end)
    end
    task.sleep(0.02)
    quitter:cancel()
    print("ready")
    task.spawn(function() while #got < 9 do task.sleep(0.005) end end):join()
    print(table.concat(got, " "))
  ]], function(input, seen)
    await(function() return seen[1] end)
    for i = 1, 9 do
      input:write(i .. "\n")
      if i % 2 == 0 then task.sleep(0.01) end
    end
  end)
  assert(out == "ready\n1 2 3 4 5 6 7 8 9\n", out)
end)

test("stdio: where the VM cannot wait, reading names what is in the way", function()
  local out = with_input([[
    local function try(fn, ...) print(select(2, pcall(fn, ...))) end
    try(string.gsub, "a", ".", function() return io.read() end)
    try(table.sort, { 2, 1 }, function() io.stdin:read("n") end)
    try(load, io.lines())
    local co = coroutine.create(function()
      local _ <close> = setmetatable({}, { __close = function() io.read() end })
      coroutine.yield()
    end)
    coroutine.resume(co)
    print(select(2, coroutine.close(co)))
    setmetatable({}, { __gc = function() try(io.read) end })
    collectgarbage()
    print(io.read())
  ]], function(input) input:write("still there\n") end)
  has(out, "read stdin cannot wait inside string.gsub")
  has(out, "read stdin cannot wait inside table.sort")
  has(out, "read stdin cannot wait inside load")
  has(out, "read stdin cannot wait inside coroutine.close")
  has(out, "read stdin cannot wait inside a __gc metamethod")
  has(out, "still there\n")
end)

test("stdio: much input in one piece, and a line that comes in many", function()
  local size = 20 << 20
  local out = with_input("local all = io.read('a') print(#all, all:sub(-3)) print(io.read('a'))",
    function(input)
      local piece = ("x"):rep(1 << 20)
      for _ = 1, 20 do
        input:write(piece)
      end
      input:write("end")
    end)
  assert(out == size + 3 .. "\tend\n\n", out)
  out = with_input("print(#io.read(), io.read(4), #io.read(3000000))", function(input)
    for _ = 1, 300 do
      input:write(("y"):rep(10000))
    end
    input:write("\nabcd" .. ("z"):rep(3000000))
  end)
  assert(out == "3000000\tabcd\t3000000\n", out)
end)

test("stdio: a script, a module's text and commands are read from a pipe", function()
  local out = with_input("print(loadfile()()) print(pcall(dofile))", function(input)
    input:write("#!ignored\nreturn 'loaded', debug.getinfo(1, 'l').currentline")
  end)
  assert(out == "loaded\t2\nfalse\tattempt to call a nil value\n"
    or out:find("^loaded\t2\n"), out)
  local told, status
  out, status, told = with_input("debug.debug() print('after')", function(input)
    input:write("x = 6 * 7\nprint(x)\nerror('oops')\ncont\n")
  end)
  assert(out == "42\nafter\n" and status == 0, out)
  has(told, "lua_debug> ")
  has(told, "oops")
end)

test("stdio: a closed standard input is at its end", function()
  local result = process.run({ "sh", "-c", '"$0" -e "print(io.read(), io.read(0))" <&-',
    host.executable() }, { timeout = 60 })
  assert(result.stdout == "nil\tnil\n", result.stdout .. result.stderr)
end)

-- -------------------------------------------------------------------- writing

test("stdio: a slow reader suspends the task that writes, and no other", function()
  local dir <close> = fs.tmpdir({ prefix = "stdio-" })
  local run <close> = support.start({ "-e", ([[
    local task, fs = require("sbx.task"), require("sbx.fs")
    local writer = task.spawn(function() for i = 1, 50000 do print(i) end return "done" end)
    task.sleep(0.2)
    fs.write(%q, writer.status)
    io.stderr:write("the other is ", writer.status, " on ", writer.waiting_on, "\n")
    print(writer:join())
  ]]):format(dir.path .. "/status") })
  run:await("stderr", "the other is waiting on write\n")
  assert(run:finish() == 0)
  local count = 0
  for line in run.text.stdout:gmatch("[^\n]+") do
    count = count + 1
    assert(line == (count <= 50000 and tostring(count) or "done"), line)
  end
  assert(count == 50001)
end)

test("stdio: what tasks write at once is never mixed", function()
  local run <close> = support.start({ "-e", [[
    local task = require("sbx.task")
    for name in ("abc"):gmatch(".") do
      task.spawn(function()
        for i = 1, 200 do io.write(name:rep(1000), " ", i, "\n") end
      end)
    end
  ]] })
  task.sleep(0.1)
  assert(run:finish() == 0)
  local at = { a = 0, b = 0, c = 0 }
  for line in run.text.stdout:gmatch("[^\n]+") do
    local name, number = line:match("^(%a)%a+ (%d+)$")
    assert(line == name:rep(1000) .. " " .. at[name] + 1, line:sub(-20))
    at[name] = tonumber(number)
  end
  assert(at.a == 200 and at.b == 200 and at.c == 200)
end)

test("stdio: where the VM cannot wait, writing blocks as in stock Lua", function()
  local run <close> = support.start({ "-e", [[
    local n = 0
    print((("x"):rep(60000):gsub(".", function() n = n + 1 print(n) end)):sub(1, 3))
  ]] })
  task.sleep(0.1)
  assert(run:finish() == 0)
  local last
  local count = 0
  for line in run.text.stdout:gmatch("[^\n]+") do
    last, count = line, count + 1
  end
  assert(count == 60001 and last == "xxx", last)
end)

test("stdio: print, io.write and stderr keep their order where they share a pipe", function()
  local child <close> = process.spawn({ "sh", "-c", 'exec "$0" -e "$1" 2>&1', host.executable(), [[
    for i = 1, 20000 do
      if i % 3 == 0 then print(i) elseif i % 3 == 1 then io.write(i, "\n")
      else io.stderr:write(i, "\n") end
    end
  ]] }, { stdout = "pipe", env = { SBXLUA_SLOW_STEP = "0" } })
  task.sleep(0.1)
  local text = {}
  for bytes in function() return child.stdout:read() end do
    text[#text + 1] = bytes
  end
  assert(child:wait() == 0)
  local expected = 0
  for line in table.concat(text):gmatch("[^\n]+") do
    expected = expected + 1
    assert(line == tostring(expected), line)
  end
  assert(expected == 20000)
end)

test("stdio: the same where they share a file", function()
  local dir <close> = fs.tmpdir({ prefix = "stdio-" })
  local path = dir.path .. "/log"
  process.run({ "sh", "-c", 'exec "$0" -e "$1" > "$2" 2>&1', host.executable(),
    'print(1) io.stderr:write("2\\n") io.write("3\\n") warn("4") print(5)', path },
    { check = true })
  assert(fs.read(path) == "1\n2\n3\nLua warning: 4\n5\n", fs.read(path))
end)

test("stdio: buffers are those that setvbuf names", function()
  local run <close> = support.start({ "-e", [[
    io.stdout:setvbuf("no") io.write("at once")
    local start = os.clock()
    while os.clock() - start < 1 do end
    io.stdout:setvbuf("line") io.write("a line\nand more")
    while os.clock() - start < 2 do end
    io.stdout:setvbuf("full", 100) io.write("kept")
    while os.clock() - start < 3 do end
    io.write(("x"):rep(100))
    while true do end
  ]] })
  run:await("stdout", "^at once$")
  run:await("stdout", "^at oncea line\nand more$")
  run:await("stdout", "^at oncea line\nand morekeptx+$")
end)

test("stdio: a text whose writing raises midway is out up to there, as in stock Lua", function()
  local result = run_code([[
    pcall(print, "before", setmetatable({}, { __tostring = error }), "after")
    pcall(io.write, "one", {}, "two")
  ]])
  assert(result.stdout == "beforeone" or result.stdout == "before\tone", result.stdout)
end)

-- ------------------------------------------------------------- the end of a run

test("stdio: all that was written is read, however late, after os.exit too", function()
  for _, ending in ipairs({ "", "os.exit(3)", "error('over')" }) do
    local run <close> = support.start({ "-e", "io.write(('x'):rep(300000)) " .. ending })
    task.sleep(0.3)
    local code = run:finish()
    assert(#run.text.stdout == 300000, ending .. #run.text.stdout)
    assert(code == (ending == "" and 0 or ending:find("3") and 3 or 1), ending .. code)
  end
end)

test("stdio: a signal does not wait longer for a reader than a clean-up may", function()
  for _, code in ipairs({
    "io.write(('x'):rep(300000)) print('late')",
    "while true do print('x') end",
    "string.gsub('x', '.', function() while true do print('x') end end)",
  }) do
    local run <close> = support.start({ "--cleanup-timeout", "0.2", "-e",
      "io.stderr:write('ready\\n') " .. code })
    run:await("stderr", "ready\n")
    task.sleep(0.2)
    run:kill("TERM")
    local ended = task.timeout(60, run.child.wait, run.child)
    assert(ended == 143, tostring(ended))
  end
end)

test("stdio: output that nobody takes before the time is up is told, with status 1", function()
  local run <close> = support.start({ "--cleanup-timeout", "0.1", "-e", [[
    io.stderr:write("ready\n")
    io.write(("x"):rep(300000))
  ]] })
  run:await("stderr", "ready\n")
  run:kill("INT")
  assert(task.timeout(60, run.child.wait, run.child) == 130)
end)

test("stdio: an endless writer ends when its reader has gone", function()
  for _, code in ipairs({ "io.write(i, '\\n')", "io.stdout:write(i, '\\n') io.stdout:flush()",
    "print(i)", "pcall(print, i)", "string.gsub('', '', function() print(i) end)" }) do
    local started <close> = support.start({ "-e",
      "local i = 0 while true do i = i + 1 " .. code .. " end" })
    started:await("stdout", "^1\n")
    started.child.stdout:close()
    if code:find("pcall") then
      task.sleep(0.05) -- a script that swallows it goes on, as one that asks to
      started:kill("TERM")
    end
    local status = task.timeout(60, started.child.wait, started.child)
    assert(status == (code:find("pcall") and 143 or 141), code .. " " .. status)
  end
end)

-- ----------------------------------------------------------- sockets, terminals

test("stdio: sockets for standard files do the same", function()
  local child <close> = process.spawn({ host.executable(), "-e", [[
    for line in io.lines() do print(line:upper()) end
    io.write(("x"):rep(500000)) io.stderr:write("told")
  ]] }, { stdin = "socket", stdout = "socket", stderr = "socket" })
  child.stdin:write("one\ntwo")
  child.stdin:shutdown()
  local text = {}
  for bytes in function() return child.stdout:read() end do
    text[#text + 1] = bytes
  end
  assert(child:wait() == 0)
  assert(table.concat(text) == "ONE\nTWO\n" .. ("x"):rep(500000))
  assert(child.stderr:read() == "told")
end)

-- Runs a script on a terminal of its own; `typed` is what is typed once "ready" is
-- seen there. Prints what the terminal showed, and whether it was ever non-blocking.
local TERMINAL = [[
import fcntl, os, pty, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:2] + sys.argv[3:])
typed, shown, nonblocking = sys.argv[2].encode().decode("unicode_escape"), b"", False
end = time.time() + 20
while time.time() < end:
    for number in range(3):
        try:
            with open("/proc/%d/fdinfo/%d" % (pid, number)) as info:
                flags = int(info.read().split("flags:")[1].split()[0], 8)
                nonblocking = nonblocking or bool(flags & os.O_NONBLOCK)
        except OSError:
            pass
    if select.select([terminal], [], [], 0.02)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
    if b"ready" in shown and typed:
        for part in typed.split("|"):
            os.write(terminal, part.encode())
            time.sleep(0.05)
        typed = ""
print(shown.decode().replace("\r\n", "\n"), nonblocking, os.waitpid(pid, 0)[1] >> 8)
]]

---@async
local function on_terminal(code, typed)
  return process.run({ "python3", "-c", TERMINAL, host.executable(), typed, "-e", code },
    { timeout = 60, check = true, env = { SBXLUA_SLOW_STEP = "0" } }).stdout
end

test("stdio: a terminal is read line by line, its end is not for ever", function()
  local shown = on_terminal([[
    io.write("ready") io.write("> ")
    local line = io.read()
    print("got " .. line)
    print(io.read("a"), io.read("n"))
  ]], "first\\n|se|cond\\n|\\x04|42\\n")
  has(shown, "ready> ")
  has(shown, "got first\n")
  has(shown, "second\n\t42\n")
  has(shown, " False 0")
end)

test("stdio: a terminal is never made non-blocking for the shell", function()
  local shown = on_terminal([[
    local task = require("sbx.task")
    print("ready")
    task.spawn(io.read)
    task.sleep(0.3)
    io.write(("x"):rep(200000), "\n")
    os.exit(5)
  ]], "")
  has(shown, " False 5")
  assert(select(2, shown:gsub("x", "")) == 200000)
end)
