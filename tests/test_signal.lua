local core = require("sbx.core.signal")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local process = require("sbx.process")
local signal = require("sbx.signal")
local support = dofile("tests/run_support.lua")
local task = require("sbx.task")

local function own_pid()
  return tonumber(fs.read("/proc/self/stat"):match("^%d+"))
end

-- What the kernel does with a signal to us: "caught", "ignored" or "default".
local function disposition(number)
  local status = fs.read("/proc/self/status")
  local function has(field)
    return (tonumber(status:match(field .. ":%s*(%x+)"), 16) >> (number - 1)) & 1 == 1
  end
  return has("SigCgt") and "caught" or has("SigIgn") and "ignored" or "default"
end

test("signal: a listener gets what it listens to, by name", function()
  local pid = own_pid()
  local listener <close> = signal.listen("USR1", "SIGUSR2", 34)
  for _, name in ipairs({ "USR1", "USR2", "34", "USR1" }) do
    signal.send(pid, tonumber(name) or name)
    assert(listener:wait() == name)
  end
end)

test("signal: what came before the wait is kept, once each, the oldest first", function()
  local pid = own_pid()
  local listener <close> = signal.listen("USR1", "USR2")
  signal.send(pid, "USR2")
  task.sleep(0.01)
  signal.send(pid, "USR1")
  task.sleep(0.01)
  signal.send(pid, "USR2")
  task.sleep(0.01)
  assert(listener:wait() == "USR2" and listener:wait() == "USR1")
  assert(task.move_on(0.01, listener.wait, listener) == false)
end)

test("signal: several listeners each get it", function()
  local pid = own_pid()
  local first <close> = signal.listen("USR1")
  local second <close> = signal.listen("USR1", "USR2")
  signal.send(pid, "USR1")
  assert(first:wait() == "USR1" and second:wait() == "USR1")
  first:close()
  signal.send(pid, "USR1")
  assert(second:wait() == "USR1")
end)

test("signal: each ends when the listener is closed", function()
  local pid = own_pid()
  local listener = signal.listen("USR1")
  local seen = {}
  task.scope(function(scope)
    scope:spawn(function()
      for name in listener:each() do
        seen[#seen + 1] = name
      end
      seen[#seen + 1] = "end"
    end)
    task.yield()
    signal.send(pid, "USR1")
    while #seen == 0 do
      task.sleep(0.001)
    end
    listener:close()
  end)
  assert(table.concat(seen, " ") == "USR1 end")
  assert(listener:wait() == nil)
  listener:close()
  assert(select("#", listener:each()) == 1)
end)

test("signal: a cancelled wait loses nothing", function()
  local pid = own_pid()
  local listener <close> = signal.listen("USR1")
  assert(task.move_on(0.01, listener.wait, listener) == false)
  task.scope(function(scope)
    scope:spawn(listener.wait, listener)
    task.yield()
    signal.send(pid, "USR1")
    scope:cancel()
  end)
  task.timeout(60, listener.wait, listener)
end)

test("signal: another task may not wait on the same listener", function()
  local listener <close> = signal.listen("USR1")
  task.scope(function(scope)
    scope:spawn(listener.wait, listener)
    task.yield()
    expect.misuse("another task is waiting", listener.wait, listener)
    scope:cancel()
  end)
end)

test("signal: what was before stands again after the last listener", function()
  for name, number in pairs({ USR1 = 10, TERM = 15, INT = 2, HUP = 1, PIPE = 13 }) do
    local before = disposition(number)
    local first, second = signal.listen(name), signal.listen(name, name)
    assert(disposition(number) == "caught")
    first:close()
    assert(disposition(number) == "caught")
    second:close()
    assert(disposition(number) == before, name)
  end
  assert(disposition(10) == "default" and disposition(15) == "caught")
end)

test("signal: a listener that was forgotten is collected and lets go", function()
  do
    local _ = signal.listen("USR1")
    assert(disposition(10) == "caught")
  end
  collectgarbage()
  collectgarbage()
  assert(disposition(10) == "default")
end)

test("signal: children have the default actions and an empty mask", function()
  local listener <close> = signal.listen("USR1", "TERM")
  local status = process.run({ "cat", "/proc/self/status" }).stdout
  for _, field in ipairs({ "SigBlk", "SigIgn", "SigCgt" }) do
    assert(tonumber(status:match(field .. ":%s*(%x+)"), 16) == 0, field)
  end
  local child <close> = process.spawn({ "sleep", "1000" })
  child:kill("TERM")
  assert(select(2, child:wait()) == 15)
  assert(task.move_on(0.01, listener.wait, listener) == false)
end)

test("signal: misuse names what is wrong", function()
  local function refused(text, ...)
    local args = table.pack(...)
    expect.misuse("test_signal.lua", function()
      local _ = signal.listen(table.unpack(args, 1, args.n))
    end)
    expect.misuse(text, signal.listen, ...)
  end
  refused("expected the name of a signal")
  refused("cannot listen to KILL: no program can", "KILL")
  refused("cannot listen to STOP: no program can", "USR1", 19)
  refused("cannot listen to CHLD: sbx.process", "CHLD")
  refused("cannot listen to SEGV: it reports a fault", "SIGSEGV")
  refused("cannot listen to 64: the runtime's watchdog", 64)
  refused('unknown: "usr1"', "usr1")
  refused("expected 1 to 64", 0)
  refused("expected 1 to 64", 65)
  refused("expected a name", nil)
  refused("expected a name", 1.5)
  expect.misuse("pid: expected a whole number", signal.send, 0, "TERM")
  expect.misuse("pid: expected a whole number", signal.send, -1, "TERM")
  expect.misuse("unknown", signal.send, 1, "NONSENSE")
  expect.misuse("write listener:wait", signal.listen("USR1").wait)
  expect.misuse("not a signal", core.listen, 65)
  expect.misuse("not a process", core.send, 0, 1)
  expect.code("ESRCH", signal.send, 0x7fffffff, "USR1")
  assert(signal.number("SIGTERM") == 15 and signal.number(15) == 15 and signal.name(15) == "TERM")
end)

-- -------------------------------------------------------------- whole programs

local PRELUDE = [[
  local signal = require("sbx.signal")
  local task = require("sbx.task")
  local function say(text) print(text) io.stdout:flush() end
]]

local function start(code)
  return support.start({ "-e", PRELUDE .. code })
end

test("signal: TERM, INT and HUP go to the script as long as it listens", function()
  for _, name in ipairs({ "TERM", "INT", "HUP" }) do
    local run <close> = start(([[
      do
        local s <close> = signal.listen("%s")
        say("ready")
        for i = 1, 3 do say(s:wait() .. i) end
      end
      say("over")
      task.sleep(600)
    ]]):format(name))
    run:await("stdout", "ready\n")
    for i = 1, 3 do
      run:kill(name)
      run:await("stdout", name .. i .. "\n")
    end
    run:await("stdout", "over\n")
    run:kill(name)
    local code = run:finish()
    assert(code == 128 + signal.number(name), tostring(code))
  end
end)

test("signal: waiting for a signal is no deadlock", function()
  local run <close> = start('local s <close> = signal.listen("USR1") say("ready") say(s:wait())')
  run:await("stdout", "ready\n")
  run:kill("USR1")
  assert(run:finish() == 0 and run.text.stdout == "ready\nUSR1\n", run.text.stderr)
end)

test("signal: Ctrl-C that the script leaves untaken ends it a while later", function()
  local run <close> = start([[
    local s <close> = signal.listen("INT")
    say("ready")
    while true do end
  ]])
  run:await("stdout", "ready\n")
  local ended
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        run:kill("INT")
        task.sleep(0.1)
      end
    end)
    local start_time = task.now()
    local _, number = run:finish()
    ended = number
    assert(task.now() - start_time >= 1)
  end)
  assert(ended == 2 and run.text.stderr:find("stopped at once", 1, true), run.text.stderr)
end)

test("signal: a script that is ending does not listen any more", function()
  local run <close> = start([[
    local x <close> = setmetatable({}, { __close = function()
      local s <close> = signal.listen("INT", "USR1")
      say("closing")
      say(s:wait())
      s:wait()
    end })
    say("ready")
    task.sleep(600)
  ]])
  run:await("stdout", "ready\n")
  run:kill("INT")
  run:await("stdout", "closing\n")
  run:kill("USR1") -- this one still comes
  run:await("stdout", "USR1\n")
  run:kill("INT")
  local _, number = run:finish()
  assert(number == 2, run.text.stderr)
end)

test("signal: one that our parent ignores can be listened to, and stays ignored after", function()
  local program = support.start({ "-e", [[
    local process = require("sbx.process")
    local child <close> = process.spawn({ "sh", "-c", 'trap "" HUP; exec "$0" -e "$1"',
      require("sbx.core.host").executable(), [=[
        local s = require("sbx.signal").listen("HUP")
        print("up") io.stdout:flush()
        print(s:wait())
        s:close()
        print("closed") io.stdout:flush()
        require("sbx.task").sleep(600)
      ]=] }, { stdout = "pipe" })
    local from = require("sbx.reader").of(child.stdout)
    local function expect(line) assert(from:line() == line) end
    expect("up") child:kill("HUP") expect("HUP") expect("closed")
    child:kill("HUP")
    child:kill("TERM")
    print((child:wait()))
  ]] })
  local run <close> = program
  assert(run:finish() == 0, run.text.stderr)
  assert(run.text.stdout == "143\n", run.text.stdout)
end)

test("signal: many signals at once neither crash nor block", { timeout = 180 }, function()
  local run <close> = start([[
    local s <close> = signal.listen("USR1", "USR2", "INT", "TERM", "HUP", "WINCH", "CONT")
    say("ready")
    local seen = {}
    repeat seen[s:wait()] = true until seen.HUP and seen.USR1 and seen.USR2
    say("all")
  ]])
  run:await("stdout", "ready\n")
  process.run({ "sh", "-c", [[
    i=0; while [ $i -lt 500 ]; do kill -USR1 $0; kill -USR2 $0; kill -WINCH $0; i=$((i+1)); done
    kill -HUP $0
  ]], tostring(run.pid) }, { check = true })
  assert(run:finish() == 0 and run.text.stdout == "ready\nall\n", run.text.stderr)
end)
