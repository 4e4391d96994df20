-- `--local`: however the script ends, nothing of its run is left: no process, no
-- file. The processes of a run are those below it, by their numbers, and those
-- that carry the run's own value in their environment.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local process = require("sbx.process")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "run_support.lua")
local task = require("sbx.task")

local scripts = here .. "../scripts/"

-- A process that goes away while we look at it counts as gone.
local function read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text or ""
end

-- The processes below `pid`, itself included.
local function family(pid)
  local found = {}
  local function add(number)
    found[#found + 1] = number
    for _, thread in ipairs(select(2, pcall(fs.list, "/proc/" .. number .. "/task")) or {}) do
      local children = read(("/proc/%s/task/%s/children"):format(number, thread))
      for child in children:gmatch("%d+") do
        add(child)
      end
    end
  end
  add(tostring(pid))
  return found
end

local function is_alive(pid)
  local state = read("/proc/" .. pid .. "/stat"):match("^%d+ %(.*%) (%a)")
  return state ~= nil and state ~= "Z" and state ~= "X"
end

local function marked(mark)
  local found = {}
  for _, name in ipairs(fs.list("/proc")) do
    if name:find("^%d+$") and read("/proc/" .. name .. "/environ"):find(mark, 1, true) then
      found[#found + 1] = name
    end
  end
  return found
end

---A run with folders and a mark of its own. Calls `fn(start, look)`:
---`start(words)` starts sbxlua --local, `look()` notes what runs now.
---@async
local function watched(fn)
  local folder <close> = fs.tmpdir({ prefix = "local-end-" })
  local mark = "SBX_TEST_MARK=" .. hash.random_hex(8)
  local env = {
    SBX_TEST_MARK = mark:match("=(.*)"), TMPDIR = folder.path, HOME = folder.path,
    XDG_STATE_HOME = folder.path, XDG_CACHE_HOME = folder.path, XDG_CONFIG_HOME = folder.path,
    XDG_DATA_HOME = folder.path, XDG_RUNTIME_DIR = folder.path,
  }
  local seen = {}
  local function start(words)
    return support.start({ "--local", table.unpack(words) }, env)
  end
  local function look(pid)
    for _, number in ipairs(family(pid)) do
      seen[#seen + 1] = number
    end
    return #seen
  end
  fn(start, look, env)
  task.timeout(20, function()
    while #marked(mark) > 0 do
      task.sleep(0.01)
    end
    for _, pid in ipairs(seen) do
      while is_alive(pid) do
        task.sleep(0.01)
      end
    end
  end)
  local left = fs.list(folder.path)
  assert(#left == 0, "files left: " .. table.concat(left, " "))
end

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
  watched(function(start)
    local run <close> = start({ scripts .. "launch_demo.lua" })
    assert(run:finish() == 0, run.text.stderr)
    assert(run.text.stdout == "42\n", run.text.stdout)
  end)
end)

test("local end: a script that raises leaves nothing", function()
  watched(function(start, look)
    local run <close> = start({ "-e", SANDBOXES .. 'error("raised", 0)' })
    run:await("stdout", "ready\n")
    look(run.pid)
    assert(run:finish() == 1 and run.text.stderr:find("sbxlua: raised", 1, true))
  end)
end)

test("local end: signals in the middle leave nothing", function()
  for signal, status in pairs({ INT = 130, TERM = 143, HUP = 129, KILL = 137 }) do
    watched(function(start, look)
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
  watched(function(start, look)
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
  local result = process.run({ "python3", "-c", PTY, table.unpack(argv) }, { timeout = 40 })
  assert(result.code == 0, result.stdout)
  assert(result.stdout:find("\r\27[K", 1, true), result.stdout)
  result = process.run(argv, { timeout = 40 })
  assert(result.code == 0, result.stderr)
  assert(not result.stderr:find("[\r\27]"), result.stderr)
  assert(result.stderr:find("3/3", 1, true), result.stderr)
end)

test("local end: a Ctrl-C while the server is starting ends the run, too", function()
  watched(function(start)
    local run <close> = start({ "-e", "print('went on')" })
    local children = ("/proc/%d/task/%d/children"):format(run.pid, run.pid)
    task.timeout(20, function()
      while read(children) == "" do
        task.yield()
      end
    end)
    run.child:kill("INT")
    local code = run.child:wait()
    local text = run.child.stdout:read()
    assert(code == 130 and text == nil, tostring(text))
  end)
end)
