-- A command in a sandbox, as if it ran here: its bytes, its exit code, our signals. What
-- `exec` and `run` share.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local input = require("sbx.cli.input")
local remote_input = require("sbx.cli.remote_input")
local signal = require("sbx.signal")
local sync = require("sbx.sync")
local task = require("sbx.task")

local remote_run = {}

local LONGEST = 7 * 86400 -- seconds; a sandbox does not live that long
local FAILED = 125 -- exit status when it was us

remote_run.FAILED = FAILED

---What `exec` and `run` have in common.
remote_run.options = {
  { name = "interactive", short = "i", type = "flag", also = { "--stdin" },
    help = "hand our stdin over, as it comes" },
  { name = "tty", short = "t", type = "flag",
    help = "give it a terminal: for sandboxes that are virtual machines" },
  { name = "workdir", short = "w", metavar = "DIR", also = { "--cwd", "--chdir", "--working-dir" },
    help = "the folder that it runs in" },
  { name = "env", short = "e", type = "map", help = "set a variable" },
  { name = "env-file", type = "file", metavar = "FILE",
    help = "lines NAME=VALUE: variables that are seen on no command line" },
  { name = "user", short = "u", help = "run as this user; in containers" },
  { name = "deadline", type = "duration", also = { "--timeout" },
    help = "end it, and all that it started, after this time; exit status 124" },
}

---The words of the command.
remote_run.argument = {
  name = "argv", metavar = "ARGV", many = true, raw = true,
  help = "the program and its arguments, which no shell looks into",
}

-- ------------------------------------------------------------------- variables

---The variables of files with lines NAME=VALUE; empty lines and those with # are skipped.
---@async
---@param path string
---@return table<string, string>
function remote_run.read_env(path)
  local env, number = {}, 0
  for line in (fs.read(path, { max = 1024 * 1024 }) .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    local name, value = line:match("^([^=%s#]+)=(.-)\r?$")
    if name then
      env[name] = value
    elseif line:find("%S") and not line:find("^%s*#") then
      -- Not the line: it may be a secret.
      errors.raise({ kind = "usage",
        message = ("%s, line %d: expected NAME=VALUE"):format(path, number) })
    end
  end
  return env
end

---@async
local function env_of(given)
  local env = given.env_file and remote_run.read_env(given.env_file) or {}
  for name, value in pairs(given.env) do
    env[name] = value
  end
  return next(env) and env or nil
end

-- ----------------------------------------------------------------------- words

local function quoted(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- In a container a command is the child of a shell that lets it ignore INT and QUIT; `env`
-- undoes that where the image's is new enough. The words reach the program as they are.
local function command_of(argv, remote)
  local words = {}
  for i, word in ipairs(argv) do
    if word:find("\0", 1, true) then
      errors.raise({ kind = "usage", message = ("ARGV: word %d has a NUL byte"):format(i) })
    end
    words[i] = quoted(word)
  end
  if argv[1] == "" then errors.raise({ kind = "usage", message = "ARGV: its program is empty" }) end
  if argv[1]:sub(1, 1) == "-" then
    errors.raise({ kind = "usage",
      message = "ARGV: a shell takes a program whose name begins with '-' for an option; write "
        .. "its folder, too" })
  end
  local text = ("set -- %s\n"):format(table.concat(words, " "))
  if not argv[1]:find("=", 1, true) then
    text = text .. "if env --default-signal=INT,QUIT true 2>/dev/null; then"
      .. ' set -- env --default-signal=INT,QUIT "$@"; fi\n'
  end
  return text .. (remote and remote:script() or 'exec "$@"')
end

-- --------------------------------------------------------------------- signals

-- Our signals go to the command. Where Ctrl-C does not end it, a second one asks it to
-- terminate, and a third one ends the wait, and by that everything that it started.
---@async
local function forward(signals, running, scope)
  local interrupts = 0
  for name in signals:each() do
    if name == "INT" then
      interrupts = interrupts + 1
      if interrupts == 2 then name = "TERM" end
    end
    if interrupts > 2 or not running.command then
      running.ended_by = signal.number(name == "TERM" and interrupts > 1 and "INT" or name)
      scope:cancel(name)
      return
    end
    scope:spawn(function() pcall(running.command.signal, running.command, name) end)
  end
end

-- ------------------------------------------------------------------ containers

---@async
local function run_command(box, given, running, remote)
  local result = box:exec(command_of(given.argv, remote), {
    working_dir = given.workdir, env = env_of(given), user = given.user,
    timeout = LONGEST, deadline = given.deadline,
    on_stdout = function(bytes) host.write(1, bytes) end,
    on_stderr = function(bytes) host.write(2, bytes) end,
    on_start = function(command) running.command = command end,
  })
  return result.exit_code
end

---@async
local function run_plain(client, box, given, running)
  if not given.interactive then return run_command(box, given, running) end
  local remote <close> = remote_input.open(client, box, given.user)
  return task.scope(function(scope)
    scope:daemon(function() remote:send(input.source()) end)
    local ok, result = pcall(run_command, box, given, running, remote)
    if ok or not (errors.is_error(result) and result.kind == "cancelled") then remote:finish() end
    return ok and result or error(result, 0)
  end)
end

-- -------------------------------------------------------------------- terminals

local function stty(...)
  local process = require("sbx.process")
  local child <close> = process.spawn({ "stty", ... }, {
    stdin = "inherit", stdout = "pipe", stderr = "null", session = false,
  })
  local text = ""
  for bytes in function() return child.stdout:read() end do
    text = text .. bytes
  end
  return child:wait() == 0 and text:match("^%s*(.-)%s*$") or nil
end

-- Our terminal hands over each key as it comes, until the value is closed.
---@async
local function raw_terminal()
  local before = host.isatty(0) and stty("-g")
  if before then stty("raw", "-echo") end
  return setmetatable({}, {
    __close = function()
      if before then pcall(task.shield, 5, stty, before) end
    end,
  })
end

-- A function that tells the process's terminal the size of ours, where that is another one
-- than it knows. What is typed after a change waits for it: see `feed`.
local function follower(process, cols, rows)
  local turn = sync.mutex("size")
  return function()
    local _ <close> = turn:lock()
    local wide, high = host.columns(1)
    if not wide or wide == cols and high == rows then return end
    cols, rows = wide, high
    pcall(process.resize, process, cols, rows)
  end
end

---@async
local function feed(process, follow_size)
  local source = input.source()
  while true do
    local bytes = source()
    follow_size()
    if not bytes then
      pcall(process.write, process, "\4") -- what a terminal has for the end
      return
    end
    process:write(bytes)
  end
end

-- On a terminal there is one output, and the size follows ours.
---@async
local function run_on_terminal(_, box, given, running)
  local columns, rows = host.columns(1)
  local options = {
    cwd = given.workdir, env = env_of(given),
    pty = { cols = columns or 80, rows = rows or 24 }, deadline = given.deadline,
    tag = "sbxlua-" .. hash.random_hex(6),
  }
  local process <close> = box:open_process(given.argv, options)
  running.command = {
    signal = function(_, name)
      if name == "INT" then return process:write("\3") end
      return process:signal(name == "HUP" and "TERM" or name)
    end,
  }
  local _ <close> = raw_terminal()
  return task.scope(function(scope)
    local follow_size = columns and follower(process, columns, rows) or function() end
    if given.interactive then scope:daemon(function() pcall(feed, process, follow_size) end) end
    if columns then
      scope:daemon(function()
        local resized <close> = signal.listen("WINCH")
        follow_size() -- it may have changed before anybody listened
        for _ in resized:each() do
          follow_size()
        end
      end)
    end
    for bytes in function() return process:read("pty") end do
      host.write(1, bytes)
    end
    local ended = process:wait()
    return ended.exit_code >= 0 and ended.exit_code or running.ended_by and 128 + running.ended_by
      or 255
  end)
end

-- --------------------------------------------------------------------- running

---Runs `given.argv` in a sandbox. Returns the exit status, its own or 124.
---@async
---@param client sbx.sandbox.Client
---@param box sbx.sandbox.Box
---@param given table  what the options say
---@return integer
function remote_run.run(client, box, given)
  if given.tty and not box.vm then
    errors.raise({
      kind = "unsupported",
      message = "-t: this sandbox is a container, which has no terminals: leave -t away, or make "
        .. "it with --vm",
    })
  end
  local running = {}
  local way = given.tty and run_on_terminal or run_plain
  local signals <close> = signal.listen("INT", "TERM", "HUP")
  local status
  local ok, err = pcall(task.scope, function(scope)
    scope:daemon(function() forward(signals, running, scope) end)
    status = way(client, box, given, running)
  end)
  if running.ended_by then return status or 128 + running.ended_by end
  if ok and status then return status end
  if not ok and errors.is_error(err) and err.kind == "command_timeout" and given.deadline then
    err.exit_status = 124
  end
  error(err, 0)
end

return remote_run
