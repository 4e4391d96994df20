-- Live programs on terminals of their own, in real sandboxes by bubblewrap.

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local task = require("sbx.task")

local SIZE = { cols = 80, rows = 24 }

local function with_agent(fn)
  local box = bwrap.open():create { id = "pty", log = function() end }
  local ok, failure = pcall(fn, box.agent, function(command)
    return box.agent:exec({ command = command, timeout = 60 }).stdout
  end)
  box:kill()
  if not ok then error(failure, 0) end
end

local function start(agent, argv, options)
  local full = { argv = argv, pty = SIZE }
  for name, value in pairs(options or {}) do
    full[name] = value
  end
  return agent:start(full)
end

local function read_until(session, text)
  local all = ""
  while not all:find(text, 1, true) do
    local channel, bytes = session:read()
    if not channel then error("ended before " .. text .. ": " .. all) end
    assert(channel == "pty")
    all = all .. bytes
  end
  return all
end

local function read_all(session)
  local parts = {}
  for channel, bytes in session.read, session do
    assert(channel == "pty")
    parts[#parts + 1] = bytes
  end
  return table.concat(parts)
end

local function run(agent, command, options)
  local session <close> = start(agent, { "sh", "-c", command }, options)
  return read_all(session), session
end

test("pty: a program has a terminal of its own, of the size asked for", function()
  with_agent(function(agent)
    local text, session = run(agent,
      "test -t 0 && test -t 1 && test -t 2 && tty && stty size && echo $TERM && ps -o tty= -p $$",
      { pty = { cols = 132, rows = 43 } })
    assert(text:find("^/dev/pts/%d+\r\n43 132\r\nxterm%-256color\r\npts/%d+ *\r\n$"), text)
    assert(session.exit_code == 0)
    assert(run(agent, "echo $TERM", { env = { TERM = "dumb" } }) == "dumb\r\n")
    -- It controls it, and nothing else is open.
    assert(run(agent, "echo through > /dev/tty; ls /proc/self/fd | tr '\\n' ' '")
      == "through\r\n0 1 2 3 ")
  end)
end)

test("pty: what is typed is echoed, and an open line ends too", function()
  with_agent(function(agent)
    local session <close> = start(agent, { "cat" })
    session:write("hello\r")
    assert(read_until(session, "hello\r\nhello\r\n") == "hello\r\nhello\r\n")
    session:write("open")
    session:close_stdin()
    assert(read_all(session) == "openopen")
    assert(session.exit_code == 0)
    local at_once <close> = start(agent, { "cat" })
    at_once:close_stdin()
    assert(read_all(at_once) == "" and at_once.exit_code == 0)
    assert(errors.try(at_once.write, at_once, "x") == nil)
  end)
end)

test("pty: its programs hear of a new size", function()
  with_agent(function(agent)
    local session <close> = start(agent, { "python3", "-c", [[
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
print("ready", flush=True)
while signal.sigwait({signal.SIGWINCH}):
    size = os.get_terminal_size()
    print(size.lines, size.columns, flush=True)
]] })
    read_until(session, "ready\r\n")
    session:resize(100, 30)
    read_until(session, "30 100\r\n")
    session:resize(65535, 1)
    read_until(session, "1 65535\r\n")
    assert(not pcall(session.resize, session, -1, 5))
    assert(not pcall(session.resize, session, 65536, 5))
  end)
end)

test("pty: Ctrl-C interrupts what runs in front, and the shell goes on", function()
  with_agent(function(agent)
    local session <close> = start(agent, { "bash", "--norc", "-i" }, { env = { PS1 = "> " } })
    session:write("sh -c 'echo runs''; exec sleep 300'\n")
    read_until(session, "runs\r\n")
    session:write("\3")
    read_until(session, "^C")
    session:write("echo code $?\n")
    read_until(session, "code 130\r\n")
    session:write("exit 4\n")
    read_all(session)
    assert(session.exit_code == 4)
  end)
end)

test("pty: signals, and the end by one", function()
  with_agent(function(agent)
    local session <close> = start(agent, { "sleep", "300" })
    session:kill(15)
    assert(session:read() == nil and session.signal == 15)
  end)
end)

test("pty: all of a long output arrives, also the last of it", function()
  with_agent(function(agent)
    for _ = 1, 5 do
      local text, session = run(agent, "seq 40000; echo end")
      assert(#text == 228894 + 40000 + 5 and text:sub(-5) == "end\r\n", #text)
      assert(session.exit_code == 0)
    end
  end)
end)

test("pty: output that nobody reads stops its program", function()
  with_agent(function(agent, sh)
    local session <close> = start(agent, { "sh", "-c",
      "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); printf '%01000d' $i; echo $i > at; done" })
    local before, at
    repeat
      before = at
      task.sleep(0.1)
      at = sh("cat at")
    until at ~= "" and at == before
    assert(tonumber(at) < 1000, at)
    assert(#read_all(session) == 3000000)
  end)
end)

test("pty: the end does not wait for what stays behind on the terminal", function()
  with_agent(function(agent, sh)
    local text, session = run(agent, "trap '' HUP; sleep 300 & echo done")
    assert(text == "done\r\n" and session.exit_code == 0)
    assert(sh("pgrep -x sleep | wc -l") == "1\n")
    -- One that goes on writing does not hold it up for long either.
    local flooded, other = run(agent, "trap '' HUP; yes & sleep 0.1; echo done")
    assert(flooded:find("y\r\n", 1, true) and other.exit_code == 0)
  end)
end)

test("pty: a program may leave its terminal alone and come back to it", function()
  with_agent(function(agent)
    local text = run(agent,
      "exec </dev/null >/dev/null 2>&1; sleep 0.2; echo back > /dev/tty")
    assert(text == "back\r\n")
  end)
end)

test("pty: a terminal cannot be typed into from inside", function()
  with_agent(function(agent)
    local text = run(agent, [[python3 -c '
import fcntl, termios
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    print("typed")
except OSError as e:
    print(e.errno)
']])
    assert(text == "1\r\n", text)
  end)
end)
