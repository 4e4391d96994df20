-- Handlers of SSH sessions into containers; `sbx.server.ssh` is what speaks the protocol.

local access = require("sbx.server.access")
local errors = require("sbx.errors")
local json = require("sbx.json")
local key = require("sbx.server.ssh.key")
local reply = require("sbx.server.reply")
local text = require("sbx.server.text")

local ssh = {}

local DEFAULT_SECONDS, MAX_SECONDS = 900, 3600

local function known(server, params)
  local record = server.fleet.store:get(params.id)
  if not record then reply.refuse(404, "Sandbox not found") end
  return record
end

local function wanted_seconds(body)
  local given = body.ttl_seconds
  if given == nil or given == json.null then return DEFAULT_SECONDS end
  local seconds = type(given) == "number" and math.tointeger(given)
  if not seconds or seconds < 1 or seconds > MAX_SECONDS then
    reply.invalid("ttl_seconds", "expected a whole number from 1 to " .. MAX_SECONDS)
  end
  return seconds
end

local function open(server, record, seconds)
  local ok, result = pcall(server.ssh.open, server.ssh, record, seconds)
  if ok then return result end
  if not (errors.is_error(result) and result:is("unsupported")) then error(result, 0) end
  reply.refuse(501, result.message .. "; commands run by exec", { error = "unsupported" })
end

function ssh.open(server, request, params)
  local record = known(server, params)
  if record.spec.vm then
    reply.refuse(422, "SSH goes into containers; a virtual machine has live processes on a"
      .. " terminal of their own")
  end
  local seconds = wanted_seconds(reply.json_body(request))
  if not access.is_running(record) then
    reply.refuse(409, "Sandbox is not running: its status is " .. record.status)
  end
  local problem = server.ssh:full(record)
  if problem then reply.refuse(429, "too many: there are " .. problem .. " already") end
  local session = open(server, record, seconds)
  local host, port = server.ssh:address()
  return 200, {
    session_id = session.id,
    exposure_id = session.exposure_id,
    sandbox_id = record.id,
    host = host,
    port = port,
    external_endpoint = host .. ":" .. port,
    expires_at = text.timestamp(session.expires_at),
    ttl_seconds = seconds,
    gateway_url = server.url .. "/gw",
    user_ns = "local",
    job_id = record.job_id,
    token = (server.tokens:issue(record.id)),
  }
end

function ssh.close(server, _, params)
  local session = server.ssh:get(params.session_id, known(server, params))
  if not session then reply.refuse(404, "SSH session not found") end
  server.ssh:close(session)
  return 200, { success = true, message = "Closed " .. session.id }
end

function ssh.authorize(server, request, params)
  local record, problem, words = access.find(server, request, params)
  if problem == "token" then reply.refuse_gateway(401, "unauthorized", words) end
  if not record then
    reply.refuse_gateway(502, "sandbox_not_found", "Sandbox is gone", { sandboxId = words })
  end
  local body = reply.json_body(request)
  local id = body.session_id
  local session = type(id) == "string" and server.ssh:get(id, record)
  if not session then
    reply.refuse_gateway(404, "session_not_found", "No such SSH session, or its time is over")
  end
  local blob, why = key.public(body.public_key)
  if not blob then reply.refuse_gateway(422, "bad_public_key", "public_key: " .. why) end
  session.blob = blob
  return 200, {
    success = true, session_id = session.id, expires_at = text.timestamp(session.expires_at),
  }
end

return ssh
