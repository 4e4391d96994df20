-- The command session of virtual machines (`command_session.CommandSession`): programs
-- that are started, watched, written to and signalled while they run.

local access = require("sbx.server.access")
local connect = require("sbx.server.rpc.connect")
local errors = require("sbx.errors")
local log = require("sbx.log")
local messages = require("sbx.sandbox.rpc.messages")
local note = require("sbx.server.rpc.note")
local program = require("sbx.server.rpc.program")
local registry = require("sbx.server.rpc.registry")
local sandbox = require("sbx.server.sandbox")
local start_failure = require("sbx.server.start_failure")
local task = require("sbx.task")
local validate = require("sbx.server.validate")

local rpc = {}

local END_SECONDS = 1 -- that the news of a sandbox's end may take

local ROOT = { [""] = true, root = true, ["0"] = true, ["root:root"] = true, ["0:0"] = true }
local SIGNALS = { [9] = true, [15] = true }

-- Codes of the agent that speak of this machine's means rather than of the request.
local SCARCE = { EAGAIN = true, ENOMEM = true, EMFILE = true, ENFILE = true }

-- ----------------------------------------------------------------- the sandbox of a call

local function gone(id)
  connect.fail("not_found", "the sandbox is gone", {
    members = { error = "sandbox_not_found", sandboxId = id },
  })
end

-- A sandbox that is still to come: clients ask what has become of it, and again.
local function refuse_not_running(record)
  if record:ended() then gone(record.id) end
  connect.fail("aborted", "the sandbox is not running: its status is " .. record.status)
end

local function authorized(server, request, params)
  local record, problem, words = access.find(server, request, params)
  if record then return record end
  if problem == "token" then connect.fail("unauthenticated", words) end
  gone(words)
end

-- Its agent went away under a call. The sandbox's end may still be on its way.
---@async
local function lost(record)
  task.move_on(END_SECONDS, function()
    while not record:ended() do
      task.sleep(0.01)
    end
  end)
  local ok, failure = pcall(function()
    if record:ended() then gone(record.id) end
    connect.fail("unavailable", "the connection to the sandbox was lost")
  end)
  return not ok and failure
end

-- ------------------------------------------------------------------------------ Start

local function size_of(pty)
  if not pty then return nil end
  local size = pty.size or {}
  local cols, rows = size.cols or 0, size.rows or 0
  -- None given is the usual size; a half of one is a mistake.
  if cols == 0 and rows == 0 then cols, rows = 80, 24 end
  if cols < 1 or rows < 1 or cols > 65535 or rows > 65535 then
    connect.fail("invalid_argument", "pty.size: expected 1 to 65535 cols and rows")
  end
  return { cols = cols, rows = rows }
end

-- The agent's options for the program that a message asks for.
local function wanted_program(record, message)
  local command = message.command or {}
  if not command.cmd or command.cmd == "" then
    connect.fail("invalid_argument", "command.cmd: required")
  end
  local variables, problem = validate.environment(command.envs or {})
  if not variables then connect.fail("invalid_argument", "command.envs: " .. problem) end
  local cwd = command.cwd or ""
  if cwd:sub(1, 1) ~= "/" then
    cwd = cwd == "" and sandbox.MOUNT_PATH or sandbox.MOUNT_PATH .. "/" .. cwd
  end
  if not ROOT[command.user or ""] then
    connect.fail("invalid_argument", "command.user: only root exists in this sandbox")
  end
  local pty = size_of(message.pty)
  return {
    argv = { command.cmd, table.unpack(command.args or {}) },
    cwd = cwd,
    env = record:environment(variables),
    stdin = not pty and message.stdin == true,
    pty = pty,
  }
end

-- The program at `path` did not start. `failure` is the agent's.
local function refuse_start(record, failure, path)
  if not errors.is_error(failure) or failure.kind ~= "io" then error(failure, 0) end
  local code = SCARCE[failure.code] and "resource_exhausted" or "invalid_argument"
  local why = start_failure.explain(record.box.agent, failure, path, record.spec.docker_image)
  connect.fail(code, why or tostring(failure))
end

-- Clients name this shell in every command, and not each image has it.
local BASH, INSTEAD = "/bin/bash", "/bin/sh"

---@async
local function launch(record, options)
  local agent, argv, programs = record.box.agent, options.argv, registry.of(record)
  if argv[1] == BASH and programs.lacks_bash then argv[1] = INSTEAD end
  local ok, session = pcall(agent.start, agent, options)
  if not ok and argv[1] == BASH and errors.is_error(session) and session.code == "ENOENT" then
    argv[1] = INSTEAD
    local worked, other = pcall(agent.start, agent, options)
    if worked then
      ok, session, programs.lacks_bash = true, other, true
      record.logs:add(("this image has no %s: commands run by %s"):format(BASH, INSTEAD))
    elseif not errors.is_error(other) or other.code ~= "ENOENT" then
      session = other -- what stood in the way of the other one is what matters
    end
  end
  if not ok then refuse_start(record, session, argv[1]) end
  return session
end

-- The command as people wrote it: clients wrap it in a shell.
local function shown(argv)
  if #argv == 3 and argv[2] == "-c" then return argv[3] end
  return table.concat(argv, " ")
end

-- What became of a program, in the words of the figures. `item` is its last event.
local function result_of(session, item)
  local failure = item and item.failure
  if failure then return failure.code == "deadline_exceeded" and "timeout" or "error" end
  return session.exit_code == 0 and "success" or "failure"
end

-- Follows a program to its end, in a task of the server: it outlives the connection that
-- it was started by.
local function follow(server, record, one, seconds, argv)
  local programs, session = registry.of(record), one.session
  local ended = server.execs:began(record, shown(argv))
  server.fleet.scope:pspawn(one.follow, one, seconds, {
    lost = function() return lost(record) end,
    out_of_memory = function() return server.fleet:out_of_memory(record) end,
    on_end = function(item)
      ended(result_of(session, item), session.exit_code)
      programs:retire(one)
    end,
  })
end

-- Starts a program. Returns it, and what sets it going once somebody watches.
---@async
local function start(server, record, message, seconds)
  local programs = registry.of(record)
  local _ <close> = programs:take_place()
  programs:check_names(message)
  local options = wanted_program(record, message)
  if record.box.agent.holds then options.note = note.encode(message, seconds) end
  local session = launch(record, options)
  -- Another one may have taken the tag meanwhile.
  local free, taken = pcall(programs.check_names, programs, message)
  if not free then
    session:close()
    error(taken, 0)
  end

  local one = program.new(session, {
    tag = message.tag, uuid = message.session_uuid, command = message.command,
    terminal = options.pty ~= nil, stdin = options.stdin,
  })
  programs:add(one)
  return one, function()
    follow(server, record, one, seconds, options.argv)
  end
end

---Goes on with a program that an earlier server has started: it is found and listed again.
---@param server sbx.server.Server
---@param record sbx.server.Sandbox
---@param session sbx.server.Session
---@param noted table  as `note.decode` gives it
function rpc.resume(server, record, session, noted)
  local programs, tag = registry.of(record), noted.tag
  if not pcall(programs.check_names, programs, { tag = tag }) then tag = nil end
  local one = program.new(session, {
    tag = tag, uuid = noted.uuid, command = noted.command, terminal = session.terminal,
    stdin = session.input and not session.terminal,
  })
  programs:add(one)
  follow(server, record, one, noted.seconds, { noted.command.cmd, table.unpack(
    noted.command.args) })
end

-- The same for a start that may be sent again: the second one finds what the first made.
---@async
local function start_once(server, record, message, seconds)
  local uuid = message.session_uuid
  if not uuid then return start(server, record, message, seconds) end
  local programs = registry.of(record)
  programs:check_names { session_uuid = uuid }
  return programs:alone(uuid, function()
    local before = programs:by_uuid(uuid)
    if before then return before end
    local one, go = start(server, record, message, seconds)
    go() -- at once: somebody else may be the first to watch it
    return one
  end)
end

-- ---------------------------------------------------------------------------- streams

-- Sends what a watcher hears until the program's end. Raises `rpc`.
---@async
local function send_events(call, watcher, keepalive)
  while true do
    local which, open, item = task.select { watcher, keepalive }
    if which == 2 then
      call:send { event = { keepalive = {} } }
    elseif not open then
      connect.fail("unavailable", "the process is not followed any more")
    elseif item.failure then
      error(item.failure, 0)
    else
      call:send { event = item.event }
      if item.event["end"] then return call:finish() end
    end
  end
end

---@async
local function stream(server, call, one, go)
  if one.item then
    call:send { event = { start = { pid = one.pid } } }
    if one.item.failure then error(one.item.failure, 0) end
    call:send { event = one.item.event }
    return call:finish()
  end
  local watcher = one:watch()
  local _ <close> = setmetatable({}, { __close = function() one:unwatch(watcher) end })
  if go then go() end
  call:send { event = { start = { pid = one.pid } } }
  send_events(call, watcher, server.keepalive)
end

-- ------------------------------------------------------------------------- the methods

-- name → kind, schema of the request, schema of the answer, what it does.
local methods = {}

methods.Start = { "server", messages.StartRequest, messages.StartResponse,
  function(server, record, call)
    local message = call:message()
    if not access.is_running(record) then refuse_not_running(record) end
    -- The program's time is enforced where it runs, whoever watches.
    local one, go = start_once(server, record, message, call.seconds)
    stream(server, call, one, go)
  end }

methods.Connect = { "server", messages.ConnectRequest, messages.ConnectResponse,
  function(server, record, call)
    local one = registry.of(record):find(call:message().session, true)
    if not call.seconds then return stream(server, call, one) end
    if not task.move_on(call.seconds, stream, server, call, one) then
      connect.fail("deadline_exceeded", "the time of this connection is up; the process runs on")
    end
  end }

methods.List = { "unary", messages.Empty, messages.ListResponse, function(_, record, call)
  call:message()
  local sessions = {}
  for index, one in ipairs(registry.of(record).running) do
    sessions[index] = {
      command = one.command, pid = one.pid, tag = one.tag, session_uuid = one.uuid,
    }
  end
  call:send { sessions = sessions }
end }

-- Input waits for a slow reader, as long as the client does.
---@async
local function in_time(call, fn, ...)
  if not call.seconds then return fn(...) end
  if not task.move_on(call.seconds, fn, ...) then
    connect.fail("deadline_exceeded", "the process did not take it in time; a part of it may be in")
  end
end

methods.SendInput = { "unary", messages.SendInputRequest, messages.Empty,
  function(server, record, call)
    local message = call:message()
    local one = registry.of(record):find(message.session)
    in_time(call, one.once, one, message.input_uuid, server.fleet.scope, function()
      one:write(message.input or {})
    end)
    call:send {}
  end }

---@async
local function take_input(record, call)
  local first = call:next()
  if not first or not first.start then
    connect.fail("invalid_argument", "the first message must be a start with a session")
  end
  local one = registry.of(record):find(first.start.session)
  for message in call.next, call do
    if message.start then connect.fail("invalid_argument", "there are two starts") end
    if message.data then one:write(message.data.input or {}) end
  end
end

methods.StreamInput = { "client", messages.StreamInputRequest, messages.Empty,
  function(_, record, call)
    in_time(call, take_input, record, call)
    call:send {}
    call:finish()
  end }

methods.SendSignal = { "unary", messages.SendSignalRequest, messages.Empty,
  function(server, record, call)
    local message = call:message()
    if not SIGNALS[message.signal] then
      connect.fail("invalid_argument", "signal: expected SIGKILL (9) or SIGTERM (15)")
    end
    local one = registry.of(record):find(message.session)
    one:once(message.signal_uuid, server.fleet.scope, function() one:signal(message.signal) end)
    call:send {}
  end }

methods.Update = { "unary", messages.UpdateRequest, messages.Empty, function(_, record, call)
  local message = call:message()
  local one = registry.of(record):find(message.session)
  local size = size_of(message.pty)
  if size then one:resize(size.cols, size.rows) end
  call:send {}
end }

-- -------------------------------------------------------------------------- the calls

---@async
local function perform(server, request, params, seen)
  local method = methods[params.method]
  if not method then
    connect.fail("unimplemented", "CommandSession has no method " .. params.method:sub(1, 80))
  end
  local record = authorized(server, request, params)
  if not record.spec.vm then
    connect.fail("failed_precondition", "this sandbox is a container, which has no command"
      .. " session: use exec, or make it with vm = true")
  end
  if not access.is_running(record) then refuse_not_running(record) end
  seen.record = record
  seen.call = connect.call(request, method[1], method[2], method[3])
  access.using(record, method[4], server, record, seen.call)
end

-- Any failure of a call as one of the protocol; nil when nobody is there to be told.
---@async
local function as_rpc(failure, request, seen)
  if errors.is_error(failure) then
    if failure.kind == "rpc" then return failure end
    if failure.kind == "cancelled" then error(failure, 0) end
    if failure.kind == "not_running" and seen.record then return lost(seen.record) end
  end
  if request.gone then return nil end
  log.error("request failed", { path = request.path, error = failure })
  return errors.new {
    kind = "rpc", code = "internal", message = "internal error", status = 500,
  }
end

---Answers one call of the command session.
---@async
---@param server sbx.server.Server
---@param request sbx.core.Request
---@param params {ns: string, job: string, method: string}
function rpc.handle(server, request, params)
  local seen = {}
  local ok, failure = pcall(perform, server, request, params, seen)
  if ok then return end
  local told = as_rpc(failure, request, seen)
  if not told then return end
  -- The peer may leave before it has heard.
  local sent, problem = pcall(connect.refuse, request, seen.call, told)
  if not sent and errors.is_error(problem) and problem.kind == "cancelled" then
    error(problem, 0)
  end
end

return rpc
