-- Turns what went wrong on the wire into the error kinds that scripts ask for.
-- Everything a peer wrote is bounded and cleaned, and secrets are taken out.

local errors = require("sbx.errors")
local json = require("sbx.json")
local log = require("sbx.log")
local secrets = require("sbx.sandbox.secrets")
local url = require("sbx.url")

local failure = {}

local MAX_DETAIL = 500 -- bytes of the server's words in a message
local MAX_BODY = 2000 -- bytes of an error body that are kept
local MAX_REQUEST_ID = 100
local LONGEST_PAUSE = 86400 -- seconds that a server may ask for

local kind_of_status = {
  [401] = "unauthorized", [402] = "payment_required", [501] = "unsupported",
}

local kind_of_error_type = {
  OOM_KILLED = "oom",
  TIMEOUT = "sandbox_timeout",
  IMAGE_PULL_FAILED = "image_pull",
}

-- Trouble on this side, which the API has no part in.
local kept_kind = { io = "io", limit = "limit", replay = "replay" }

local retryable_status = {
  [408] = true, [409] = true, [429] = true,
  [500] = true, [502] = true, [503] = true, [504] = true, [524] = true,
}

---A string that is fit for a message: bounded, on one line, no secrets.
---@param text string
---@param hidden? string[]  secrets
---@param most? integer  bytes
---@return string
function failure.clean(text, hidden, most)
  -- Cut generously first: a secret that straddles the end must not survive.
  text = text:sub(1, 64 * 1024)
  return log.clean(hidden and secrets.hide(text, hidden) or text, most or MAX_DETAIL)
end

-- One entry of a validation report. Only the place and the complaint: the entry
-- may also quote the rejected value, which may be a secret.
local function validation_text(entry)
  if type(entry) == "string" then return entry end
  if type(entry) ~= "table" then return nil end
  local where, what = entry.param or entry.loc, entry.details or entry.msg
  if type(where) == "table" then
    local parts = {}
    for i = 1, math.min(#where, 10) do
      parts[i] = tostring(where[i])
    end
    where = table.concat(parts, ".")
  end
  if type(what) ~= "string" then return nil end
  return type(where) == "string" and where .. ": " .. what or what
end

local function validation_list(list)
  local texts = {}
  for i = 1, math.min(#list, 20) do
    texts[#texts + 1] = validation_text(list[i])
  end
  return #texts > 0 and table.concat(texts, "; ") or nil
end

local function detail_of(document)
  for _, name in ipairs({ "detail", "message", "error", "errors" }) do
    local value = document[name]
    if type(value) == "string" then return value end
    local text = type(value) == "table" and validation_list(value)
    if text then return text end
  end
  return nil
end

---The object in an answer's body, or nil when it holds anything else.
---@param body string|nil
---@return table|nil
function failure.object(body)
  if not body or not body:find("^%s*{") then return nil end
  local ok, document = pcall(json.decode, body)
  return ok and type(document) == "table" and document or nil
end

local request_id_headers = { "x-request-id", "request-id", "cf-ray" }

-- What the server calls this request: its people can find it by that.
local function request_id(response, hidden)
  local headers = response and response.headers or {}
  for _, name in ipairs(request_id_headers) do
    if headers[name] then return failure.clean(headers[name], hidden, MAX_REQUEST_ID) end
  end
  return nil
end

local function base_fields(call)
  return {
    op = call.op,
    method = call.method,
    url = failure.clean(call.url or "", call.secrets),
    sandbox_id = call.sandbox_id,
  }
end

local function prefix(call)
  if not call.sandbox_id then return call.op end
  return call.op .. " " .. failure.clean(call.sandbox_id, call.secrets, 100)
end

local function api_message(call, response, detail)
  local status, location = response.status, response.headers and response.headers["location"]
  local text = ("%s: the server answered %d"):format(prefix(call), status)
  if detail ~= "" then text = text .. ": " .. detail end
  if status >= 300 and status < 400 and location then
    text = ("%s, and names another address: %s"):format(text,
      failure.clean(url.redact(location), call.secrets, 200))
    if not call.gateway then text = text .. " (is --url or PRIME_API_BASE_URL right?)" end
  end
  if status == 401 and not call.gateway then
    text = text .. " (`sbxlua context show --show-origin` tells where the key is from:"
      .. " --key-file, PRIME_API_KEY, a context or ~/.prime/config.json)"
  end
  return text
end

---The error for an answer whose status is no success.
---@param call table  op, method, url, sandbox_id?, gateway?, secrets?
---@param response table  of sbx.http
---@return sbx.Error
function failure.from_status(call, response)
  local document = failure.object(response.body)
  local body = response.body or ""
  local detail = failure.clean(document and detail_of(document) or body, call.secrets)
  local fields = base_fields(call)
  local status = response.status
  fields.kind = not call.gateway and kind_of_status[status] or "api"
  fields.status = status
  fields.detail = detail
  fields.body = failure.clean(body, call.secrets, MAX_BODY)
  local gateway_code = document and document.error
  fields.gateway_code = type(gateway_code) == "string"
    and failure.clean(gateway_code, call.secrets, MAX_REQUEST_ID) or nil
  fields.request_id = request_id(response, call.secrets)
  fields.retry_after = response.retry_after and math.min(response.retry_after, LONGEST_PAUSE)
  fields.retryable = retryable_status[status] or false
  fields.message = api_message(call, response, detail)
  return errors.new(fields)
end

---The error for an answer that makes no sense.
---@param call table
---@param response table|nil  where there is one
---@param what string  for people: "expected a JSON object"
---@return sbx.Error
function failure.bad_answer(call, response, what)
  local fields = base_fields(call)
  fields.kind = "api"
  fields.code = "BAD_ANSWER"
  if response then
    fields.status = response.status
    if not call.confidential then
      fields.body = failure.clean(response.body or "", call.secrets, MAX_BODY)
    end
  end
  fields.request_id = request_id(response, call.secrets)
  fields.message = ("%s: cannot make sense of the server's answer%s: %s"):format(
    prefix(call), response and (" (%d)"):format(response.status) or "", what)
  return errors.new(fields)
end

---Returns `answer[name]` when it is of this type. Raises an `api` error else.
---@param call { op: string, sandbox_id?: string }
---@param answer table
---@param name string
---@param wanted string  as `type` or `math.type` says it
---@return any
function failure.field(call, answer, name, wanted)
  local value = answer[name]
  if type(value) == wanted or math.type(value) == wanted then return value end
  local article = wanted == "integer" and "an" or "a"
  error(failure.bad_answer(call, nil, ("'%s' is not %s %s"):format(name, article, wanted)), 0)
end

---The error for a request that was not sent, because the server has asked for a
---longer pause than the caller has patience for.
---@param call table
---@param seconds number
---@return sbx.Error
function failure.paused(call, seconds)
  local fields = base_fields(call)
  fields.kind = "api"
  fields.status = 429
  fields.detail = ""
  fields.retry_after = seconds
  fields.retryable = true
  fields.message = ("%s: the server has asked for a pause, of which %.0f s are left"):format(
    prefix(call), seconds)
  return errors.new(fields)
end

---True when no byte of the request can have reached the server.
---@param err sbx.Error  of sbx.http
---@return boolean
function failure.not_sent(err)
  if err.sent ~= nil then return not err.sent end
  local early = err.phase == "connect" or err.phase == "queue"
  return err.kind == "dns" or err.kind == "connect" or (err.kind == "timeout" and early)
end

---The error for a request that got no (whole) answer.
---@param call table  also timeout_kind?
---@param err sbx.Error  what sbx.http raised
---@return sbx.Error
function failure.from_transport(call, err)
  local fields = base_fields(call)
  local timed_out = err.kind == "timeout"
  fields.kind = timed_out and (call.timeout_kind or "api_timeout") or kept_kind[err.kind] or "api"
  -- Not reaching the gateway says nothing about the command.
  if timed_out and failure.not_sent(err) then fields.kind = "api_timeout" end
  fields.code = err.code
  fields.phase = err.phase
  fields.cause = err
  fields.retryable = err.retryable or false
  fields.message = prefix(call) .. ": " .. failure.clean(tostring(err), call.secrets)
  if not call.gateway and (err.kind == "connect" or err.kind == "dns") then
    fields.message = fields.message
      .. " (is --url or PRIME_API_BASE_URL right? --local needs no server)"
  end
  return errors.new(fields)
end

---The error for a sandbox that the API does not know (any more).
---@param call { op: string, sandbox_id: string }
---@param cause sbx.Error  the 404
---@return sbx.Error
function failure.gone(call, cause)
  return failure.not_running({
    op = call.op,
    sandbox_id = call.sandbox_id,
    status = "TERMINATED",
    error_type = "SANDBOX_NOT_FOUND",
    error_message = cause.detail ~= "" and cause.detail or nil,
    request_id = cause.request_id,
    cause = cause,
  })
end

---The error for a sandbox that cannot be used (any more).
---@param fields table  op, sandbox_id, status?, error_type?, error_message?, cause?
---@return sbx.Error
function failure.not_running(fields)
  -- The server's words: they are for people, too.
  local function words(name, most)
    if fields[name] then fields[name] = failure.clean(fields[name], nil, most) end
    return fields[name]
  end
  local state = words("status", 50) or "unknown"
  local kind, message = words("error_type", 100), words("error_message", MAX_DETAIL)
  local text = ("%s %s: the sandbox is not running (status %s"):format(
    fields.op, failure.clean(fields.sandbox_id, nil, 100), state)
  if kind then text = text .. ", " .. kind end
  text = text .. ")"
  if state == "PENDING" or state == "PROVISIONING" then
    text = text .. "; it is still starting: wait for it first, as with box:wait()"
  end
  if message then text = text .. ": " .. message end
  fields.kind = kind_of_error_type[kind] or state == "TIMEOUT" and "sandbox_timeout"
    or "not_running"
  fields.message = text
  return errors.new(fields)
end

return failure
