-- Live processes in virtual machines: starting one, finding one again, listing them.

local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local hash = require("sbx.hash")
local log = require("sbx.log")
local process = require("sbx.sandbox.rpc.process")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local session = require("sbx.sandbox.rpc.session")
local shell = require("sbx.sandbox.shell")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local START_SECONDS = 60 -- until the server says that it runs
local LIFETIME = 86400 -- seconds that a process may run
local MAX_BUFFER = 16 * 1024 * 1024
local LIST_SECONDS = 10
local KILL_SECONDS = 5
local KILL_TRIES = 4

---@class sbx.sandbox.ProcessOptions
---@field env? table<string, string>
---@field cwd? string
---@field pty? { cols?: integer, rows?: integer }  a terminal (default size 80, 24)
---@field tag? string       a name to find it again by (default: a random one)
---@field stdin? boolean    false: it reads the end at once (default true)
---@field deadline? number  seconds that it may run (default 86400)
---@field max_buffer? integer  bytes kept of each output until it is read (default 16 MiB)

---@class sbx.sandbox.AttachOptions
---@field pty? boolean      it has a terminal (default false)
---@field deadline? number  seconds that the connection may last (default 86400)
---@field max_buffer? integer

-- -------------------------------------------------------------------- checking

local function no_nul(text, name)
  if text:find("\0", 1, true) then error(name .. ": has a NUL byte", 0) end
  return text
end

local function command_of(what)
  if type(what) == "string" then return "/bin/bash", { "-c", no_nul(what, "command") } end
  if type(what) ~= "table" or #what == 0 then
    error("command: expected a string or a list of words", 0)
  end
  local words = {}
  for i, word in ipairs(what) do
    local name = ("command[%d]"):format(i)
    words[i] = no_nul(check.string(word, name), name)
  end
  if words[1] == "" then error("command[1]: is empty", 0) end
  return words[1], table.move(words, 2, #words, 1, {})
end

local function checked_pty(given)
  if given == nil then return nil end
  local size = check.options(given, { cols = 80, rows = 24 }, -1)
  return { size = {
    cols = check.integer(size.cols, "pty.cols", 1, 65535),
    rows = check.integer(size.rows, "pty.rows", 1, 65535),
  } }
end

local function check_common(options)
  check.number(options.deadline, "deadline", 0.001, 1e9)
  options.max_buffer = check.integer(options.max_buffer, "max_buffer", 1)
end

local function checked_tag(tag)
  check.string(tag, "tag")
  if tag == "" or #tag > 256 then error("tag: expected 1 to 256 bytes", 0) end
  return no_nul(tag, "tag")
end

local function checked_start(what, given)
  local options = check.options(given, {
    env = check.none, cwd = check.none, pty = check.none, tag = check.none, stdin = true,
    deadline = LIFETIME, max_buffer = MAX_BUFFER,
  }, -1)
  options.cmd, options.args = command_of(what)
  options.hidden = request.string_map(options.env, "env")
  options.env = request.string_map(options.env, "env") or {}
  if options.cwd ~= nil then no_nul(check.string(options.cwd, "cwd"), "cwd") end
  options.pty = checked_pty(options.pty)
  if options.pty and not options.env.TERM then options.env.TERM = "xterm-256color" end
  options.tag = checked_tag(options.tag or "sbxlua-" .. hash.random_hex(8))
  check.boolean(options.stdin, "stdin")
  check_common(options)
  return options
end

local function checked_attach(which, given)
  local options = check.options(given, {
    pty = false, deadline = LIFETIME, max_buffer = MAX_BUFFER,
  }, -1)
  if type(which) == "number" then
    options.pid = check.integer(which, "process", 1, 0xffffffff)
  else
    options.tag = checked_tag(which)
  end
  check.boolean(options.pty, "pty")
  check_common(options)
  return options
end

-- -------------------------------------------------------------------- starting

-- A process that nobody holds, because its start was cut short, must not run on. Its
-- start may still be under way.
---@async
local function kill_lost(client, call)
  local selector = { tag = call.message.tag }
  for attempt = 1, KILL_TRIES do
    local ok, err = session.kill(client, call.sandbox_id, selector, KILL_SECONDS)
    if ok or not errors.is_error(err) or err:is("not_running") then return end
    if err.code ~= "not_found" then
      log.warn(("open_process %s: process %s could not be ended, and may run on: %s"):format(
        failure.clean(call.sandbox_id, nil, 100), failure.clean(selector.tag, nil, 100),
        tostring(err)))
      return
    end
    if attempt < KILL_TRIES then task.sleep(0.1 * 2 ^ attempt) end
  end
end

local function may_run(err)
  if not errors.is_error(err) then return false end
  return err.outcome == "unknown" or err.kind == "cancelled"
end

-- Makes the call and waits for the beginning: of a start its pid, of an attachment
-- any word.
---@async
local function connect(client, call, options)
  call.begin_seconds = START_SECONDS
  local stream = session.call(client, call)
  local made = process.new(client, call, stream, options)
  if call.rpc == "Connect" then
    made:begin()
    return made
  end
  local ok, started = pcall(task.move_on, START_SECONDS, made.await_start, made)
  if ok and started then return made end
  made:close()
  error(ok and session.not_begun(call) or started, 0)
end

---Starts a process in a virtual machine and returns it once it runs. It belongs to
---whoever holds it: closing it ends it, and so should every script. Raises
---`unsupported` for a container, and what `execute_command` raises.
---@async
---@param target string|sbx.sandbox.Box
---@param command string|string[]  for `/bin/bash -c`, or a program and its arguments
---@param options? sbx.sandbox.ProcessOptions
---@return sbx.sandbox.Process
function methods:open_process(target, command, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_start, command, options)
  local words = type(command) == "table" and command or { command }
  shell.check_sizes("open_process", id, words, opts.env)
  profile.require(self, id, "process", "open_process")
  local call = {
    rpc = "Start",
    op = "open_process",
    sandbox_id = id,
    message = {
      command = { cmd = opts.cmd, args = opts.args, envs = opts.env, cwd = opts.cwd },
      pty = opts.pty,
      tag = opts.tag,
      stdin = not opts.pty and opts.stdin or nil,
    },
    seconds = opts.deadline,
    hidden = opts.hidden,
    group = "sandbox processes",
  }
  local ok, made = pcall(connect, self, call, {
    tag = opts.tag, pty = opts.pty ~= nil, stdin = opts.stdin, owned = true,
    max_buffer = opts.max_buffer,
  })
  if ok then
    made:hold()
    return made
  end
  if may_run(made) then pcall(task.shield, KILL_SECONDS, kill_lost, self, call) end
  error(made, 0)
end

---Finds a process that runs in a virtual machine again, by its tag or its pid. What it
---writes from now on can be read. Closing it leaves the process alone. Raises `api`,
---code `not_found`, when there is none; `unsupported` for a container, and where the
---server cannot.
---@async
---@param target string|sbx.sandbox.Box
---@param which string|integer  tag or pid
---@param options? sbx.sandbox.AttachOptions
---@return sbx.sandbox.Process
function methods:attach_process(target, which, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_attach, which, options)
  profile.require(self, id, "process", "attach_process")
  return connect(self, {
    rpc = "Connect",
    op = "attach_process",
    sandbox_id = id,
    message = { session = { pid = opts.pid, tag = opts.tag } },
    seconds = opts.deadline,
    group = "sandbox processes",
    process = tostring(which),
  }, {
    pid = opts.pid, tag = opts.tag, pty = opts.pty, stdin = true, owned = false,
    max_buffer = opts.max_buffer,
  })
end

---@class sbx.sandbox.ProcessInfo
---@field pid integer
---@field tag string|nil
---@field argv string[]
---@field cwd string|nil
---@field env table<string, string>

---The processes that were started in a virtual machine and still run.
---@async
---@param target string|sbx.sandbox.Box
---@return sbx.sandbox.ProcessInfo[]
function methods:list_processes(target)
  local id = wire.id_of(target)
  profile.require(self, id, "process", "list_processes")
  local answer = session.call(self, {
    rpc = "List", op = "list_processes", sandbox_id = id, message = {},
    seconds = LIST_SECONDS, repeatable = true,
  })
  local list = {}
  for i, found in ipairs(answer.sessions or {}) do
    local command = found.command or {}
    list[i] = {
      pid = found.pid or 0,
      tag = found.tag,
      argv = table.move(command.args or {}, 1, #(command.args or {}), 2, { command.cmd or "" }),
      cwd = command.cwd,
      env = command.envs or {},
    }
  end
  return list
end

return { methods = methods }
