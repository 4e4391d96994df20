-- The list of what the server answers, and who may ask. The wire decides the
-- paths; literals stand before patterns that would match them too.

local control = require("sbx.server.control")
local errors = require("sbx.errors")
local exposing = require("sbx.server.exposing")
local gateway = require("sbx.server.gateway")
local hash = require("sbx.hash")
local json = require("sbx.json")
local log = require("sbx.log")
local reply = require("sbx.server.reply")

local routes = {}

local API = "/api/v1"
local GATEWAY = "/gw/{ns}/{job}"

-- method, pattern, handler
local control_routes = {
  { "POST", "/sandbox", control.create },
  { "GET", "/sandbox", control.list },
  { "DELETE", "/sandbox", control.bulk_delete },
  { "GET", "/sandbox/expose/all", exposing.list_all },
  { "POST", "/sandbox/status:batchGet", control.batch_status },
  { "GET", "/sandbox/{id}", control.get },
  { "DELETE", "/sandbox/{id}", control.delete },
  { "GET", "/sandbox/{id}/logs", control.logs },
  { "POST", "/sandbox/{id}/auth", control.auth },
  { "GET", "/sandbox/{id}/error-context", control.error_context },
  { "GET", "/sandbox/{id}/egress-policy", control.egress_get },
  { "PUT", "/sandbox/{id}/egress-policy", control.egress_put },
  { "POST", "/sandbox/{id}/expose", exposing.expose },
  { "GET", "/sandbox/{id}/expose", exposing.list },
  { "DELETE", "/sandbox/{id}/expose/{exposure_id}", exposing.unexpose },
}

local gateway_routes = {
  { "POST", "/exec", gateway.exec },
  { "POST", "/upload", gateway.upload },
  { "GET", "/download", gateway.download },
  { "GET", "/read-file", gateway.read_file },
}

-- A page from elsewhere may reach a loopback port under a name of its own
-- (DNS rebinding); the Host header gives it away.
local function check_host(request)
  local host = (request.headers.host or ""):lower():gsub(":%d+$", "")
  if host == "localhost" or host == "[::1]" or host:find("^127%.%d+%.%d+%.%d+$") then return end
  reply.refuse(403, "Host header not allowed")
end

local function check_key(server, request)
  local key = reply.bearer(request)
  if not key or not hash.equal(key, server.api_key) then reply.refuse(401, "Invalid API key") end
end

local function send(request, status, object, headers)
  local all = {
    ["Content-Type"] = "application/json", ["Cache-Control"] = "no-store",
    ["Server"] = "sbxlua", -- by which clients know that there are no limits
  }
  for name, value in pairs(headers or {}) do
    all[name] = value
  end
  request:respond(status, all, json.encode(object))
end

-- What a handler's failure answers: its own refusal, or a fault of ours, told
-- in the log and not to the caller.
local function send_failure(request, failure)
  if errors.is_error(failure) and failure.kind == "refused" then
    send(request, failure.status, failure.body, failure.headers)
    return
  elseif request.gone then
    return -- nobody is there to be told
  end
  if not (errors.is_error(failure) and failure.kind == "cancelled") then
    log.error("request failed", { path = request.path, error = failure })
  end
  send(request, 500, {
    detail = "internal error", error = "gateway_error", message = "internal error", code = 500,
  })
end

-- Turns a handler (server, request, params) → status, object, headers into one
-- that answers for itself. `started` answers are the handler's own.
local function answering(server, handler, check)
  return function(request, params)
    local ok, status, object, headers = pcall(function()
      check_host(request)
      check(server, request)
      return handler(server, request, params)
    end)
    if not ok then
      send_failure(request, status)
    elseif status then
      send(request, status, object, headers)
    end
  end
end

local function check_nothing() end

---All routes as {method, pattern, handler(request, params)}.
---@param server sbx.server.Server
---@return {[1]: string, [2]: string, [3]: async fun(request: table, params: table)}[]
function routes.all(server)
  local list = {}
  for _, route in ipairs(control_routes) do
    list[#list + 1] = { route[1], API .. route[2], answering(server, route[3], check_key) }
  end
  for _, route in ipairs(gateway_routes) do
    list[#list + 1] = { route[1], GATEWAY .. route[2], answering(server, route[3], check_nothing) }
  end
  return list
end

return routes
