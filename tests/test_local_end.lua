-- `--local`: however the script ends, nothing of its run is left: no process, no
-- file.

local process = require("sbx.process")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local task = require("sbx.task")
local watch = dofile(here .. "leftover_support.lua")

local scripts = here .. "../scripts/"

local SANDBOXES = [[
  local client = require("sbx.sandbox").client()
  local boxes = {}
  for i = 1, 2 do
    boxes[i] = client:create({ name = "n" .. i, docker_image = "python:3.11-slim" })
  end
  client:bulk_wait_for_creation(boxes)
  print("ready") io.stdout:flush()
]]

test("local end: the demo prints just 42 and leaves nothing", function()
  watch.run(function(start)
    local run <close> = start({ scripts .. "launch_demo.lua" })
    assert(run:finish() == 0, run.text.stderr)
    assert(run.text.stdout == "42\n", run.text.stdout)
  end)
end)

test("local end: a script that raises leaves nothing", function()
  watch.run(function(start, look)
    local run <close> = start({ "-e", SANDBOXES .. 'error("raised", 0)' })
    run:await("stdout", "ready\n")
    look(run.pid)
    assert(run:finish() == 1 and run.text.stderr:find("sbxlua: raised", 1, true))
  end)
end)

test("local end: signals in the middle leave nothing", function()
  for signal, status in pairs({ INT = 130, TERM = 143, HUP = 129, KILL = 137 }) do
    watch.run(function(start, look)
      local run <close> = start({ "-e", SANDBOXES .. 'boxes[1]:exec("sleep 600")' })
      run:await("stdout", "ready\n")
      -- The script, its server, two sandboxes and the first process of each.
      assert(look(run.pid) >= 4)
      run:kill(signal)
      assert(run.child:wait() == status)
      run:finish()
    end)
  end
end)

test("local end: Ctrl-C to the whole terminal while 20 sandboxes are created", function()
  watch.run(function(start, look)
    local run <close> = start({ "-e", [[
      local client = require("sbx.sandbox").client()
      local list = {}
      for i = 1, 20 do list[i] = i end
      require("sbx.task").map(list, function(i)
        client:create({ name = "n" .. i, docker_image = "python:3.11-slim" })
        print("created") io.stdout:flush()
      end)
      require("sbx.task").sleep(600)
    ]] })
    run:await("stdout", "created\n")
    look(run.pid)
    run.child:kill_group("INT")
    assert(run:finish() == 130, run.text.stderr)
    assert(not run.text.stderr:find("while cleaning up", 1, true), run.text.stderr)
  end)
end)

local PTY = [[
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
]]

test("local end: fleet_demo rewrites its progress on a terminal, and only there", function()
  local argv = {
    require("sbx.core.host").executable(), "--local", scripts .. "fleet_demo.lua", "3",
  }
  local result = process.run({ "python3", "-c", PTY, table.unpack(argv) },
    { timeout = 120, env = { TERM = "xterm", CI = false } })
  assert(result.code == 0, result.stdout)
  assert(result.stdout:find("\27[K", 1, true), result.stdout)
  result = process.run(argv, { timeout = 120 })
  assert(result.code == 0, result.stderr)
  assert(not result.stderr:find("[\r\27]"), result.stderr)
  assert(result.stderr:find("3/3", 1, true), result.stderr)
end)

test("local end: a Ctrl-C while the server is starting ends the run, too", function()
  watch.run(function(start)
    local run <close> = start({ "-e", "print('went on')" })
    local children = ("/proc/%d/task/%d/children"):format(run.pid, run.pid)
    task.timeout(60, function()
      while watch.read(children) == "" do
        task.yield()
      end
    end)
    run.child:kill("INT")
    local code = run.child:wait()
    local text = run.child.stdout:read()
    assert(code == 130 and text == nil, tostring(text))
  end)
end)
