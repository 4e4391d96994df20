-- An agent that listens holds the programs that were started with a note, for the next
-- server to take up.

local agent = require("sbx.server.agent")
local core = require("sbx.core.process")
local errors = require("sbx.errors")
local expect = require("tests.expect")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local task = require("sbx.task")

-- Runs `fn(connect, folder)` with an agent; `connect()` is a new connection.
local function with_listener(fn)
  local folder <close> = fs.tmpdir()
  local child = core.spawn {
    file = "/proc/self/fd/4", args = { "agent", "3", "listen", "lifetime=60" }, cwd = folder.path,
    detached = true,
    stdio = {
      { fd = 3, kind = "listen", path = folder.path .. "/socket" },
      { fd = 4, kind = "bytes", data = host.agent() },
    },
  }
  local last
  local ok, failure = pcall(fn, function()
    last = agent.connect(folder.path .. "/socket")
    return last
  end, folder.path)
  if last and not last.closed then last:shutdown() else child:kill(9) end
  assert(task.move_on(10, child.wait, child), "the agent did not end")
  if not ok then error(failure, 0) end
end

local function eventually(what, fn)
  for _ = 1, 1500 do
    if fn() then return end
    task.sleep(0.01)
  end
  error("did not happen: " .. what)
end

local function start(inside, note, script, more)
  local options = { argv = { "sh", "-c", script }, note = note }
  for name, value in pairs(more or {}) do
    options[name] = value
  end
  return inside:start(options)
end

-- What it writes until `text` is in it.
local function read_until(session, text)
  local all = ""
  while not all:find(text, 1, true) do
    local _, bytes = session:read()
    all = all .. assert(bytes, "it ended after: " .. all)
  end
  return all
end

test("agent, held: a program goes on, and is taken up with its input", function()
  with_listener(function(connect)
    local first = connect()
    assert(first.holds)
    local before = start(first, "a note", 'while read x; do echo "<$x>"; done; echo over', {
      stdin = true,
    })
    local plain = start(first, nil, "sleep 300")
    before:write("one\n")
    read_until(before, "<one>")
    assert(#first:held() == 0) -- it has its server
    first:close()

    local second = connect()
    local list = second:held()
    assert(#list == 1 and list[1].note == "a note" and list[1].input and not list[1].terminal)
    local session = second:attach(list[1])
    assert(session.pid == before.pid and #second:held() == 0)
    assert(expect.code("ESRCH", second.attach, second, list[1]))
    session:write("two\n")
    read_until(session, "<two>")
    session:close_stdin()
    assert(read_until(session, "over"):find("over", 1, true))
    assert(session:read() == nil and session.exit_code == 0)
    before:close()
    plain:close()
  end)
end)

test("agent, held: nobody there, its output is thrown away, and it is not held up", function()
  with_listener(function(connect, folder)
    local first = connect()
    start(first, "n", "yes lost | head -c 3000000; echo > flood; while ! test -e go; do"
      .. " sleep 0.01; done; echo heard; exit 4")
    first:close()
    eventually("it has written all", function() return fs.exists(folder .. "/flood") end)
    local second = connect()
    local session = second:attach(second:held()[1])
    fs.write(folder .. "/go", "")
    local text = read_until(session, "heard")
    -- What was in the pipe last may still come; the flood does not.
    assert(#text <= 128 * 1024, #text)
    assert(session:read() == nil and session.exit_code == 4)
  end)
end)

test("agent, held: a terminal is not hung up, and keeps its size", function()
  with_listener(function(connect, folder)
    local first = connect()
    local before = start(first, "t",
      "trap 'echo > hup' HUP; stty -echo; echo up; read x; stty size; read y; stty size",
      { pty = { cols = 90, rows = 30 } })
    read_until(before, "up")
    first:close()
    local second = connect()
    local held = second:held()[1]
    assert(held.terminal)
    local session = second:attach(held)
    session:write("\n")
    read_until(session, "30 90")
    session:resize(70, 20)
    session:write("\n")
    read_until(session, "20 70")
    assert(not fs.exists(folder .. "/hup"))
    before:close()
  end)
end)

test("agent, held: how it ended meanwhile is told, by exit code and by signal", function()
  with_listener(function(connect, folder)
    local first = connect()
    start(first, "code", "while ! test -e go; do sleep 0.01; done; echo > a; exit 6")
    start(first, "signal", "while ! test -e go; do sleep 0.01; done; echo > b; kill -9 $$")
    first:close()
    fs.write(folder .. "/go", "")
    eventually("both have ended", function()
      return fs.exists(folder .. "/a") and fs.exists(folder .. "/b")
    end)
    -- Another server comes and goes, without a word to them.
    connect():close()
    local third = connect()
    local list = third:held()
    assert(#list == 2 and list[1].note == "code" and list[2].note == "signal")
    local one, two = third:attach(list[1]), third:attach(list[2])
    assert(one:read() == nil and one.exit_code == 6 and not one.signal)
    assert(two:read() == nil and two.exit_code == 137 and two.signal == 9)
    assert(#third:held() == 0)
  end)
end)

test("agent, held: input that waits for a slow program counts, and is not lost", function()
  with_listener(function(connect, folder)
    local first = connect()
    local before = start(first, "slow", "while ! test -e go; do sleep 0.01; done; wc -c; exit 0", {
      stdin = true,
    })
    -- More than the pipe takes: the rest waits with the agent.
    before:write(("x"):rep(200000))
    eventually("it has arrived", function()
      return first:exec({ command = "echo here" }).stdout == "here\n"
    end)
    first:close()
    local second = connect()
    local session = second:attach(second:held()[1])
    task.scope(function(scope)
      scope:spawn(function()
        session:write(("y"):rep(500000))
        session:close_stdin()
      end)
      fs.write(folder .. "/go", "")
      read_until(session, "700000\n")
    end)
    before:close()
  end)
end)

test("agent, held: one that is closed is ended, and one that is forgotten is not", function()
  with_listener(function(connect)
    local first = connect()
    local ended = start(first, "ended", "sleep 300")
    do
      local forgotten = start(first, "forgotten", "sleep 300")
      assert(forgotten.pid)
    end
    collectgarbage()
    collectgarbage()
    ended:close()
    eventually("the one has ended", function() return ended.exit_code == 137 end)
    first:close()
    local list = connect():held()
    assert(#list == 1 and list[1].note == "forgotten")
  end)
end)

test("agent, held: notes are limited, and so are those who wait", function()
  with_listener(function(connect)
    local first = connect()
    expect.code("E2BIG", start, first, ("x"):rep(40000), "true")
    expect.code("EINVAL", start, first, "a\0b", "true")
    start(first, "lasts", "exec sleep 600")
    for index = 1, 255 do -- of which some have ended, and been told, before the end of the link
      start(first, ("%03d"):format(index) .. ("x"):rep(32000), "true")
    end
    first:close()
    local second = connect()
    local list = second:held()
    assert(#list <= 256)
    local lasts
    for _, held in ipairs(list) do
      local session = second:attach(held)
      if held.note == "lasts" then
        session:close()
        lasts = session
      else
        assert(session:read() == nil and session.exit_code == 0, held.note:sub(1, 3))
      end
    end
    assert(lasts, "the one that lasts is not held")
    eventually("it has ended", function() return lasts.exit_code == 137 end)
    assert(#second:held() == 0)
    assert(errors.try(start, second, "again", "true"))
  end)
end)
