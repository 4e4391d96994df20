-- Steps that hold the loop, and what SIGQUIT shows.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "run_support.lua")
local task = require("sbx.task")

-- Line 1 of each script: computes for about so many seconds.
local BUSY = "local task = require('sbx.task') local function busy(s) local t = os.clock() "
  .. "while os.clock() - t < s do end end\n"

---Runs the script as a file with a limit of 50 ms and returns what it says.
---@async
local function run(text, limit)
  local dir <close> = fs.tmpdir({ prefix = "watchdog-" })
  fs.write(dir.path .. "/s.lua", BUSY .. text)
  local result = support.run({ "s.lua" },
    { cwd = dir.path, env = { SBXLUA_SLOW_STEP = limit or "50" } })
  return result.stderr, result
end

local function reports(text)
  local places = {}
  for ms, place in text:gmatch("sbxlua: task %d+ held the loop for (%d+) ms %(([^)]+)%)") do
    assert(tonumber(ms) >= 50, text)
    places[#places + 1] = place
  end
  return table.concat(places, " "), #places
end

test("watchdog: a slow step is told once, with the line that it was at", function()
  local told = run([[
local function compute()
  local n = 0
  local t = os.clock()
  while os.clock() - t < 0.3 do n = n + 1 end
end
for _ = 1, 3 do compute() task.sleep(0) end]])
  local places, count = reports(told)
  assert(places:find("^s%.lua:5") and count == 1, told)
end)

test("watchdog: so is one in another task, in a generator and in a metamethod", function()
  local told = run([[
task.spawn(function()
  busy(0.2) end):join()
coroutine.wrap(function() for _ = 1, 2 do
  local t = os.clock() while os.clock() - t < 0.2 do end
  task.sleep(0) end end)()
local slow = setmetatable({}, { __index = function()
  local t = os.clock() while os.clock() - t < 0.2 do end end })
return slow.x]])
  assert(reports(told) == "s.lua:1 s.lua:5 s.lua:8", told)
end)

test("watchdog: one long call is told when it ends, with the line that called", function()
  local told = run([[
local text = ("a"):rep(22)
local pattern = ("a?"):rep(22) .. ("a"):rep(22)
local function search() return text:find(pattern) end
local found = search()
print(found) task.sleep(0)
pcall(string.find, text, pattern)
task.sleep(0)]])
  local places = reports(told)
  assert(places:find("^s%.lua:4") or places:find("^s%.lua:5"), told)
end)

test("watchdog: many short steps are no long one, however busy the loop", function()
  local told = run([[
local function work() for _ = 1, 50 do busy(0.002) task.yield() end end
for i = 1, 4 do task.spawn(work) end]], "80")
  assert(told == "", told)
end)

test("watchdog: waiting is no step, nor is the time that a program was stopped", function()
  local child <close> = support.start({ "-e", BUSY .. [[
    print("ready") io.stdout:flush()
    task.sleep(0.3)
    busy(0.02)
    print("computing") io.stdout:flush()
    local t = os.clock()
    while os.clock() - t < 0.1 do end
    task.sleep(0.5)
  ]] }, { SBXLUA_SLOW_STEP = "400" })
  child:await("stdout", "computing\n")
  child:kill("STOP")
  task.sleep(1)
  child:kill("CONT")
  assert(child:finish() == 0)
  assert(child.text.stderr == "", child.text.stderr)
end)

test("watchdog: a hook of the script stays, and the step is told all the same", function()
  local told, result = run([[
local count = 0
debug.sethook(function() count = count + 1 end, "", 1000)
busy(0.3)
local before = count
busy(0.1)
print(count > before and before > 10)
task.sleep(0)]])
  assert(result.stdout == "true\n", result.stdout)
  assert(reports(told) == "until s.lua:8", told)
end)

test("watchdog: it is off at 0, and a limit that is none is the usual one", function()
  assert(run("busy(0.3)", "0") == "")
  for _, limit in ipairs({ "soon", "-5", "" }) do
    assert(run("busy(0.03)", limit) == "", limit)
  end
  assert(reports((run("busy(0.3)", "never"))) == "s.lua:1")
end)

test("watchdog: an idle program is never woken for it", function()
  local child <close> = support.start({ "-e", [[
    local task = require("sbx.task")
    task.sleep(0.3)
    print("ready") io.stdout:flush()
    io.read()
    task.sleep(600)
  ]] }, { SBXLUA_SLOW_STEP = "20" })
  child:await("stdout", "ready\n")
  local function switches()
    local text = fs.read("/proc/" .. child.pid .. "/status")
    return tonumber(text:match("\nvoluntary_ctxt_switches:%s*(%d+)"))
  end
  -- Half a second without a wake comes some time, not at once on a busy machine.
  local before, after
  task.timeout(60, function()
    repeat
      before = switches()
      task.sleep(0.5)
      after = switches()
    until after == before
  end)
end)

test("watchdog: SIGQUIT shows what each task waits on and where, and the run goes on", function()
  local child <close> = support.start({ "-e", [[
local task, sync = require("sbx.task"), require("sbx.sync")
local sleeper = task.spawn(function()
  task.sleep(600) end)
sleeper.name = "sleeper"
local joiner = task.spawn(function() sleeper:join() end)
local lock = sync.mutex("file")
local held = lock:lock()
local locker = task.spawn(function()
  local mine <close> = lock:lock() end)
local generator = task.spawn(function() coroutine.wrap(function()
  task.sleep(600) end)() end)
task.sleep(0.05)
print("ready") io.stdout:flush()
task.sleep(3)
print("busy") io.stdout:flush()
local start = os.clock()
while os.clock() - start < 0.5 do end
print("over") io.stdout:flush()
os.exit(7)
]] })
  child:await("stdout", "ready\n")
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        child:kill("QUIT")
        task.sleep(0.1)
      end
    end)
    child:await("stderr", "%(script%) waiting on sleep at %(command line%):14[^S]*line%):10")
  end)
  local text = child.text.stderr
  for _, pattern in ipairs({
    "%(sleeper%) waiting on sleep at %(command line%):3, spawned at %(command line%):2",
    "waiting on the end of task %d+ at %(command line%):5",
    "waiting on lock 'file' held by task %d+ at %(command line%):9",
    "waiting on sleep at %(command line%):11",
  }) do
    assert(text:find(pattern), pattern .. "\n" .. text)
  end
  child:await("stdout", "busy\n")
  child:kill("QUIT")
  child:await("stderr", "%(script%) running at %(command line%):1[5-7]")
  assert(child:finish() == 7 and child.text.stdout:find("over\n$"))
end)
