-- The data plane: one request to a sandbox's gateway, with the token it needs
-- and the retries that its kind allows.
--
-- What may be repeated is the one thing to keep in mind: a command only when it
-- provably never left this process, a transfer of a file whenever it failed.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local http = require("sbx.http")
local observe = require("sbx.observe")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local wire = require("sbx.sandbox.wire")

local gateway = {}

local MAX_REQUESTS = 1000 -- at once; each command holds one until it ends
local MAX_REFUSAL = 64 * 1024 -- bytes of a streamed answer that tells of a failure
local PAUSES = {
  inner = { 1, 2, 4 }, -- seconds, when the gateway is out of reach
  outer = { 0.25, 0.5, 1 }, -- when it answers that it is in trouble
}

local trouble = { [500] = true, [502] = true, [503] = true, [504] = true, [524] = true }
-- How a connection breaks while something is on its way.
local broken = {
  EOF = true, ECONNRESET = true, EPIPE = true, ECONNABORTED = true, ETIMEDOUT = true,
  ENETDOWN = true, ENETUNREACH = true, EHOSTUNREACH = true,
}
local dead = { TERMINATED = true, ERROR = true, TIMEOUT = true }

---@class sbx.sandbox.GatewayCall
---@field op string
---@field operation string  last part of the path
---@field method string
---@field sandbox_id string
---@field query? string
---@field request? table|fun(): table  further options of sbx.http; a function makes
---  them anew for each attempt
---@field stream? boolean  the answer is a stream: the caller reads the body and closes it
---@field timeout number  seconds for one attempt, all told
---@field limit number  seconds that the caller asked for, for messages
---@field timeout_kind string  error kind when that passes
---@field repeatable boolean  may be repeated although it may have run
---@field repeat_408? boolean  a 408 is worth another try
---@field once? boolean  no retry of any kind but a new token
---@field file? boolean  a 404 is about a file

-- The state that the API reports for a sandbox; all nil when it cannot be had.
---@async
local function context_of(client, id, op)
  local answer = errors.try(wire.call, client, {
    op = op,
    method = "GET",
    path = wire.sandbox_path(id, "/error-context"),
    sandbox_id = id,
    even_closed = true,
    patience = 5,
    timeout = 10,
  })
  if not answer then
    -- Older servers have no such call, but they do know the sandbox.
    answer = errors.try(wire.call, client, {
      op = op,
      method = "GET",
      path = wire.sandbox_path(id),
      sandbox_id = id,
      even_closed = true,
      patience = 5,
      timeout = 10,
    })
  end
  local function text(...)
    for _, name in ipairs({ ... }) do
      local value = answer and answer[name]
      if type(value) == "string" then return value end
    end
    return nil
  end
  return {
    status = text("status"),
    error_type = text("errorType", "error_type"),
    error_message = text("errorMessage", "error_message"),
  }
end

local function not_running(call, context, cause)
  return failure.not_running({
    op = call.op,
    sandbox_id = call.sandbox_id,
    status = context.status,
    error_type = context.error_type,
    error_message = context.error_message,
    cause = cause,
  })
end

---@async
local function gone(client, call, cause)
  client.tokens:evict(call.sandbox_id)
  client.reached[call.sandbox_id] = nil
  local context = call.once and {} or context_of(client, call.sandbox_id, call.op)
  context.status = "TERMINATED"
  context.error_type = context.error_type or "SANDBOX_NOT_FOUND"
  context.error_message = context.error_message or cause.detail
  return not_running(call, context, cause)
end

-- What `fn(...)` of sbx.http gives; a failure of the transport as nil and the error.
---@async
local function transmit(fn, ...)
  local ok, response = pcall(fn, ...)
  if ok then return response end
  if not errors.is_error(response) or response.kind == "cancelled" then error(response, 0) end
  return nil, response
end

-- An answer whose body the caller reads, unless it tells of a failure.
---@async
local function open_stream(...)
  local response = http.stream(...)
  if response.status >= 200 and response.status < 300 then return response end
  local _ <close> = response
  local parts, size = {}, 0
  for bytes in response:chunks() do
    parts[#parts + 1] = bytes
    size = size + #bytes
    if size > MAX_REFUSAL then break end
  end
  response.body = table.concat(parts)
  return response
end

---@async
local function send(client, call, token)
  call.url = ("%s/%s%s"):format(token.base, call.operation, call.query or "")
  call.gateway = true
  call.secrets = { token.token }
  local request = {
    headers = { ["authorization"] = "Bearer " .. token.token },
    timeout = call.timeout,
    connect_timeout = math.min(wire.connect_timeout, call.timeout),
    at_most_once = not call.repeatable,
    proxy = client.config.proxy,
    -- Apart from the control plane: long commands must not hold up a delete.
    group = "sandbox gateway",
    limit = MAX_REQUESTS,
  }
  local given = call.request
  if type(given) == "function" then given = given() end
  for name, value in pairs(given or {}) do
    if name == "headers" then
      for header, text in pairs(value) do
        request.headers[header] = text
      end
    else
      request[name] = value
    end
  end
  return transmit(call.stream and open_stream or http.request, call.method, call.url, request)
end

-- Says how long was allowed, which neither curl nor every server does.
local function name_limit(call, err)
  err.message = ("%s %s: not done within %g s"):format(
    call.op, failure.clean(call.sandbox_id, nil, 100), call.limit)
  err.timeout = call.limit
  return err
end

local function next_pause(state, name)
  local used = state[name] + 1
  state[name] = used
  return PAUSES[name][used]
end

-- What to do about a request without an answer: seconds to pause, or nil.
---@async
local function after_transport(client, call, state, err, cause)
  local unsent = failure.not_sent(cause)
  if not unsent and not call.repeatable then err.outcome = "unknown" end
  if call.once then return nil, err end
  if cause.kind == "timeout" then
    if not unsent then name_limit(call, err) end
    if call.timeout_kind == "api_timeout" then return next_pause(state, "inner"), err end
    if unsent or call.operation ~= "exec" then return nil, err end
    local context = context_of(client, call.sandbox_id, call.op)
    if dead[context.status] then return nil, not_running(call, context, err) end
    return nil, err
  end
  -- sbx.http sends no iterator twice; a request that is made anew has a new one.
  local renewed = type(call.request) == "function" and cause.kind == "http"
    and broken[cause.code]
  local again = (cause.retryable or renewed) and (unsent or call.repeatable)
  return again and next_pause(state, "inner"), err
end

---@async
local function after_conflict(client, call, state, err)
  if call.once then return nil, err end
  local context = context_of(client, call.sandbox_id, call.op)
  if context.status == "RUNNING" then return next_pause(state, "outer"), err end
  return nil, not_running(call, context, err)
end

---@async
local function after_command_timeout(client, call, state, err)
  if call.operation == "exec" then
    err.kind = call.timeout_kind
    err.retryable = false -- it has run, for a while
    name_limit(call, err)
    local context = call.once and {} or context_of(client, call.sandbox_id, call.op)
    if dead[context.status] then return nil, not_running(call, context, err) end
    return nil, err
  end
  local again = call.repeat_408 and not call.once
  return again and next_pause(state, "outer"), err
end

-- What to do about an answer that is no success: seconds to pause, or nil, and
-- the error to raise in the end.
---@async
local function after_status(client, call, state, err)
  local status = err.status
  if status == 502 and err.gateway_code == "sandbox_not_found" then
    return nil, gone(client, call, err)
  end
  if status == 409 then return after_conflict(client, call, state, err) end
  if status == 408 then return after_command_timeout(client, call, state, err) end
  if status == 404 and call.file then
    err.kind = "file_not_found"
    err.message = ("%s %s: no such file in the sandbox: %s")
      :format(call.op, call.sandbox_id, err.detail)
  end
  if status == 413 then err.kind = "file_too_large" end
  if not trouble[status] then return nil, err end
  if not call.repeatable then
    err.outcome = "unknown"
    err.retryable = false
    return nil, err
  end
  return not call.once and next_pause(state, "outer"), err
end

---@async
local function attempt(client, call, state)
  local token = client.tokens:get(call.sandbox_id, call.op)
  local response, cause = send(client, call, token)
  if cause then
    local err = failure.from_transport(call, cause)
    return nil, err, after_transport(client, call, state, err, cause)
  end
  if response.status >= 200 and response.status < 300 then return response end
  local err = failure.from_status(call, response)
  if err.status == 401 and not state.renewed then
    state.renewed = true
    client.tokens:reject(call.sandbox_id, token)
    return nil, err, 0, err
  end
  if err.status == 429 then return nil, err, nil, err end
  return nil, err, after_status(client, call, state, err)
end

---Sends one request to the gateway of a sandbox and returns the answer, whose
---status is a success. Raises the kinds of the error table; `outcome =
---"unknown"` on a command's error says that it may have run.
---@async
---@param client sbx.sandbox.Client
---@param call sbx.sandbox.GatewayCall  taken over
---@return table response  of sbx.http
function gateway.call(client, call)
  local state = { inner = 0, outer = 0, renewed = false }
  local patience = throttle.new(call.once and 0 or client.throttle_timeout)
  local attempts = 0
  while true do
    attempts = attempts + 1
    local response, first, pause, last = attempt(client, call, state)
    if response then
      response.attempts = attempts
      return response
    end
    local err = last or first
    err.attempts = attempts
    local asked = err.retry_after or 0
    if err.status == 429 then
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

-- For the calls of virtual machines, which fail in the same ways.
gateway.dead = dead
gateway.name_limit = name_limit
gateway.next_pause = next_pause
gateway.context_of = context_of
gateway.not_running = not_running
gateway.gone = gone
gateway.after_conflict = after_conflict
gateway.after_command_timeout = after_command_timeout

return gateway
