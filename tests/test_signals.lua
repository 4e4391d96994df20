-- Ctrl-C and friends: the first asks the script to end, the second ends it.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "run_support.lua")

-- Before each script: a value that says when it is closed, and takes a while.
local PRELUDE = [[
  local task = require("sbx.task")
  local function closing(name)
    return setmetatable({}, { __close = function() task.sleep(0.01) print(name) end })
  end
  local function ready() print("ready") io.stdout:flush() end
]]

---Starts the script, signals it once it says "ready", and waits for its end.
---@async
---@return support.Run run, integer code, integer|nil signal
local function interrupt(code, signal, words)
  local argv = table.move(words or {}, 1, #(words or {}), 1, {})
  table.insert(argv, "-e")
  table.insert(argv, PRELUDE .. code)
  local run <close> = support.start(argv)
  run:await("stdout", "ready\n")
  run:kill(signal)
  return run, run:finish()
end

local function expect(code, signal, status, output, words)
  local run, ended, killed = interrupt(code, signal, words)
  assert(ended == status and not killed, ("%s: %s"):format(ended, run.text.stderr))
  assert(run.text.stdout == "ready\n" .. output, run.text.stdout)
  return run.text.stderr
end

local WAITING = 'local x <close> = closing("closed") ready() task.sleep(600)'

test("signals: each ends the script with 128 + n after finalizers that wait", function()
  for signal, status in pairs({ INT = 130, TERM = 143, HUP = 129 }) do
    local told = expect(WAITING, signal, status, "closed\n")
    assert(told:find("SIG" .. signal .. ": cleaning up", 1, true), told)
    assert((told:find("Ctrl-C again stops at once", 1, true) ~= nil) == (signal == "INT"))
    assert(not told:find("stack traceback", 1, true), told)
  end
end)

test("signals: every task ends, innermost first, then what was deferred", function()
  local told = expect([[
    require("sbx.run").defer(function() task.sleep(0.01) print("deferred") end)
    local outer <close> = closing("outer")
    task.scope(function(scope)
      for i = 1, 3 do scope:spawn(function()
        local mine <close> = closing("task")
        task.sleep(600)
      end) end
      task.sleep(0)
      ready()
    end)
  ]], "INT", 130, "task\ntask\ntask\nouter\ndeferred\n")
  assert(told:find("ending 3 tasks and cleaning up", 1, true), told)
end)

test("signals: a loop that never waits is interrupted and its finalizer runs", function()
  expect('local x <close> = closing("closed") ready() while true do end', "INT", 130, "closed\n")
  expect('local x <close> = closing("closed") ready() while true do end', "TERM", 143, "closed\n")
end)

test("signals: a loop inside a coroutine is interrupted, both sides are closed", function()
  expect([[
    local outer <close> = closing("outer")
    coroutine.wrap(function()
      local inner <close> = closing("inner")
      ready()
      while true do end
    end)()
  ]], "INT", 130, "inner\nouter\n")
end)

test("signals: loops that swallow errors end all the same", function()
  for _, loop in ipairs({
    "while true do pcall(task.sleep, 600) end",
    "while true do pcall(function() while true do end end) end",
    "while true do pcall(function() for i = 1, 1000 do end end) end",
    "while true do xpcall(task.sleep, function() end, 600) end",
  }) do
    expect('local x <close> = closing("closed") ready() ' .. loop, "INT", 130, "closed\n")
  end
end)

test("signals: a script that has caught the cancellation cannot go on waiting", function()
  expect('ready() pcall(task.sleep, 600) print("cut") task.sleep(600) print("never")',
    "INT", 130, "cut\n")
end)

test("signals: what is shielded has the time of finalizers, and no longer", function()
  local shielded = [[
    local x <close> = closing("closed")
    ready()
    task.shield(600, task.sleep, %s)
    print("completed")
    task.sleep(600)
  ]]
  expect(shielded:format("600"), "INT", 130, "closed\n", { "--cleanup-timeout", "0.1" })
  expect(shielded:format("0.05"), "INT", 130, "completed\nclosed\n", { "--cleanup-timeout", "20" })
  -- Opened when the end has been told already.
  expect([[
    local x <close> = closing("closed")
    ready()
    pcall(task.sleep, 600)
    task.shield(600, task.sleep, 600)
  ]], "INT", 130, "closed\n", { "--cleanup-timeout", "0.1" })
  -- One inside the other: not one after the other.
  local told = expect([[
    local x <close> = closing("closed")
    local function nest(depth)
      if depth > 0 then return task.shield(600, nest, depth - 1) end
      ready()
      task.sleep(600)
    end
    nest(400)
  ]], "INT", 130, "closed\n", { "--cleanup-timeout", "0.1" })
  assert(told:find("shield: cut off, the program ends", 1, true), told)
end)

test("signals: a finalizer that hangs is cut off by --cleanup-timeout", function()
  local hanging = [[
    local function hang() print("closing") task.sleep(600) end
    local x <close> = setmetatable({}, { __close = hang })
    ready() task.sleep(600)
  ]]
  expect(hanging, "INT", 130, "closing\n", { "--cleanup-timeout", "0.1" })
  local told = expect([[
    require("sbx.run").defer(function() print("deferred") task.sleep(600) end, "the slow one")
    ready() task.sleep(600)
  ]], "INT", 130, "deferred\n", { "--cleanup-timeout", "0.1" })
  assert(told:find("while cleaning up: the slow one", 1, true), told)
end)

test("signals: so is a finalizer that computes and never waits", function()
  local computing = [[
    local function spin() while true do end end
    local x <close> = setmetatable({}, { __close = spin })
    ready() task.sleep(600)
  ]]
  expect(computing, "TERM", 143, "", { "--cleanup-timeout", "0.1" })
end)

local STUCK = [[
  local x <close> = setmetatable({}, { __close = function() print("closing") %s end })
  ready() task.sleep(600)
]]

test("signals: the second Ctrl-C ends a hanging clean-up at once, by the signal", function()
  for _, hang in ipairs({ "task.sleep(600)", "io.stdout:flush() while true do end" }) do
    local run <close> = support.start({ "-e", PRELUDE .. STUCK:format(hang) })
    run:await("stdout", "ready\n")
    run:kill("INT")
    run:await("stdout", "closing\n")
    run:kill("INT")
    local code, signal = run:finish()
    assert(code == 130 and signal == 2, tostring(signal))
    assert(run.text.stderr:find("sbxlua: stopped at once\n", 1, true), run.text.stderr)
  end
end)

test("signals: the second Ctrl-C names the sandboxes that it abandons", function()
  local run <close> = support.start({ "--local", "-e", PRELUDE .. [[
    local client = require("sbx.sandbox").client()
    local box = client:create({ name = "a", docker_image = "python:3.11-slim" })
    print(box.id)
    ready()
  ]] .. STUCK:format("task.sleep(600)") })
  local id = run:await("stdout", "^(%S+)\nready\n")
  run:kill("INT")
  run:await("stdout", "closing\n")
  run:kill("INT")
  local _, signal = run:finish()
  assert(signal == 2)
  local last = run.text.stderr:match("stopped at once[^\n]*") or run.text.stderr
  assert(last:find("sandboxes left: " .. id, 1, true), last)
end)

test("signals: one that our parent ignores stays ignored", function()
  local run <close> = support.start({ "-e", PRELUDE .. [[
    local process = require("sbx.process")
    local child <close> = process.spawn({ "sh", "-c", 'trap "" HUP; exec "$0" -e "$1"',
      require("sbx.core.host").executable(),
      'print("up") require("sbx.task").sleep(600)' }, { stdout = "pipe" })
    child.stdout:read()
    child:kill("HUP")
    child:kill("TERM")
    print((child:wait()))
  ]] })
  assert(run:finish() == 0)
  assert(run.text.stdout == "143\n", run.text.stdout)
end)
