-- One program from its first line to its end: the scope that signals cancel, the
-- clean-up, what a person is told, and the exit status.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local observed = require("sbx.observe")
local scopes = require("sbx.task.scope")
local stock = require("sbx.core.stock")
local deadline = require("sbx.task.deadline")

-- What only some runs need is loaded by those.
local function report()
  return require("sbx.cli.report")
end

local function tree()
  return require("sbx.task.tree").text()
end

local program = {}

local function say(...)
  io.stderr:write("sbxlua: ", ...)
end

-- What only the host sees. Each runs outside every task, or inside whichever is
-- interrupted: none can wait.
local events = {}

function events.deadlock(run)
  run.deadlock = errors.new({
    kind = "deadlock",
    message = "deadlock: every task waits for another one",
    tree = tree(),
  })
  return "deadlock"
end

---Set by a program that has nothing to say about its end by a signal.
---@type boolean|nil
program.quiet = nil

function events.signal(run, name)
  if program.quiet then return end
  local awaited = -1 -- but for this program's own task, and the script's
  for _, each in ipairs(core.list()) do
    if each ~= run.script then awaited = awaited + 1 end
  end
  local ending = awaited == 0 and ""
    or ("ending %d task%s and "):format(awaited, awaited == 1 and "" or "s")
  say(name, ": ", ending, "cleaning up",
    name == "SIGINT" and "; Ctrl-C again stops at once" or "", "\n")
end

---What an interactive program does at Ctrl-C, once `sbx.core.terminal` keeps it on.
---@type fun()|nil
program.on_interrupt = nil

---What it does when one step of a task holds up all others.
---@type fun()|nil
program.on_slow = nil

function events.interrupt()
  if program.on_interrupt then program.on_interrupt() end
end

function events.tree()
  say("SIGQUIT: what the tasks do\n", tree(), "\n")
end

function events.slow(_, text)
  if program.on_slow then program.on_slow() end
  say(text, "\n")
end

local function observe(run)
  host.observe(function(event, value)
    return events[event](run, value)
  end)
end

local function body(is_local, run, fn, ...)
  -- The server of --local is a part of the network that a replay does without.
  if is_local and not observed.replays then
    local server = require("sbx.local_server").start({})
    run.server = server
    require("sbx.sandbox.config").set_local({ url = server.url, api_key = server.api_key })
  end
  local arguments = table.pack(...)
  scopes.run({ name = "script", on_error = "cancel" }, function(scope)
    core.set_root(scope)
    core.checkpoint() -- a signal that came meanwhile
    -- A task of its own: the script is nobody's callee, in tracebacks too.
    run.script = scope:spawn(fn, table.unpack(arguments, 1, arguments.n))
    run.script.name = "script"
  end)
end

-- Ends what the run owns: sandboxes, then the private server. Returns failures.
local function clean_up(run)
  local failures = {}
  local finish = package.loaded["sbx.run"]
  if finish then
    local ok, result = pcall(deadline.shield, core.cleanup_seconds(), finish.finish)
    if not ok then
      failures[1] = result
    else
      failures = result or failures
    end
  end
  if run.server then
    local ok, err = pcall(deadline.shield, core.cleanup_seconds(), run.server.stop)
    if not ok then table.insert(failures, err) end
  end
  return failures
end

-- Waits until everything written has gone: as long as it takes, as stock Lua
-- does; after a signal no longer than a clean-up may.
local function finish_output()
  pcall(scopes.run, { on_error = "cancel" }, function(scope)
    core.set_root(scope)
    stock.drain()
  end)
  if not host.signal() then return end
  local ok, done = pcall(deadline.move_on, core.cleanup_seconds(), stock.drain)
  if not (ok and done) then host.hurry() end
end

local function is_broken_stdout(err)
  return errors.is_error(err) and err.code == "EPIPE" and err.op == "write"
    and tostring(err):find("stdout", 1, true) ~= nil
end

-- Whether `err` is only how a signal or os.exit ended something.
local function is_ending(err)
  return errors.is_error(err) and err.kind == "cancelled"
    and (host.signal() or host.exit_status()) ~= nil
end

local function conclude(run, ok, err, failures)
  local status = host.exit_status() or 0
  if run.deadlock then
    ok, err = false, run.deadlock
  end
  if not ok and not is_ending(err) then
    if is_broken_stdout(err) then
      status = 128 + 13
    else
      report().print(err)
      status = report().status(err)
    end
  end
  for _, failure in ipairs(failures) do
    local exits = host.exit_status() and is_ending(failure.error)
      and failure.error.message == "os.exit"
    if not exits then
      say("while cleaning up: ", tostring(failure), "\n")
      if status == 0 then status = 1 end
    end
  end
  return status
end

---Runs `fn(...)` as the program and cleans up after it.
---@async
---@param is_local boolean|nil  with sandboxes of this machine
---@param fn async fun(...)
---@return integer  the exit status
function program.run(is_local, fn, ...)
  local run = {}
  observe(run)
  local ok, err = pcall(body, is_local, run, fn, ...)
  local failures = clean_up(run)
  local status = conclude(run, ok, err, failures)
  finish_output()
  local signal = host.signal()
  return signal and 128 + signal or status
end

---Runs a command of this program: what signals mean to it is its own affair.
---@async
---@param fn async fun(): integer
---@return integer  the exit status
function program.run_command(fn)
  host.observe(function(event, value)
    if event == "tree" or event == "slow" then events[event](nil, value) end
  end)
  local ok, status = pcall(fn)
  if host.exit_status() then return host.exit_status() end
  if not ok then error(status, 0) end
  return status
end

return program
