-- The control plane: one JSON request and its answer, with the retries that are
-- safe and the clocks that keep a silent server from holding a script for ever.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local http = require("sbx.http")
local json = require("sbx.json")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")

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

local function escape_char(char)
  return ("%%%02X"):format(char:byte())
end

---Percent-encodes everything but unreserved characters.
---@param text string
---@return string
function wire.escape(text)
  return (text:gsub("[^%w%-._~]", escape_char))
end

---A query string, with its question mark, of `{ {name, value}, … }` in order;
---pairs whose value is nil are left out.
---@param pairs_list table[]
---@return string
function wire.query(pairs_list)
  local parts = {}
  for _, pair in ipairs(pairs_list) do
    if pair[2] ~= nil then
      parts[#parts + 1] = wire.escape(pair[1]) .. "=" .. wire.escape(tostring(pair[2]))
    end
  end
  return #parts > 0 and "?" .. table.concat(parts, "&") or ""
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
  return "/sandbox/" .. wire.escape(id) .. (rest or "")
end

local function no_key(call)
  errors.raise({
    kind = "unauthorized",
    code = "NO_API_KEY",
    op = call.op,
    message = call.op .. ": no API key. Set PRIME_API_KEY, or put api_key into "
      .. "~/.prime/config.json; or run the script with --local, which needs neither"
      .. " account nor key",
  })
end

local function headers_of(client)
  return {
    ["authorization"] = "Bearer " .. client.config.api_key,
    ["content-type"] = "application/json",
    ["user-agent"] = client.user_agent,
  }
end

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
local function pause_before_retry(call, err, cause)
  if err.attempts >= ATTEMPTS then return nil end
  local again
  if cause and cause.kind == "timeout" then
    again = cause.phase == "queue"
  elseif cause then
    again = cause.retryable and (call.idempotent or failure.not_sent(cause))
  else
    again = call.idempotent and gateway_trouble[err.status]
  end
  return again and math.random() * math.min(2, 0.1 * 2 ^ (err.attempts - 1)) or nil
end

-- A request that may have reached the server and whose fate nobody knows.
local function is_unknown(err, cause)
  if cause then return not failure.not_sent(cause) end
  return err.status >= 500 or err.code == "BAD_ANSWER"
end

-- What the server may have done must not be torn away from its answer.
---@async
local function exchange(client, call)
  task.checkpoint() -- inside the shield nobody is told any more
  call.sent = true
  if not call.shield then return send(client, call) end
  return task.shield(call.shield, send, client, call)
end

---@async
local function attempt(client, call)
  local response, cause = exchange(client, call)
  if cause then return nil, failure.from_transport(call, cause), cause end
  if response.status < 200 or response.status > 299 then
    return nil, failure.from_status(call, response)
  end
  local answer = failure.object(response.body)
  if answer then return answer end
  if call.method == "DELETE" and response.body == "" then return {} end
  return nil, failure.bad_answer(call, response, "expected a JSON object")
end

local function prepare(client, call)
  if client.config.api_key == "" then no_key(call) end
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
---@field patience? number  seconds of being throttled (default the client's)
---@field raise_429? boolean  a 429 is raised, not waited for
---@field even_closed? boolean  works on a closed client
---@field timeout? number  seconds for one attempt (default 30)
---@field shield? number  seconds for which no cancellation cuts an attempt off
---@field sent? boolean  set here: a request may have reached the server, which did
---not refuse it

---Sends one call and returns the object in its answer. Raises an `api` error or
---one of its kinds; `outcome = "unknown"` on it says that a call which changes
---something may have done so.
---@async
---@param client sbx.sandbox.Client
---@param call sbx.sandbox.Call  taken over
---@return table answer, integer attempts
function wire.call(client, call)
  prepare(client, call)
  local patience = throttle.new(call.patience or client.throttle_timeout)
  local attempts, unknown = 0, false
  while true do
    attempts = attempts + 1
    local answer, err, cause = attempt(client, call)
    if answer then return answer, attempts end
    err.attempts = attempts
    unknown = unknown or is_unknown(err, cause)
    call.sent = unknown
    if unknown and call.method ~= "GET" then err.outcome = "unknown" end
    if err.status == 429 then
      if call.raise_429 then error(err, 0) end
      attempts = attempts - 1 -- refusals have a limit of their own
      patience:pause(err)
    else
      local pause = pause_before_retry(call, err, cause)
      if not pause then error(err, 0) end
      patience:reset()
      task.sleep(pause)
    end
  end
end

return wire
