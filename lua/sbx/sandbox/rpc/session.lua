-- Calls of the command session of a virtual machine: the token that they need, the
-- tries that are safe, and what their failures mean.
--
-- Before the first event of a process its start may be repeated when it provably did
-- not happen; after it nothing is.

local connect = require("sbx.sandbox.rpc.connect")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local gateway = require("sbx.sandbox.gateway")
local messages = require("sbx.sandbox.rpc.messages")
local observe = require("sbx.observe")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local wire = require("sbx.sandbox.wire")

local session = {}

local SERVICE = "command_session.CommandSession"
local MARGIN = 5 -- seconds that the server's own deadline_exceeded has to arrive
local MAX_STREAMS = 1000 -- at once; each process holds a connection
local MAX_CALLS = 256 -- at once, of those with one answer

-- After these the request may have had its effect all the same.
local unsure = {
  BAD_ANSWER = true, canceled = true, unknown = true, deadline_exceeded = true,
  aborted = true, internal = true, unavailable = true, data_loss = true,
}

local may_pass = { aborted = true, deadline_exceeded = true, unavailable = true }

-- The others have one answer.
local streams = { Start = true, Connect = true }

local schemas = {
  Start = { messages.StartRequest, messages.StartResponse },
  Connect = { messages.ConnectRequest, messages.ConnectResponse },
  SendInput = { messages.SendInputRequest, messages.Empty },
  SendSignal = { messages.SendSignalRequest, messages.Empty },
  Update = { messages.UpdateRequest, messages.Empty },
  List = { messages.Empty, messages.ListResponse },
}

---@class sbx.sandbox.RpcCall
---@field rpc "Start"|"Connect"|"SendInput"|"SendSignal"|"Update"|"List"
---@field op string
---@field sandbox_id string
---@field message table
---@field seconds number        that the server is given
---@field group? string         of the connections of streams
---@field hidden? table<string, string>  whose values must not appear in an error
---@field repeatable? boolean   doing it twice does no harm
---@field once? boolean         no try but for a new token, no questions about failures
---@field begin_seconds? number  for its first event to come (default: all its time)
---@field process? string       the process that it is about, for messages

-- ------------------------------------------------------------------- failures

-- The process that the call is about is not there, or its sandbox is not.
---@async
local function no_process(client, call, err)
  local context = call.once and {} or gateway.context_of(client, call.sandbox_id, call.op)
  if gateway.dead[context.status] then return gateway.not_running(call, context, err) end
  err.message = ("%s %s: there is no process %s"):format(
    call.op, failure.clean(call.sandbox_id, nil, 100), call.process)
  return err
end

local function unsupported(call, err)
  err.kind = "unsupported"
  err.message = ("%s %s: the server does not have this (%s)"):format(
    call.op, failure.clean(call.sandbox_id, nil, 100), call.rpc)
  return err
end

-- The server answered that it did not do it. Returns the error, and the seconds
-- after which another try may be made, or nil.
---@async
local function after_refusal(client, call, state, err)
  local code, starts = err.code, call.rpc == "Start"
  if unsure[code] and err.status ~= 429 and not call.repeatable then err.outcome = "unknown" end
  if state.begun then err.outcome = "unknown" end
  if code == "unauthenticated" and not state.begun and not state.renewed then
    state.renewed = true
    client.tokens:reject(call.sandbox_id, state.token)
    return err, 0
  end
  if err.gateway_code == "sandbox_not_found" or (starts and code == "not_found") then
    return gateway.gone(client, call, err)
  end
  if code == "not_found" and call.process then return no_process(client, call, err) end
  if code == "unimplemented" and not starts then return unsupported(call, err) end
  local pause = nil
  if err.status == 409 then
    err.outcome = nil -- a sandbox that does not run did not run it
    pause, err = gateway.after_conflict(client, call, state, err)
  elseif streams[call.rpc] and (code == "deadline_exceeded" or err.status == 408) then
    pause, err = gateway.after_command_timeout(client, call, state, err)
  elseif call.repeatable and may_pass[code] and not call.once then
    pause = gateway.next_pause(state, "outer")
  end
  return err, pause
end

-- No answer, or only a part of one.
---@async
local function after_loss(client, call, state, cause)
  local unsent = not state.begun and failure.not_sent(cause)
  local err = failure.from_transport(call, cause)
  if state.begun or not (unsent or call.repeatable) then err.outcome = "unknown" end
  if state.begun or not cause.retryable and not unsent then err.retryable = false end
  if cause.kind == "timeout" and not unsent and streams[call.rpc] then
    local _, final = gateway.after_command_timeout(client, call, state, err)
    return final
  end
  local again = cause.retryable and (unsent or call.repeatable) and not call.once
  return err, again and gateway.next_pause(state, "inner") or nil
end

---@async
local function judge(client, call, state, cause)
  if errors.is_error(cause) and cause.kind == "api_timeout" then return cause end -- not_begun
  if not errors.is_error(cause) or cause.kind == "cancelled" or cause.kind == "usage" then
    error(cause, 0)
  end
  if cause.kind == "api" then return after_refusal(client, call, state, cause) end
  return after_loss(client, call, state, cause)
end

---What it means that the stream of a process broke after its first event.
---@async
---@param client sbx.sandbox.Client
---@param call sbx.sandbox.RpcCall
---@param cause any  what Stream:next raised; raised again if it is no failure of this
---@return sbx.Error
function session.broken(client, call, cause)
  local err = judge(client, call, { begun = true, inner = 0, outer = 0 }, cause)
  return err
end

---Raises where a process "ended" with code 0 and a reason why it could not be run: that
---is no success.
---@param call sbx.sandbox.RpcCall
---@param ended table  an EndEvent, or what Process:wait returns
function session.check_end(call, ended)
  local reason = ended.error
  if not reason or reason == "" or ended.exited or (ended.exit_code or 0) ~= 0 then return end
  local detail = failure.clean(reason, call.secrets)
  errors.raise({
    kind = "api",
    op = call.op,
    sandbox_id = call.sandbox_id,
    outcome = "unknown",
    detail = detail,
    message = ("%s %s: the process did not exit: %s"):format(
      call.op, failure.clean(call.sandbox_id, nil, 100), detail),
  })
end

---The error for a stream whose process ended, or never began, without a word.
---@param call sbx.sandbox.RpcCall
---@return sbx.Error
function session.no_end(call)
  return errors.new({
    kind = "api",
    code = "BAD_ANSWER",
    op = call.op,
    sandbox_id = call.sandbox_id,
    outcome = "unknown",
    message = ("%s %s: the stream ended, but did not say how the process did"):format(
      call.op, failure.clean(call.sandbox_id, nil, 100)),
  })
end

-- ---------------------------------------------------------------------- calls

local function prepare(client, call, token)
  local streamed = streams[call.rpc]
  call.url = ("%s/%s/%s"):format(token.base, SERVICE, call.rpc)
  call.gateway = true
  call.token = token.token
  call.secrets = { token.token }
  for _, value in pairs(call.hidden or {}) do
    call.secrets[#call.secrets + 1] = value
  end
  call.request, call.response = schemas[call.rpc][1], schemas[call.rpc][2]
  call.timeout = call.seconds + MARGIN
  call.connect_timeout = math.min(wire.connect_timeout, call.seconds)
  call.user_agent = client.user_agent
  -- For the rules of the gateway: a start fails as a command does.
  call.operation = "exec"
  call.limit = call.seconds
  call.timeout_kind = streamed and "command_timeout" or "api_timeout"
  call.transport = {
    proxy = client.config.proxy,
    group = streamed and (call.group or "sandbox gateway") or "sandbox process control",
    limit = streamed and MAX_STREAMS or MAX_CALLS,
  }
end

-- Opens the stream and waits for its first message, which is put back.
---@async
local function begin(call)
  local stream = connect.open(call)
  local ok, first = pcall(stream.next, stream)
  if ok and first then
    stream:unread(first)
    return stream
  end
  stream:close()
  error(ok and session.no_end(call) or first, 0)
end

---The error for a process of which nothing is heard in `begin_seconds`.
---@param call sbx.sandbox.RpcCall
---@return sbx.Error
function session.not_begun(call)
  return errors.new({
    kind = "api_timeout",
    op = call.op,
    sandbox_id = call.sandbox_id,
    outcome = "unknown",
    timeout = call.begin_seconds,
    message = ("%s %s: the process did not begin within %g s"):format(
      call.op, failure.clean(call.sandbox_id, nil, 100), call.begin_seconds),
  })
end

---@async
local function open(call)
  if not call.begin_seconds then return begin(call) end
  local in_time, stream = task.move_on(call.begin_seconds, begin, call)
  if in_time then return stream end
  error(session.not_begun(call), 0)
end

-- The server was too busy for it, and says when it may be less so.
local function is_throttled(err)
  return err.status == 429
    or (err.code == "resource_exhausted" and err.retry_after ~= nil and not err.outcome)
end

---Makes a call: returns the answer, or for Start and Connect the stream, from its
---first event on. Raises the kinds of the gateway's table; `outcome = "unknown"` says
---that it may have had its effect.
---@async
---@param client sbx.sandbox.Client
---@param call sbx.sandbox.RpcCall  taken over
---@return table|sbx.sandbox.ConnectStream
function session.call(client, call)
  local perform = streams[call.rpc] and open or connect.unary
  local state = { inner = 0, outer = 0, renewed = false }
  local patience = throttle.new(call.once and 0 or client.throttle_timeout)
  local attempts = 0
  while true do
    attempts = attempts + 1
    state.token = client.tokens:get(call.sandbox_id, call.op)
    prepare(client, call, state.token)
    local ok, result = pcall(perform, call)
    if ok then return result end
    local err, pause = judge(client, call, state, result)
    err.attempts = attempts
    local asked = err.retry_after or 0
    if is_throttled(err) then
      patience:pause(err)
    elseif pause and asked <= patience:left() then
      patience:reset()
      if observe.retry then observe.retry(call.op, err, math.max(pause, asked)) end
      task.sleep(math.max(pause, asked))
    else
      error(err, 0)
    end
  end
end

---Sends a signal to a process, once; a failure is of no interest. For what must not
---run on.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param selector { pid?: integer, tag?: string }
---@param seconds number  that this may take
---@return boolean delivered, sbx.Error|nil
function session.kill(client, id, selector, seconds)
  local ok, err = pcall(task.shield, seconds, session.call, client, {
    rpc = "SendSignal",
    op = "signal",
    sandbox_id = id,
    message = { session = selector, signal = 9 },
    seconds = seconds,
    process = tostring(selector.pid or selector.tag),
    once = true,
  })
  return ok, err
end

---What a message of a process's stream says: "start" and the pid; "stdout", "stderr"
---or "pty" and bytes; "end" and how it ended; nil for what is no news.
---@param message table  a StartResponse
---@return "start"|"stdout"|"stderr"|"pty"|"end"|nil kind, any value
function session.event(message)
  local event = message.event
  if not event then return nil end
  if event.start then return "start", event.start.pid or 0 end
  if event["end"] then return "end", event["end"] end
  for _, name in ipairs({ "stdout", "stderr", "pty" }) do
    local bytes = event.data and event.data[name]
    if bytes then return name, bytes end
  end
  return nil
end

return session
