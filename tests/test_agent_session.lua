-- Live programs, in real sandboxes by bubblewrap.

local bwrap = require("sbx.server.driver.bwrap")
local task = require("sbx.task")

local ALL_BYTES = {}
for byte = 0, 255 do
  ALL_BYTES[byte + 1] = string.char(byte)
end
ALL_BYTES = table.concat(ALL_BYTES)

-- Runs `fn(agent, sh)` with a sandbox; `sh(command)` returns its output.
local function with_agent(fn)
  local box = bwrap.open():create { id = "session", log = function() end }
  local ok, failure = pcall(fn, box.agent, function(command)
    return box.agent:exec({ command = command, timeout = 60 }).stdout
  end)
  box:kill()
  if not ok then error(failure, 0) end
end

local function start_shell(agent, command, options)
  local full = { argv = { "sh", "-c", command } }
  for name, value in pairs(options or {}) do
    full[name] = value
  end
  return agent:start(full)
end

-- What it writes until its end, by channel.
local function read_all(session)
  local parts = { stdout = {}, stderr = {}, pty = {} }
  for channel, bytes in session.read, session do
    table.insert(parts[channel], bytes)
  end
  for channel, pieces in pairs(parts) do
    parts[channel] = table.concat(pieces)
  end
  return parts
end

-- Reads until all that came has `pattern` in it; returns that.
local function read_until(session, pattern)
  local text = ""
  while not text:find(pattern) do
    local channel, bytes = session:read()
    if not channel then error("ended before " .. pattern .. ": " .. text) end
    text = text .. bytes
  end
  return text
end

local function await(what, fn)
  for _ = 1, 1000 do
    if fn() then return end
    task.sleep(0.01)
  end
  error("did not happen: " .. what)
end

local function await_sleepers(sh, count)
  await(count .. " of sleep", function()
    return sh("pgrep -x sleep | wc -l") == count .. "\n"
  end)
end

local function fails(code, fn, ...)
  local ok, failure = pcall(fn, ...)
  assert(not ok, "did not fail")
  assert(failure.code == code, tostring(failure))
  return failure
end

test("session: every byte comes back through cat, and its end", function()
  with_agent(function(agent)
    local cat <close> = agent:start { argv = { "cat" }, stdin = true }
    assert(cat.pid > 1 and cat.exit_code == nil)
    local text = ALL_BYTES:rep(8192)
    task.scope(function(scope)
      scope:spawn(function()
        cat:write(text)
        cat:close_stdin()
      end)
      local output = read_all(cat)
      assert(output.stdout == text and output.stderr == "")
    end)
    assert(cat.exit_code == 0 and cat.signal == nil)
    fails("EPIPE", cat.write, cat, "more")
  end)
end)

test("session: a conversation, line by line", function()
  with_agent(function(agent)
    local session <close> = start_shell(agent, "while read x; do echo got $x; done; exit 7",
      { stdin = true })
    for i = 1, 100 do
      session:write(i .. "\n")
      assert(read_until(session, "\n") == "got " .. i .. "\n")
    end
    session:close_stdin()
    assert(session:read() == nil and session.exit_code == 7)
  end)
end)

test("session: no shell, its own environment and folder, two outputs", function()
  with_agent(function(agent, sh)
    agent.environment = { A = "base", B = "kept" }
    local session <close> = agent:start {
      argv = { "printf", "%s|", "$HOME", "two words", "" },
    }
    assert(read_all(session).stdout == "$HOME|two words||")
    sh("mkdir -p bin; printf '#!/bin/sh\\necho mine $A $B; pwd >&2; exit 3\\n' > bin/own; "
      .. "chmod 755 bin/own")
    local own <close> = agent:start {
      argv = { "own" }, env = { PATH = "/workspace/bin:/usr/bin", A = "1" }, cwd = "/usr",
    }
    local output = read_all(own)
    assert(output.stdout == "mine 1 kept\n" and output.stderr == "/usr\n", output.stdout)
    assert(own.exit_code == 3)
  end)
end)

test("session: without stdin a program reads the end at once", function()
  with_agent(function(agent)
    local session <close> = agent:start { argv = { "cat" } }
    fails("EPIPE", session.write, session, "x")
    assert(session:read() == nil and session.exit_code == 0)
    session:close_stdin()
  end)
end)

test("session: what cannot be started says why", function()
  with_agent(function(agent, sh)
    sh("echo > plain; printf '#!/no/such\\n' > broken; chmod +x broken")
    local failure = fails("ENOENT", agent.start, agent, { argv = { "no-such-program" } })
    assert(tostring(failure):find("no-such-program", 1, true))
    fails("EACCES", agent.start, agent, { argv = { "./plain" } })
    fails("ENOENT", agent.start, agent, { argv = { "./broken" } })
    fails("ENOENT", agent.start, agent, { argv = { "true" }, cwd = "/no/such" })
    fails("E2BIG", agent.start, agent, { argv = { "true", ("x"):rep(200000) } })
    fails("EINVAL", agent.start, agent, { argv = {} })
    fails("EINVAL", agent.start, agent, { argv = { "a\0b" } })
    assert(not pcall(agent.start, agent, { argv = { "true", 5 } }))
    assert(not pcall(agent.start, agent, { argv = { "true" }, ptty = true }))
    assert(not pcall(agent.start, agent, { argv = { "true" }, pty = {} }))
    fails("ENOENT", agent.start, agent, { argv = { "nope" }, pty = { cols = 80, rows = 24 } })
    assert(sh("echo fine") == "fine\n")
  end)
end)

test("session: its end says which signal it was", function()
  with_agent(function(agent)
    local by_signal <close> = start_shell(agent, "kill -15 $$")
    assert(by_signal:read() == nil)
    assert(by_signal.exit_code == 143 and by_signal.signal == 15)
    local by_code <close> = start_shell(agent, "exit 143")
    assert(by_code:read() == nil)
    assert(by_code.exit_code == 143 and by_code.signal == nil)
  end)
end)

test("session: signals reach the whole process group, and only that", function()
  with_agent(function(agent, sh)
    -- The shell catches it; its child does not and ends. What left the session goes on.
    local session <close> = start_shell(agent,
      "exec 2>/dev/null; trap 'echo caught' USR1; setsid sleep 300 & sleep 400 & echo ready; "
      .. "wait %2; wait %2; echo child $?; trap - USR1; sleep 500")
    read_until(session, "ready\n")
    await_sleepers(sh, 2)
    session:kill(10)
    assert(read_until(session, "child %d+\n") == "caught\nchild 138\n")
    await("the child is gone, and what left the session is not", function()
      return sh("pgrep -ax sleep | cut -d' ' -f2- | sort") == "sleep 300\nsleep 500\n"
    end)
    session:kill(9)
    assert(session:read() == nil and session.signal == 9 and session.exit_code == 137)
    session:kill(9)
    assert(not pcall(session.kill, session, 0))
    assert(not pcall(session.kill, session, 65))
  end)
end)

test("session: output that nobody reads stops its program, and nobody else", function()
  with_agent(function(agent, sh)
    local session <close> = start_shell(agent,
      "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); printf '%01000d' $i; echo $i > at; done")
    -- It gets no further than the pipe and the window allow.
    local before
    await("the program stands still", function()
      local at = sh("cat at")
      local still = at ~= "" and at == before
      before = at
      task.sleep(0.1)
      return still
    end)
    assert(tonumber(before) < 1000, before)
    assert(sh("head -c 1000000 /dev/zero | wc -c") == "1000000\n")
    local other <close> = agent:start { argv = { "seq", "200000" } }
    assert(#read_all(other).stdout == 1288895)
    assert(#read_all(session).stdout == 3000000 and session.exit_code == 0)
  end)
end)

test("session: the end waits for what is unread, not for what runs on", function()
  with_agent(function(agent, sh)
    local session <close> = start_shell(agent,
      "sleep 300 & (sleep 0.3; n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo $n; done; "
      .. "echo > all) & head -c 60000 /dev/zero; exit 5")
    assert(#read_all(session).stdout == 60000 and session.exit_code == 5)
    await("the background writer got to its end", function()
      return sh("test -e all && echo yes") == "yes\n"
    end)
    session:close()
    assert(sh("pgrep -x sleep | wc -l") == "1\n")
  end)
end)

test("session: a slow reader of input stops who writes, and an end wakes them", function()
  with_agent(function(agent, sh)
    local session <close> = start_shell(agent, "exec sleep 300", { stdin = true })
    local wrote = task.move_on(0.3, session.write, session, ("x"):rep(4 * 1024 * 1024))
    assert(not wrote)
    task.scope(function(scope)
      local writing = scope:pspawn(session.write, session, ("x"):rep(4 * 1024 * 1024))
      assert(sh("echo fine") == "fine\n")
      session:kill(15)
      local ok, failure = writing:pjoin()
      assert(not ok and failure.code == "EPIPE", tostring(failure))
    end)
  end)
end)

test("session: a program that closes its input lets no one wait for it", function()
  with_agent(function(agent)
    local session <close> = start_shell(agent, "exec <&-; echo closed; exec sleep 300",
      { stdin = true })
    read_until(session, "closed\n")
    task.scope(function()
      task.timeout(60, function()
        local failure = fails("EPIPE", function()
          while true do
            session:write(("x"):rep(65536))
          end
        end)
        assert(failure.kind == "io")
      end)
    end)
    assert(session.exit_code == nil)
  end)
end)

test("session: closed, its whole tree is killed, also what left its session", function()
  with_agent(function(agent, sh)
    for _, pty in ipairs { false, { cols = 80, rows = 24 } } do
      local session = start_shell(agent,
        "setsid sleep 300 & (trap '' HUP TERM; sleep 400) & trap '' TERM HUP; echo up; sleep 500",
        { pty = pty or nil })
      read_until(session, "up")
      await_sleepers(sh, 3)
      session:close()
      assert(session:read() == nil)
      await_sleepers(sh, 0)
      await("its end is heard", function()
        return session.exit_code == 137
      end)
      session:close()
      session:kill(9)
      session:resize(80, 24)
      session:close_stdin()
    end
  end)
end)

test("session: one that nobody holds is ended", function()
  with_agent(function(agent, sh)
    agent:start { argv = { "sleep", "300" } }
    await_sleepers(sh, 1)
    collectgarbage()
    collectgarbage()
    await_sleepers(sh, 0)
  end)
end)

test("session: every wait can be cancelled", function()
  with_agent(function(agent, sh)
    local session <close> = agent:start { argv = { "cat" }, stdin = true }
    assert(not task.move_on(0.05, session.read, session))
    session:write("still here\n")
    assert(read_until(session, "\n") == "still here\n")
    -- Cancelled at its start, nothing of it is left.
    for _ = 1, 5 do
      assert(not task.move_on(0, agent.start, agent, { argv = { "sleep", "300" } }))
    end
    await_sleepers(sh, 0)
    session:close_stdin()
    assert(session:read() == nil and session.exit_code == 0)
  end)
end)

test("session: everything that waits fails when the sandbox ends", function()
  with_agent(function(agent)
    local session = agent:start { argv = { "sleep", "300" }, stdin = true }
    task.scope(function(scope)
      local reading = scope:pspawn(session.read, session)
      local writing = scope:pspawn(session.write, session, ("x"):rep(1024 * 1024))
      task.sleep(0.05)
      agent:close()
      for _, each in ipairs { reading, writing } do
        local ok, failure = each:pjoin()
        assert(not ok and failure.kind == "not_running", tostring(failure))
      end
    end)
    local ok, failure = pcall(session.write, session, "x")
    assert(not ok and failure.kind == "not_running")
    session:kill(9)
    session:close()
  end)
end)

test("session: more at once than allowed are refused, and those that run do", function()
  with_agent(function(agent)
    local sessions = {}
    local failure
    for i = 1, 300 do
      local ok, session = pcall(agent.start, agent, { argv = { "cat" }, stdin = true })
      if not ok then
        failure = session
        break
      end
      sessions[i] = session
    end
    -- The limit is the agent's, or that of processes; commands still run.
    assert(failure and failure.code == "EAGAIN", tostring(failure))
    assert(#sessions >= 200)
    sessions[1]:write("one")
    sessions[1]:close_stdin()
    assert(read_all(sessions[1]).stdout == "one")
    for _, session in ipairs(sessions) do
      session:close()
    end
  end)
end)
