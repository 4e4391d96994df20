-- The control plane: one JSON request and its answer, with the retries that are
-- safe and the clocks that keep a silent server from holding a script for ever.

local endpoints = require("sbx.sandbox.endpoints")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local http = require("sbx.http")
local json = require("sbx.json")
local observe = require("sbx.observe")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local url = require("sbx.url")

local wire = {}

local CONNECT_TIMEOUT = 10 -- seconds
local TOTAL_TIMEOUT = 30
local ATTEMPTS = 3
local MAX_BODY = 64 * 1024 * 1024
local MAX_REDIRECTS = 5
local MAX_REQUESTS = 64 -- at once

wire.connect_timeout = CONNECT_TIMEOUT

local gateway_trouble = { [502] = true, [503] = true, [504] = true }
local safe_methods = { GET = true, PUT = true, DELETE = true, HEAD = true }

---A query string, with its question mark, of `{ {name, value}, … }` in order;
---pairs whose value is nil are left out.
---@param pairs_list table[]
---@return string
function wire.query(pairs_list)
  local given = {}
  for _, pair in ipairs(pairs_list) do
    if pair[2] ~= nil then given[#given + 1] = pair end
  end
  return #given > 0 and "?" .. url.query(given) or ""
end

---The id of a sandbox, given as such or as an object that has one.
---@param target any
---@return string
function wire.id_of(target)
  local id = target
  if type(target) == "table" then id = target.id end
  if type(id) ~= "string" or id == "" then
    error("sandbox: expected a sandbox or its id, got " .. (target == nil and "nothing"
      or type(target) == "string" and "an empty string" or "a " .. type(target)), 3)
  end
  -- Dot segments would be resolved away, and the request reach another path.
  if #id > 256 or id == "." or id == ".." then error("sandbox: not a sandbox id", 3) end
  return id
end

---Path of a sandbox's resource: `/sandbox/ID/rest`.
---@param id string
---@param rest? string
---@return string
function wire.sandbox_path(id, rest)
  return "/sandbox/" .. url.escape(id) .. (rest or "")
end

local function no_key(call, problem)
  errors.raise({
    kind = "unauthorized",
    code = "NO_API_KEY",
    op = call.op,
    message = call.op .. ": no API key. Set PRIME_API_KEY, give --key-file or --context, or"
      .. " put api_key into ~/.prime/config.json; or run the script with --local, which needs"
      .. " neither account nor key" .. (problem and ". The file was not used: " .. problem or ""),
  })
end

local function headers_of(client)
  return {
    ["authorization"] = "Bearer " .. client.config.api_key,
    ["content-type"] = "application/json",
    ["user-agent"] = client.user_agent,
  }
end

-- The answer, or nil and the error of the transport.
---@async
local function send(client, call)
  local ok, response = pcall(http.request, call.method, call.url, {
    headers = headers_of(client),
    body = call.encoded,
    timeout = call.timeout or TOTAL_TIMEOUT,
    connect_timeout = CONNECT_TIMEOUT,
    max_body = MAX_BODY,
    follow = call.method == "GET" and MAX_REDIRECTS or 0,
    at_most_once = not call.idempotent,
    proxy = client.config.proxy,
    group = "sandbox control plane",
    limit = MAX_REQUESTS,
  })
  if ok then return response end
  local err = response
  if not errors.is_error(err) or err.kind == "cancelled" then error(err, 0) end
  return nil, err
end

-- Seconds to wait before the same request may be sent again, or nil.
local function pause_before_retry(call, err, cause, patience)
  if err.attempts >= ATTEMPTS then return nil end
  local again
  if cause and cause.kind == "timeout" then
    again = cause.phase == "queue"
  elseif cause then
    again = cause.retryable and (call.idempotent or failure.not_sent(cause))
  else
    again = call.idempotent and gateway_trouble[err.status]
  end
  local asked = err.retry_after or 0
  if not again or asked > patience:left() then return nil end
  return math.max(asked, math.random() * math.min(2, 0.1 * 2 ^ (err.attempts - 1)))
end

-- Waits until a call may be sent. One that was sent before stands in line no more.
---@async
local function admit(client, call, patience)
  local class, id = endpoints.class_of(call.method, call.path)
  local again = call.began or false
  call.began = true
  local grant, seconds = client.governor:admit(class, id, patience:left(), again)
  if grant then return grant end
  error(failure.paused(call, seconds), 0)
end

-- Sends a request and learns from its answer; with `shield` it is not cut off, for
-- what the server does must become known.
---@async
local function transmit(client, call, grant)
  local function send_and_learn()
    local response, cause = send(client, call)
    client.heard = client.heard or response ~= nil
    client.governor:learn(grant, response or cause)
    return response, cause
  end
  if not call.shield then return send_and_learn() end
  return task.shield(call.shield, send_and_learn)
end

-- The object in an answer; or nil and the error.
local function read_answer(call, response)
  if response.status < 200 or response.status > 299 then
    return nil, failure.from_status(call, response)
  end
  local answer = failure.object(response.body)
  if answer then return answer end
  if call.method == "DELETE" and response.body == "" then return {} end
  return nil, failure.bad_answer(call, response, "expected a JSON object")
end

-- The object in the answer; or nil, the error, and what the transport said if it
-- was that.
---@async
local function exchange(client, call, patience)
  local grant <close> = admit(client, call, patience)
  local before = call.sent
  call.sent = true
  local response, cause = transmit(client, call, grant)
  if cause then
    if failure.not_sent(cause) then call.sent = before end
    return nil, failure.from_transport(call, cause), cause
  end
  local answer, err = read_answer(call, response)
  if err and err.status < 500 and err.code ~= "BAD_ANSWER" then call.sent = before end
  return answer, err
end

local function prepare(client, call)
  if client.config.api_key == "" then no_key(call, client.config.problem) end
  if client.closed and not call.even_closed then
    error(call.op .. ": this client is closed", 0)
  end
  call.url = client.config.base_url .. "/api/v1" .. call.path
  call.encoded = call.body and json.encode(call.body) or ""
  if call.method == "GET" or (call.method == "DELETE" and not call.body) then
    call.encoded = nil
  end
  call.secrets = { client.config.api_key, table.unpack(call.secrets or {}) }
  call.idempotent = call.idempotent or safe_methods[call.method] or false
end

---@class sbx.sandbox.Call
---@field op string  the method's name, for messages
---@field method string
---@field path string  below `/api/v1`, with its query
---@field body? table  sent as JSON
---@field idempotent? boolean  a POST that may be repeated
---@field sandbox_id? string
---@field secrets? string[]  never to appear in an error
---@field confidential? boolean  the answer has secrets: what cannot be read of it is not shown
---@field patience? number  seconds of being throttled (default the client's)
---@field raise_429? boolean  a 429 is raised, not waited for
---@field even_closed? boolean  works on a closed client
---@field timeout? number  seconds for one attempt (default 30)
---@field shield? number  seconds that a request which was sent holds off a cancellation
---@field began? boolean  set by the call: it was sent before, or stood in line for that
---@field sent? boolean  set by the call: the server may have done what it asks for

---Sends one call, when the governor lets it, and returns the object in its answer.
---Raises an `api` error or one of its kinds; `outcome = "unknown"` on it says that a
---call which changes something may have done so.
---@async
---@param client sbx.sandbox.Client
---@param call sbx.sandbox.Call  taken over
---@return table answer, integer attempts
function wire.call(client, call)
  prepare(client, call)
  local patience = throttle.new(call.patience or client.throttle_timeout)
  local attempts = 0
  while true do
    attempts = attempts + 1
    local answer, err, cause = exchange(client, call, patience)
    if answer then return answer, attempts end
    err.attempts = attempts
    if call.sent and call.method ~= "GET" then err.outcome = "unknown" end
    if err.status == 429 then
      if call.raise_429 then error(err, 0) end
      attempts = attempts - 1 -- refusals have a limit of their own
      patience:pause(err)
    else
      local pause = pause_before_retry(call, err, cause, patience)
      if not pause then error(err, 0) end
      patience:reset()
      if observe.retry then observe.retry(call.op, err, pause) end
      task.sleep(pause)
    end
  end
end

return wire
