-- Running commands: what may be asked for, and which of two ways it goes. A short
-- one is a single request; a long one, and one whose output is wanted as it comes,
-- byte for byte, runs on its own in the sandbox (spool.lua).

local check = require("sbx.check")
local errors = require("sbx.errors")
local exec = require("sbx.sandbox.exec")
local failure = require("sbx.sandbox.failure")
local live = require("sbx.sandbox.live")
local observe = require("sbx.observe")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local shell = require("sbx.sandbox.shell")
local spool_run = require("sbx.sandbox.spool_run")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

local commands = {}

---@class sbx.sandbox.Client
local methods = {}

local TIMEOUT = 300
local LONG = 60 -- seconds after which something on the way may cut a silent request
local MAX_OUTPUT = 64 * 1024 * 1024
local SMALL_INPUT = 8 * 1024 -- bytes that travel in the command
local MAX_INPUT_SECONDS = 300
local TAIL = 2000 -- bytes of stderr in an error
local PROBE = { op = "probe", command = "echo ready", timeout = 10, once = true }

---@class sbx.sandbox.ExecOptions
---@field working_dir? string
---@field env? table<string, string>
---@field timeout? number   seconds the command may run, rounded up (default 300)
---@field deadline? number  seconds after which all that it started is killed
---@field user? string      a name or number, perhaps with `:group`
---@field stdin? string|{ path: string }|sbx.Reader|(async fun(): string|nil)  (default: none)
---@field on_stdout? async fun(bytes: string)  gets the output as it comes, instead of the result
---@field on_stderr? async fun(bytes: string)
---@field on_start? fun(command: sbx.sandbox.Running)  when it is about to be started
---@field binary? boolean   output that is no UTF-8 stays as it is
---@field spool? boolean    (default: as the other options want it)
---@field check? boolean    an exit code other than 0 raises `command_failed`
---@field max_output? integer  bytes of each output that the result keeps (default 64 MiB)

---A command that runs.
---@class sbx.sandbox.Running
---@field signal async fun(self, name: string|integer): boolean  false where nothing got it

---@class sbx.sandbox.Result
---@field stdout string
---@field stderr string
---@field exit_code integer
---@field outcome "exited"
---@field duration number  seconds, seen from here
---@field stdout_truncated boolean  only a part was kept
---@field stderr_truncated boolean

-- -------------------------------------------------------------------- checking

local function check_input(input)
  local kind = type(input)
  if input == nil or kind == "string" or kind == "function" then return end
  if kind == "table" and input.path ~= nil and input.read == nil then
    check.string(check.options(input, { path = check.none }, -1).path, "stdin.path")
  elseif kind ~= "table" and kind ~= "userdata" then
    error("stdin: expected a string, { path = … }, a function or a reader, got a " .. kind, 0)
  end
end

local function check_flags(options)
  for _, name in ipairs({ "binary", "check" }) do
    check.boolean(options[name], name)
  end
  for _, name in ipairs({ "on_stdout", "on_stderr", "on_start" }) do
    local fn = options[name]
    if fn ~= nil and type(fn) ~= "function" then
      error(("%s: expected a function, got a %s"):format(name, type(fn)), 0)
    end
  end
  if options.spool ~= nil then check.boolean(options.spool, "spool") end
end

-- Why one plain request will not do, or nil.
local function reason_of(options)
  local input = options.stdin
  if options.deadline ~= nil then return "deadline" end
  if input ~= nil and not (type(input) == "string" and #input <= SMALL_INPUT) then
    return "stdin"
  end
  if options.on_stdout or options.on_stderr or options.on_start then
    return input and "stdin" or "output"
  end
  return options.binary and "binary" or nil
end

local function checked_options(command, given)
  local options = check.options(given, {
    working_dir = check.none, env = check.none, timeout = check.none, user = check.none,
    deadline = check.none, stdin = check.none, on_stdout = check.none, on_stderr = check.none,
    on_start = check.none,
    binary = false, spool = check.none, check = false, max_output = MAX_OUTPUT,
  }, -1)
  options.command = shell.command(command)
  for _, name in ipairs({ "working_dir", "user" }) do
    local text = options[name]
    if text ~= nil and check.string(text, name):find("\0", 1, true) then
      error(name .. ": has a NUL byte", 0)
    end
  end
  options.env = request.string_map(options.env, "env")
  if options.deadline ~= nil then check.number(options.deadline, "deadline", 0.001, 1e9) end
  options.long = options.timeout ~= nil
    and check.number(options.timeout, "timeout", 0.001, 1e9) > LONG
  options.limit = math.min(options.timeout or (options.deadline and 1e9) or TIMEOUT,
    options.deadline or 1e9)
  -- The wire has whole seconds.
  options.timeout = math.ceil(options.timeout or TIMEOUT)
  options.max_output = check.integer(options.max_output, "max_output", 0)
  check_input(options.stdin)
  check_flags(options)
  options.reason = reason_of(options)
  if options.spool == false and options.reason then
    error(("spool: false does not go with %s"):format(options.reason), 0)
  end
  return options
end

-- --------------------------------------------------------------------- running

-- Puts the standard input into a file of the sandbox.
local function input_writer(client, id, options)
  local input = options.stdin
  if input == nil then return nil end
  local upload = { timeout = MAX_INPUT_SECONDS, split = true }
  if type(input) == "string" then
    return function(path) client:upload_bytes(id, path, input, upload) end
  elseif type(input) == "table" and input.path ~= nil and input.read == nil then
    return function(path) client:upload_file(id, path, input.path, upload) end
  end
  options.input_once = true
  return function(path) client:upload_stream(id, path, input, upload) end
end

---@async
local function run_spooled(client, id, options)
  options.put_input = input_writer(client, id, options)
  return spool_run.command(client, id, options)
end

local function cut(text, most)
  if #text <= most then return text, false end
  return text:sub(1, most), true
end

---@async
local function run_plain(client, id, options)
  local text = options.command
  if options.stdin then text = shell.with_input(text, options.stdin) end
  local prefix, env, folder = shell.split(options.env, options.working_dir)
  text = prefix .. shell.portable(text)
  if not shell.fits(text) then
    if options.spool == nil then return run_spooled(client, id, options) end
    shell.raise_too_long("execute_command", id, "the command (without spool = false there is no "
      .. "limit)", #text)
  end
  local answer = exec.run(client, id, {
    command = text, env = env, working_dir = folder, user = options.user, timeout = options.timeout,
  })
  for _, name in ipairs({ "stdout", "stderr" }) do
    local text_kept, shortened = cut(answer[name], options.max_output)
    answer[name] = text_kept
    answer[name .. "_truncated"] = answer[name .. "_truncated"] or shortened
  end
  return answer
end

local function raise_failed(id, result)
  local tail = failure.clean(result.stderr:sub(-TAIL), nil, TAIL)
  errors.raise({
    kind = "command_failed",
    op = "execute_command",
    sandbox_id = id,
    exit_code = result.exit_code,
    outcome = "exited",
    result = result,
    stderr = result.stderr:sub(-TAIL),
    message = ("execute_command %s: the command ended with status %d%s"):format(
      failure.clean(id, nil, 100), result.exit_code, tail ~= "" and ": " .. tail or ""),
  })
end

-- Where the connection itself carries output, exact and as it comes, as that of a
-- virtual machine does, a spool is for what has to be killed or fed.
---@async
local function way_of(client, id, options)
  local reason = options.reason or (options.long and "timeout")
  if options.spool or reason == "deadline" or reason == "stdin" then return run_spooled end
  if options.spool == false or not reason then return run_plain end
  if not profile.is_vm(client, id, "execute_command") then return run_spooled end
  if reason ~= "output" then return run_plain end
  return shell.fits(options.command) and live.run or run_spooled
end

---Runs a command in a sandbox and returns what it wrote and its exit code; a code
---other than 0 is an answer, not an error, unless `check` is set. A string is for the
---shell, a list is a program and its arguments, as they are. Raises `command_timeout`
---when it takes longer than `timeout` or `deadline`, `command_failed` with `check`,
---`not_running` (or `oom`, `sandbox_timeout`, `image_pull`) when the sandbox cannot run
---it, `unsupported` for `user` in a virtual machine, `api` for the rest. An error has
---`outcome`: `not_started` is certain, `unknown` where the command may have run (once).
---@async
---@param target string|sbx.sandbox.Box
---@param command string|string[]  for `sh -c`, in a virtual machine `bash -c`; or words
---@param options? sbx.sandbox.ExecOptions
---@return sbx.sandbox.Result
function methods:execute_command(target, command, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_options, command, options)
  shell.check_sizes("execute_command", id, command, opts.env)
  if opts.user then
    -- Before anything is sent.
    if profile.is_vm(self, id, "execute_command") then
      profile.require(self, id, "user", "execute_command")
    end
  end
  local began = task.now()
  local result = way_of(self, id, opts)(self, id, opts)
  self.reached[id] = true
  if observe.phase then observe.phase(id, "exec") end
  result.outcome = "exited"
  result.duration = task.now() - began
  if opts.check and result.exit_code ~= 0 then raise_failed(id, result) end
  return result
end

---Raises unless a command gets through to the sandbox. One try; what the command
---answers does not matter.
---@async
---@param client sbx.sandbox.Client
---@param id string
function commands.probe(client, id)
  exec.run(client, id, PROBE)
end

commands.methods = methods

return commands
