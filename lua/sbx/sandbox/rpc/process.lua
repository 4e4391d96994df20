-- A live process in a virtual machine: its output, its input, its end.
--
-- One connection carries all that it says. No task of ours reads it ahead: whoever
-- waits for something takes the lead and reads on, and puts what is for others where
-- they find it. So an unread process holds up the server instead of filling memory,
-- and it may be handed from task to task.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local held = require("sbx.sandbox.rpc.held")
local log = require("sbx.log")
local output = require("sbx.sandbox.rpc.output")
local session = require("sbx.sandbox.rpc.session")
local sync = require("sbx.sync")
local task = require("sbx.task")

---@class sbx.sandbox.Process
---@field pid integer|nil   nil while the server has not told it
---@field tag string|nil
---@field sandbox_id string
---@field result sbx.sandbox.ProcessEnd|nil  nil while nobody has seen the end
---@field private client sbx.sandbox.Client
---@field private call sbx.sandbox.RpcCall       what the stream answers
---@field private stream sbx.sandbox.ConnectStream
---@field private outputs table<string, sbx.sandbox.Output>
---@field private main string      the output that is meant when none is named
---@field private input "stdin"|"pty"|nil  where written bytes go
---@field private owned boolean    closing ends it
---@field private held? sbx.sandbox.Held  what the end of the run knows of it
---@field private closed? boolean
---@field private failure any      why there is nothing more to read
---@field private lead sbx.sync.Mutex     held by the one who reads on
---@field private writing sbx.sync.Mutex
---@field private sent table<string, boolean>  signals
local Process = {}
Process.__name = "sbx.sandbox.Process"

---@class sbx.sandbox.ProcessEnd
---@field exit_code integer  -1 where a signal ended it, on most servers
---@field exited boolean     by itself
---@field status string      in the server's words
---@field error string|nil

local process = {}

local GRACE = 5 -- seconds for the process to end after each signal
local INPUT_SECONDS = 30
local CONTROL_SECONDS = 10
local DRAIN_SECONDS = 0.25 -- for the connection to be used again
local KILL_SECONDS = 5
local PIECE = 256 * 1024 -- bytes written at once

local signals = { KILL = 9, TERM = 15 }

-- ------------------------------------------------------------- what it says

local function describe(self)
  return ("process %s of sandbox %s"):format(
    tostring(self.pid or self.tag), failure.clean(self.sandbox_id, nil, 100))
end

local function set_end(self, event)
  held.remove(self.held)
  self.result = {
    exit_code = event.exit_code or 0,
    exited = event.exited or false,
    status = failure.clean(event.status or "", self.call.secrets),
    error = event.error and failure.clean(event.error, self.call.secrets),
  }
end

local function dispatch(self, message)
  local kind, value = session.event(message)
  if kind == "start" then
    if value > 0 then self.pid = value end
  elseif kind == "end" then
    set_end(self, value)
  elseif kind then
    -- A server may say stdout for a terminal, or the other way round.
    local out = self.outputs[kind] or self.outputs[self.main]
    out:put(value)
  end
end

---@async
local function fail(self, cause)
  self.failure = session.broken(self.client, self.call, cause)
  if self.owned and self.failure.kind == "command_timeout" then
    session.kill(self.client, self.sandbox_id, self:selector(), KILL_SECONDS)
  end
end

-- Reads one message. For the holder of the lead.
---@async
local function step(self)
  for _, out in pairs(self.outputs) do
    out:make_room()
  end
  local ok, message = pcall(self.stream.next, self.stream)
  if self.result or self.failure then return end -- closed meanwhile
  if not ok then return fail(self, message) end
  if not message then
    self.failure = session.no_end(self.call)
    return
  end
  dispatch(self, message)
end

-- Waits until `done()`, reading on when nobody else does. Raises why there is
-- nothing more to read.
---@async
local function await(self, done)
  while not done() do
    if self.failure then error(self.failure, 0) end
    local _ <close> = self.lead:lock()
    if not done() and not self.failure then step(self) end
  end
end

---Takes in the first message, which is there already.
function Process:begin()
  step(self)
end

---From now on the end of the run ends it, unless it is closed before.
function Process:hold()
  self.held = held.add({
    client = self.client, sandbox_id = self.sandbox_id, pid = self.pid, tag = self.tag,
  })
end

---Waits for the server's word of the process's beginning.
---@async
function Process:await_start()
  await(self, function() return self.pid ~= nil end)
end

-- ----------------------------------------------------------------- for scripts

local function find_output(self, name, what, level)
  name = name == nil and self.main or name
  local found = self.outputs[name]
  if found then return found end
  error(('%s: this process has %s, not "%s"'):format(
    what, self.main == "pty" and '"pty"' or '"stdout" and "stderr"', tostring(name)), level + 1)
end

local function begin_reading(out, what, level)
  local lock = out.reading:try_lock()
  if not lock then error(("%s: another task reads %s"):format(what, out.name), level + 1) end
  return lock
end

---Up to `n` bytes of an output, as soon as there are any; nil at its end. Raises what
---breaks the connection, after the bytes that came before.
---@async
---@param name? "stdout"|"stderr"|"pty"  (default "stdout"; with a terminal "pty")
---@param n? integer  default: what is at hand
---@return string|nil
function Process:read(name, n)
  local out = find_output(self, name, "read", 2)
  if n ~= nil then n = check.integer(n, "n", 1) end
  local _ <close> = begin_reading(out, "read", 2)
  return out.reader:some(n)
end

---An iterator over the lines that are left of an output. Raises as `read` does, and
---kind `limit` for a line over 16 MiB.
---@param name? "stdout"|"stderr"|"pty"
---@param keep? boolean  with their line feeds
---@return async fun(): string|nil
function Process:lines(name, keep)
  local out = find_output(self, name, "lines", 2)
  return function()
    local _ <close> = begin_reading(out, "lines", 2)
    return out.reader:line(keep)
  end
end

---Waits until the process has ended. Output that is in the way is kept for its
---reader, as far as it goes: see docs/sandbox-processes.md.
---@async
---@return sbx.sandbox.ProcessEnd
function Process:wait()
  await(self, function() return self.result ~= nil end)
  return self.result
end

---@private
---@return { pid?: integer, tag?: string }
function Process:selector()
  if self.pid then return { pid = self.pid } end
  return { tag = self.tag }
end

---@async
local function control(self, op, rpc, message, seconds, once)
  message.session = self:selector()
  return session.call(self.client, {
    rpc = rpc, op = op, sandbox_id = self.sandbox_id, message = message,
    seconds = seconds, process = tostring(self.pid or self.tag), once = once,
  })
end

local function has_ended(err)
  return errors.is_error(err) and err.code == "not_found"
end

local function raise_ended(self)
  errors.raise({
    kind = "io",
    code = "EPIPE",
    op = "write",
    sandbox_id = self.sandbox_id,
    message = "write to " .. describe(self) .. ": it has ended",
  })
end

---Writes to the process's standard input or terminal; returns once the server has
---all of it. Writes of several tasks do not mix. Raises `io`, code EPIPE, once the
---process has ended; an error with `outcome = "unknown"` where a part may or may not
---have arrived.
---@async
---@param bytes string
function Process:write(bytes)
  check.string(bytes, "bytes")
  if not self.input then error("write: the process was opened with stdin = false", 2) end
  local _ <close> = self.writing:lock()
  for at = 1, #bytes, PIECE do
    if self.result then raise_ended(self) end
    local piece = #bytes <= PIECE and bytes or bytes:sub(at, at + PIECE - 1)
    local ok, err = pcall(control, self, "write", "SendInput",
      { input = { [self.input] = piece } }, INPUT_SECONDS)
    if not ok and has_ended(err) then raise_ended(self) end
    if not ok then error(err, 0) end
  end
end

---Sends a signal. False when the process has ended.
---@async
---@param name "TERM"|"KILL"  all that the wire has
---@return boolean sent
function Process:signal(name)
  local number = signals[name]
  if not number then
    error(('signal: expected "TERM" or "KILL", got %s'):format(tostring(name)), 2)
  end
  if self.result then return false end
  local ok, err = pcall(control, self, "signal", "SendSignal", { signal = number },
    CONTROL_SECONDS)
  if not ok and has_ended(err) then return false end
  if not ok then error(err, 0) end
  self.sent[name] = true
  return true
end

---Tells the process's terminal its new size. Raises `unsupported` where the server
---cannot.
---@async
---@param cols integer
---@param rows integer
function Process:resize(cols, rows)
  cols, rows = check.integer(cols, "cols", 1, 65535), check.integer(rows, "rows", 1, 65535)
  if self.input ~= "pty" then error("resize: this process has no terminal", 2) end
  control(self, "resize", "Update", { pty = { size = { cols = cols, rows = rows } } },
    CONTROL_SECONDS)
end

-- ---------------------------------------------------------------- its closing

local function is_gone(self)
  local err = self.failure
  return self.result ~= nil or (errors.is_error(err) and err:is("not_running"))
end

---@async
local function await_end(self)
  pcall(await, self, function() return self.result ~= nil end)
end

-- It was over before we asked: what it ended with may be on the way. A failure that
-- nobody has waited for is told at least here.
---@async
local function tell_end(self, seconds)
  if not self.failure then task.move_on(seconds, await_end, self) end
  local result = self.result
  if not result or (result.exit_code == 0 and not result.error) then return end
  log.warn(("%s had ended before it was closed, and nobody waited for it: exit code %d%s"):format(
    describe(self), result.exit_code, result.status ~= "" and ", " .. result.status or ""))
end

-- Ends the process: asks, then insists. True when it is known to be over.
---@async
local function stop(self, grace)
  -- With a broken connection there is no end to wait for, and no use in asking.
  local at_once = self.failure or self.sent.KILL
  for _, name in ipairs(at_once and { "KILL" } or { "TERM", "KILL" }) do
    if not self.sent[name] then
      local ok, err = pcall(control, self, "close", "SendSignal", { signal = signals[name] },
        grace, true)
      if not ok and has_ended(err) then
        if name == "TERM" then tell_end(self, math.min(grace, 1)) end
        return true
      end
      if not ok and errors.is_error(err) and err:is("not_running") then return true end
      if ok and self.failure then return true end
    end
    if not self.failure then task.move_on(grace, await_end, self) end
    if self.result then return true end
  end
  return false
end

---@async
local function end_process(self)
  for _, out in pairs(self.outputs) do
    out:cut()
  end
  local budget = math.min(core.cleanup_seconds(), 2 * GRACE + 2)
  local ok, over = pcall(task.shield, budget, stop, self, math.min(GRACE, budget / 2))
  if ok and over then return end
  log.warn(describe(self) .. " could not be ended; it may run on")
end

---Ends the process, unless it was attached to or has ended: SIGTERM, and SIGKILL
---after 5 s. Waits at most 5 s more for its end, and lets go of the connection. Twice
---is harmless. Also the end of a `<close>` variable.
---@async
function Process:close()
  if self.closed then return end
  self.closed = true
  held.remove(self.held)
  if self.owned and not is_gone(self) then end_process(self) end
  -- The connection is let go of, also where the caller is cancelled meanwhile.
  local _ <close> = self.stream
  self.failure = self.failure or errors.new({
    kind = "io", code = "EBADF", op = "process", sandbox_id = self.sandbox_id,
    message = describe(self) .. ": it was closed",
  })
  if self.result then self.stream:drain(DRAIN_SECONDS) end
end

---Lets go of the process without ending it. `client:attach_process` finds it again.
---@async
function Process:detach()
  self.owned = false
  self:close()
end

check.methods(Process, "process")
Process.__index = Process
Process.__close = function(self) self:close() end

function Process:__tostring()
  local state = self.result and "ended: " .. self.result.status or self.closed and "closed"
    or "running"
  return ("%s (%s)"):format(describe(self), state)
end

---@param client sbx.sandbox.Client
---@param call sbx.sandbox.RpcCall
---@param stream sbx.sandbox.ConnectStream
---@param options { pid?: integer, tag?: string, pty: boolean, stdin: boolean, owned: boolean,
---  max_buffer: integer }
---@return sbx.sandbox.Process
function process.new(client, call, stream, options)
  local self = setmetatable({
    client = client,
    call = call,
    stream = stream,
    sandbox_id = call.sandbox_id,
    pid = options.pid,
    tag = options.tag,
    main = options.pty and "pty" or "stdout",
    input = options.pty and "pty" or options.stdin and "stdin" or nil,
    owned = options.owned,
    lead = sync.mutex("process"),
    writing = sync.mutex("process input"),
    outputs = {},
    sent = {},
  }, Process)
  for _, name in ipairs(options.pty and { "pty" } or { "stdout", "stderr" }) do
    self.outputs[name] = output.new(name, options.max_buffer,
      function(done) await(self, done) end,
      function() return self.result ~= nil end)
  end
  return self
end

return process
