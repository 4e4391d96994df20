-- Child processes: run one to its end, or start one and talk to it.
--
-- A program is started directly, from a list of arguments; no shell is involved
-- unless you name one. Failures are error objects: ENOENT when there is no such
-- program, kind "timeout", and kind "process" where `check` is asked for.

local check = require("sbx.check")
local core = require("sbx.core.process")
local errors = require("sbx.errors")
local task = require("sbx.task")

---@class sbx.process
local process = {}

local MAX_OUTPUT = 16 * 1024 * 1024 -- bytes kept of each stream by `run`
local LINGER = 0.1 -- seconds for the end of the output after the child's end
local TAIL = 2048 -- bytes of stderr that an error carries
local REAP = 5 -- seconds for the kernel to end a child after SIGKILL

-- The same numbers on all machines that we run on.
local signals = {
  HUP = 1, INT = 2, QUIT = 3, ABRT = 6, KILL = 9, USR1 = 10, USR2 = 12, PIPE = 13,
  ALRM = 14, TERM = 15, CHLD = 17, CONT = 18, STOP = 19, TSTP = 20, WINCH = 28,
}

local function signal_number(signal, level)
  if math.type(signal) == "integer" then return signal end
  local number = type(signal) == "string" and signals[(signal:gsub("^SIG", ""))]
  if not number then error("signal: unknown: " .. tostring(signal), level + 1) end
  return number
end

---A running or ended child. As a `<close>` variable it is stopped at the end.
---@class sbx.Process
---@field pid integer
---@field running boolean
---@field stdin? sbx.Stream   where "pipe" or "socket" was asked for
---@field stdout? sbx.Stream
---@field stderr? sbx.Stream
---@field fds table<integer, sbx.Stream>
---@field package core sbx.core.process.Process
---@field package name string
---@field package group boolean
---@field package grace number
local Process = {}

function Process.__index(self, key)
  if key == "running" then return rawget(self, "core").running end
  return Process[key]
end

---Waits for the child's end, as often as you like.
---@async
---@return integer code    its exit code; 128 + signal when a signal killed it
---@return integer|nil signal
function Process:wait()
  return self.core:wait()
end

---Signals the child alone.
---@param signal? string|integer  such as "TERM" (default) or 15
---@return boolean sent  false once it has ended
function Process:kill(signal)
  return self.core:kill(signal_number(signal or "TERM", 2))
end

---Signals the child and its descendants; unless it was started with `session =
---false`, when it has no group of its own.
---@param signal? string|integer  such as "TERM" (default) or 15
---@return boolean sent  false once the child has ended
function Process:kill_group(signal)
  local number = signal_number(signal or "TERM", 2)
  if not self.group then error("kill_group: the child has no group of its own", 2) end
  return self.core:kill_group(number)
end

-- To all that the child started, and for good: what is left of the group when
-- the child ends is killed.
local function signal_all(child, number)
  if child.group then
    child.core:kill_group(number, true)
  else
    child.core:kill(number)
  end
end

local function stop(child)
  if not child.core.running then return end
  signal_all(child, signals.TERM)
  signal_all(child, signals.CONT) -- a stopped one would not notice
  task.scope(function(scope)
    -- A task of its own rather than a deadline here: this may be a finalizer,
    -- which a deadline leaves alone.
    scope:daemon(function()
      task.sleep(child.grace)
      signal_all(child, signals.KILL)
    end)
    child.core:wait()
  end)
end

---Ends the child: SIGTERM to its group, SIGKILL when it still runs after its
---`grace`; waits until it is gone and closes the streams. Works in a cancelled
---task too. Again is harmless.
---@async
function Process:close()
  -- First, so that a child that blocks on a full pipe or waits for input goes on.
  for _, stream in pairs(self.fds) do
    stream:close()
  end
  if self.core.running and not self.released then
    task.shield(self.grace + REAP, stop, self)
  end
end

Process.__close = Process.close

---Lets the child run on after `close` and the end of the program, which sends
---SIGTERM to every other child that still runs.
function Process:unref()
  self.released = true
  self.core:unref()
end

local function check_argv(argv, level)
  if type(argv) ~= "table" or #argv == 0 then
    error("argv: expected a list: the program, then its arguments", level + 1)
  end
  local copy = {}
  for i = 1, #argv do
    local type = type(argv[i])
    if type ~= "string" and type ~= "number" then
      error("argv[" .. i .. "]: expected a string, got a " .. type, level + 1)
    end
    copy[i] = tostring(argv[i])
  end
  return copy
end

-- "NAME=value" strings: ours with `changes` applied, or just `changes`.
local function environment(changes, clear, level)
  if not changes and not clear then return nil end
  local all = clear and {} or core.environ()
  for name, value in pairs(changes or {}) do
    if type(name) ~= "string" or name == "" or name:find("[=%z]") then
      error("env: not a variable's name: " .. tostring(name), level + 1)
    end
    if value ~= false and type(value) ~= "string" and type(value) ~= "number" then
      error("env." .. name .. ": expected a string, or false to leave it out", level + 1)
    end
    all[name] = value or nil
  end
  local list = {}
  for name, value in pairs(all) do
    list[#list + 1] = name .. "=" .. value
  end
  table.sort(list)
  return list
end

-- What `wanted` says of the child's descriptor `fd`, as the core takes it.
local function descriptor(fd, wanted, level)
  if math.type(wanted) == "integer" then
    return { fd = fd, kind = "inherit", from = wanted }
  elseif type(wanted) == "table" and type(wanted.bytes) == "string" then
    return { fd = fd, kind = "bytes", data = wanted.bytes }
  elseif wanted == "pipe" or wanted == "socket" or wanted == "null" or wanted == "inherit" then
    return { fd = fd, kind = wanted }
  end
  error('fd ' .. fd .. ': expected "pipe", "socket", "null", "inherit", a descriptor or '
    .. "{ bytes = }", level + 1)
end

local function stdio_list(opts, level)
  local list = {
    descriptor(0, opts.stdin, level + 1),
    descriptor(1, opts.stdout, level + 1),
    descriptor(2, opts.stderr, level + 1),
  }
  for fd, wanted in pairs(opts.fds or {}) do
    if math.type(fd) ~= "integer" or fd < 3 or fd > 63 then
      error("fds: expected numbers from 3 to 63, got " .. tostring(fd), level + 1)
    end
    list[#list + 1] = descriptor(fd, wanted, level + 1)
  end
  return list
end

local spawn_defaults = {
  stdin = "null", stdout = "inherit", stderr = "inherit", fds = check.none,
  env = check.none, clear_env = false, cwd = check.none, uid = check.none,
  gid = check.none, session = true, grace = 5,
}

local function spawn(argv, options, level)
  argv = check_argv(argv, level + 1)
  local opts = check.options(options, spawn_defaults, level + 1)
  check.number(opts.grace, "grace", 0, 3600)
  local started = core.spawn({
    file = argv[1],
    args = argv,
    env = environment(opts.env, opts.clear_env, level + 1),
    cwd = opts.cwd,
    uid = opts.uid,
    gid = opts.gid,
    detached = opts.session,
    stdio = stdio_list(opts, level + 1),
  })
  return setmetatable({
    core = started,
    name = argv[1]:match("[^/]+$") or argv[1],
    group = opts.session,
    grace = opts.grace,
    pid = started.pid,
    stdin = started.stdin,
    stdout = started.stdout,
    stderr = started.stderr,
    fds = started.fds,
  }, Process)
end

---Starts a program. Each descriptor is "pipe", "socket" (a socket pair), "null",
---"inherit", one of our descriptors, or `{ bytes = }` for the child to read.
---@param argv string[]  the program, then its arguments
---@param options? table  `stdin` (default "null"), `stdout`, `stderr` ("inherit"),
---  `fds` (3 to 63), `env` (changes to ours; false leaves one out), `clear_env`,
---  `cwd`, `uid`, `gid`, `session` (of its own; default true), `grace` (seconds
---  between SIGTERM and SIGKILL at close; default 5)
---@return sbx.Process
function process.spawn(argv, options)
  return spawn(argv, options, 2)
end

-- Reads to the end; keeps the first `max` bytes in `into`.
local function collect(stream, max, into)
  local size = 0
  while true do
    local part = stream:read()
    if not part then return end
    if size + #part > max then
      into.truncated = true
      part = part:sub(1, max - size)
    end
    size = size + #part
    if part ~= "" then into[#into + 1] = part end
  end
end

-- Reads both streams until the child has ended. A descendant that holds them
-- open does not: what has arrived shortly after the child's end is the output.
local function drive(child, max, out, err)
  return task.scope(function(scope)
    local readers = {
      scope:daemon(collect, child.stdout, max, out),
      scope:daemon(collect, child.stderr, max, err),
    }
    local code, signal = child:wait()
    task.move_on(LINGER, function()
      for _, reader in ipairs(readers) do
        reader:join()
      end
    end)
    return code, signal
  end)
end

local function raise_exit(name, result)
  local tail = result.stderr:sub(-TAIL)
  local how = result.signal and "killed by signal " .. result.signal
    or "exit code " .. result.code
  local last = tail:match("([^\n]+)%s*$")
  errors.raise({
    kind = "process",
    op = "run",
    code = result.signal and "SIGNAL" or "EXIT",
    exit_code = result.code,
    signal = result.signal,
    stderr = tail,
    message = name .. ": " .. how .. (last and ": " .. last or ""),
  })
end

---@class sbx.process.Result
---@field code integer      exit code; 128 + signal when a signal killed it
---@field signal? integer
---@field stdout string
---@field stderr string
---@field truncated boolean  some output beyond `max_output` was dropped

local run_defaults = {
  input = check.none, timeout = check.none, env = check.none, clear_env = false,
  cwd = check.none, uid = check.none, gid = check.none, check = false,
  max_output = MAX_OUTPUT, grace = 2,
}

---Runs a program to its end. An exit code is an answer, not a failure, unless
---`check` is set. When the time is up, or the task is cancelled, the program and
---all that it started are ended: SIGTERM, then SIGKILL after `grace` seconds.
---@async
---@param argv string[]  the program, then its arguments
---@param options? table  `input` (bytes on its stdin; else empty), `timeout` (s),
---  `check` (raise kind "process" unless the code is 0), `max_output` (bytes kept
---  of each stream, default 16 MiB), `grace` (s, default 2), `env`, `clear_env`,
---  `cwd`, `uid`, `gid`
---@return sbx.process.Result
function process.run(argv, options)
  local opts = check.options(options, run_defaults)
  if opts.input then check.string(opts.input, "input") end
  if opts.timeout then check.number(opts.timeout, "timeout", 0) end
  local max = check.integer(opts.max_output, "max_output", 0)
  local child <close> = spawn(argv, {
    stdin = opts.input and { bytes = opts.input } or "null",
    stdout = "pipe", stderr = "pipe", grace = opts.grace, env = opts.env,
    clear_env = opts.clear_env, cwd = opts.cwd, uid = opts.uid, gid = opts.gid,
  }, 2)

  local out, err = {}, {}
  local ended, code, signal = true
  if opts.timeout then
    ended, code, signal = task.move_on(opts.timeout, drive, child, max, out, err)
  else
    code, signal = drive(child, max, out, err)
  end
  if not ended then
    errors.raise({
      kind = "timeout",
      op = "run",
      code = "ETIMEDOUT",
      stderr = table.concat(err):sub(-TAIL),
      message = string.format("%s: timed out after %g s", child.name, opts.timeout),
    })
  end
  local result = {
    code = code,
    signal = signal,
    stdout = table.concat(out),
    stderr = table.concat(err),
    truncated = (out.truncated or err.truncated) == true,
  }
  if opts.check and code ~= 0 then raise_exit(child.name, result) end
  return result
end

return process
