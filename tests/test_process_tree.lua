-- Ending a child means ending all that it started.

local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local process = require("sbx.process")
local support = dofile("tests/process_support.lua")
local task = require("sbx.task")

local runs = support.runs

-- Three generations that all ignore SIGTERM; their ids go to the file `pids`.
local STUBBORN = [[
  trap '' TERM
  sh -c 'sh -c "echo \$\$ >> pids; while :; do sleep 0.1; done" &
    echo $$ >> pids; while :; do sleep 0.1; done' &
  echo $$ >> pids
  while :; do sleep 0.1; done
]]

local function start_stubborn(dir, options)
  options.cwd = dir.path
  local child = process.spawn({ "sh", "-c", STUBBORN }, options)
  local pids
  task.timeout(60, function()
    repeat
      task.sleep(0.005)
      local ok, text = pcall(fs.read, dir.path .. "/pids")
      pids = {}
      for pid in (ok and text or ""):gmatch("(%d+)\n") do
        pids[#pids + 1] = pid
      end
    until #pids == 3
  end)
  return child, pids
end

local function all_gone(pids)
  for _, pid in ipairs(pids) do
    assert(not runs(pid), pid .. " still runs")
  end
end

test("process.close: a tree that ignores SIGTERM is gone after the grace", function()
  local dir <close> = fs.tmpdir()
  local child, pids = start_stubborn(dir, { grace = 0.2 })
  local start = task.now()
  child:close()
  assert(task.now() - start >= 0.2)
  all_gone(pids)
  local code, signal = child:wait()
  assert(code == 137 and signal == 9)
  child:close()
end)

test("process.close: so is one whose task was cancelled", function()
  local dir <close> = fs.tmpdir()
  local pids
  task.scope(function(scope)
    scope:spawn(function()
      local child <close>, list = start_stubborn(dir, { grace = 0.1 })
      pids = list
      child:wait()
    end)
    while not pids do
      task.sleep(0.01)
    end
    scope:cancel()
  end)
  all_gone(pids)
end)

test("process.close: one whose deadline has passed, and with no grace at all", function()
  local dir <close> = fs.tmpdir()
  local child, pids = start_stubborn(dir, { grace = 0 })
  assert(task.move_on(0.05, function()
    local guard <close> = child
    guard:wait()
  end) == false)
  all_gone(pids)
end)

test("process.close: the grace is for the whole group, not for its leader alone", function()
  local dir <close> = fs.tmpdir()
  local child = process.spawn({ "sh", "-c", [[
    (trap 'sleep 0.3; echo saved > result; exit' TERM; echo ready > ready
     while :; do sleep 0.02; done) &
    echo $! > pid
    exec sleep 1000
  ]] }, { cwd = dir.path, grace = 60, stderr = "null" })
  support.await_file(dir.path .. "/ready")
  local pid = tonumber(support.await_file(dir.path .. "/pid"))
  local start = task.now()
  child:close()
  assert(select(2, child:wait()) == 15)
  assert(fs.read(dir.path .. "/result") == "saved\n")
  assert(not runs(pid))
  assert(task.now() - start < 50, "waited for the whole grace")
end)

test("process.close: what the leader leaves behind after SIGTERM is killed", function()
  local dir <close> = fs.tmpdir()
  local child = process.spawn({ "sh", "-c", [[
    (trap '' TERM; echo ready > ready; while :; do sleep 0.1; done) &
    echo $! > pid
    exec sleep 1000
  ]] }, { cwd = dir.path, grace = 0.2, stderr = "null" })
  support.await_file(dir.path .. "/ready")
  local pid = tonumber(support.await_file(dir.path .. "/pid"))
  child:close()
  assert(not runs(pid))
end)

test("process.close: a stopped child ends", function()
  local child = process.spawn({ "sleep", "1000" }, { grace = 60 })
  child:kill("STOP")
  local start = task.now()
  child:close()
  assert(select(2, child:wait()) == 15 and task.now() - start < 50)
end)

test("process.close: a zombie in the group is not waited for", function()
  if not process.which("python3") then skip("python3 is missing") end
  local dir <close> = fs.tmpdir()
  -- The dead member's parent has left the group and does not look after it.
  local child = process.spawn({ "python3", "-c", [[
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)
    os.setsid()
    with open("pid.part", "w") as file:
        file.write("%d\n" % os.getpid())
    os.rename("pid.part", "pid")
    time.sleep(1000)
time.sleep(1000)
]] }, { cwd = dir.path, grace = 60, stderr = "null" })
  local stranger = support.await_file(dir.path .. "/pid"):match("%d+")
  local start = task.now()
  child:close()
  assert(task.now() - start < 50)
  process.run({ "kill", "-9", stranger }, { check = true })
  support.await_gone(stranger)
end)

test("process.close: what a child that has ended left behind runs on", function()
  local dir <close> = fs.tmpdir()
  local child = process.spawn({ "sh", "-c", "sleep 1000 & echo $! > pid" },
    { cwd = dir.path, stdout = "null" })
  assert(child:wait() == 0)
  child:close()
  local pid = fs.read(dir.path .. "/pid"):match("%d+")
  assert(runs(pid) and child:kill_group("KILL") == false)
  process.run({ "kill", "-9", pid }, { check = true })
  support.await_gone(pid)
end)

test("process.close: without a session it ends the child alone", function()
  local dir <close> = fs.tmpdir()
  local child = process.spawn({ "sh", "-c", "sleep 1000 & echo $! > pid; wait" },
    { cwd = dir.path, session = false })
  local pid = support.await_file(dir.path .. "/pid"):match("%d+")
  child:close()
  assert(not child.running and runs(pid))
  process.run({ "kill", "-9", pid }, { check = true })
  support.await_gone(pid)
end)

test("process.run: the time limit leaves nothing of a stubborn tree", function()
  local dir <close> = fs.tmpdir()
  local err = expect.failure(process.shell, STUBBORN, {
    cwd = dir.path, timeout = 3, grace = 0.1,
  })
  assert(err.kind == "timeout")
  local pids = {}
  for pid in fs.read(dir.path .. "/pids"):gmatch("%d+") do
    pids[#pids + 1] = pid
  end
  assert(#pids > 0)
  all_gone(pids)
end)

test("process: fifty stubborn children end together", function()
  local children = {}
  for i = 1, 50 do
    children[i] = process.spawn({ "sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done" },
      { stdout = "pipe", grace = 0.2 })
  end
  for _, child in ipairs(children) do
    assert(child.stdout:line() == "")
  end
  local start = task.now()
  task.map(children, function(child) child:close() end, { limit = 50 })
  assert(task.now() - start < 50)
  for _, child in ipairs(children) do
    assert(not child.running)
  end
end)

-- ------------------------------------------------------------------------ lines

test("process: lines of a child's output, as they come", function()
  local script = "echo one; read x; echo $x; printf end; echo e >&2"
  local child <close> = process.spawn({ "sh", "-c", script },
    { stdin = "pipe", stdout = "pipe", stderr = "pipe" })
  local next_line = child:lines()
  assert(next_line() == "one")
  child.stdin:write("two\n")
  assert(child.stdout:line(true) == "two\n" and next_line() == "end" and next_line() == nil)
  for line in child:lines("stderr", true) do
    assert(line == "e\n")
  end
  assert(child:wait() == 0)
  for text, call in pairs({
    ['no stream "stderr": start the child with stderr = "pipe"'] = function()
      local other <close> = process.spawn({ "true" })
      local _ = other:lines("stderr")
    end,
    ['no stream "stdin"'] = function() local _ = child:lines("stdin") end,
    ["write child:wait"] = function() child.wait() end,
  }) do
    expect.misuse(text, call)
    expect.misuse("test_process_tree.lua", call)
  end
end)
