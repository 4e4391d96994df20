-- The list of what the server answers, who may ask, and how often. The wire decides the
-- paths; literals stand before patterns that would match them too.

local control = require("sbx.server.control")
local egress = require("sbx.server.egress")
local errors = require("sbx.errors")
local exposing = require("sbx.server.exposing")
local gateway = require("sbx.server.gateway")
local http = require("sbx.server.http")
local json = require("sbx.json")
local keys = require("sbx.server.keys")
local log = require("sbx.log")
local metrics = require("sbx.server.metrics")
local page = require("sbx.server.page")
local reply = require("sbx.server.reply")
local rpc = require("sbx.server.rpc")
local services = require("sbx.server.services")
local timeline = require("sbx.server.timeline")

local routes = {}

local API = "/api/v1"
local GATEWAY = "/gw/{ns}/{job}"

-- method, pattern, handler, the class of its limit. Those on the control plane get the caller
-- as a fourth argument, and a sandbox in their path is one that the caller may see.
local control_routes = {
  { "POST", "/sandbox", control.create, "create" },
  { "GET", "/sandbox", control.list, "list" },
  { "DELETE", "/sandbox", control.bulk_delete, "bulk_delete" },
  { "GET", "/sandbox/expose/all", exposing.list_all, "expose_all" },
  { "POST", "/sandbox/status:batchGet", control.batch_status }, -- counts for each sandbox itself
  { "GET", "/sandbox/{id}", control.get, "get" },
  { "DELETE", "/sandbox/{id}", control.delete, "delete" },
  { "GET", "/sandbox/{id}/logs", control.logs, "logs" },
  { "POST", "/sandbox/{id}/auth", control.auth, "auth" },
  { "GET", "/sandbox/{id}/error-context", control.error_context, "error_context" },
  { "GET", "/sandbox/{id}/egress-policy", egress.get, "egress_get" },
  { "PUT", "/sandbox/{id}/egress-policy", egress.put, "egress_put" },
  { "POST", "/sandbox/{id}/expose", exposing.expose, "expose" },
  { "GET", "/sandbox/{id}/expose", exposing.list, "exposure_list" },
  { "DELETE", "/sandbox/{id}/expose/{exposure_id}", exposing.unexpose, "unexpose" },
  -- Beyond the wire.
  { "GET", "/events", timeline.events },
  { "GET", "/sandbox/{id}/activity", timeline.activity },
}

local gateway_routes = {
  { "POST", "/exec", gateway.exec, "exec" },
  { "POST", "/upload", gateway.upload, "upload" },
  { "GET", "/download", gateway.download, "download" },
  { "GET", "/read-file", gateway.read_file, "read_file" },
  { "POST", "/command_session.CommandSession/{method}", rpc.handle, "exec" },
}

-- A page from elsewhere may reach a loopback port under a name of its own
-- (DNS rebinding); the Host header gives it away.
local function check_host(server, request)
  local host = (request.headers.host or ""):lower():gsub(":%d*$", "")
  if server.host_names[host] then return end
  if host == "localhost" or host == "[::1]" or host:find("^127%.%d+%.%d+%.%d+$") then return end
  reply.refuse(403, "Host header not allowed: this server has another name")
end

-- A browser says which page is behind a request. Ours is under the very name that was
-- asked; no other page has any business here, whatever key or token it holds.
local function check_origin(server, request)
  local origin = request.headers.origin
  if not origin then return end
  local own = server.scheme .. "://" .. (request.headers.host or "")
  if origin:lower() == own:lower() then return end
  reply.refuse(403, "Origin not allowed: only this server's own page may ask")
end

-- Who asks on the control plane, once the key is right, the sandbox is one that this caller
-- may know of, and the request is not one too many.
local function admit_caller(server, request, params, class)
  local caller = server.keys:find(reply.bearer(request))
  if not caller then reply.refuse(401, "Invalid API key") end
  local record = params.id and server.fleet.store:get(params.id)
  if record and not keys.may_use(caller, record) then record = nil end
  if class then
    server.limits:check(class, caller.name, request.remote, record and record.id)
  end
  if params.id and not record then reply.refuse(404, "Sandbox not found") end
  return caller
end

-- On the gateway the handlers look at the token.
local function admit_token(server, request, _, class)
  local id = class and server.tokens:sandbox_of(reply.bearer(request))
  if id then server.limits:check(class, "gateway", request.remote, id) end
end

-- The figures are about everybody's sandboxes.
local function admit_owner(server, request)
  if server.metrics_open then return end
  local caller = server.keys:find(reply.bearer(request))
  if not caller then
    reply.refuse(401, "Invalid API key", nil, { ["WWW-Authenticate"] = "Bearer" })
  end
  if not caller.admin then reply.refuse(403, "Only the server's own key may read the metrics") end
end

local function admit_anybody() end

-- method, pattern, handler, who may ask: nothing of the API.
local other_routes = {
  { "GET", "/", page.index, admit_anybody },
  { "GET", "/page/{file}", page.file, admit_anybody },
  { "GET", "/metrics", metrics.handle, admit_owner },
}

local function send(server, request, status, object, headers)
  local all = {
    ["Content-Type"] = "application/json", ["Cache-Control"] = "no-store",
    ["X-Content-Type-Options"] = "nosniff",
    -- By which clients know that there are no limits.
    ["Server"] = not server.limits:any() and "sbxlua" or nil,
  }
  for name, value in pairs(headers or {}) do
    all[name] = value
  end
  request:respond(status, all, json.encode(object))
end

-- What the listener says of a body: a form that is none, or is broken.
local function is_body_fault(failure)
  if not errors.is_error(failure) or failure.kind ~= "http" then return false end
  return failure.message:find("^%l+: the form is malformed") ~= nil
    or failure.message:find("^form: the content type") ~= nil
end

-- What a handler's failure answers: its own refusal, or a fault of ours, told
-- in the log and not to the caller.
local function send_failure(server, request, failure)
  if errors.is_error(failure) and failure.kind == "refused" then
    send(server, request, failure.status, failure.body, failure.headers)
    return
  elseif errors.is_error(failure) and failure.kind == "unavailable" then
    local headers = { ["Retry-After"] = tostring(math.ceil(failure.retry_after or 1)) }
    send(server, request, 503, {
      detail = failure.message, error = "unavailable", message = failure.message, code = 503,
    }, headers)
    return
  elseif request.gone then
    return -- nobody is there to be told
  elseif is_body_fault(failure) then
    local words = "request body: " .. failure.message
    send(server, request, 422, {
      detail = words, errors = json.array { { param = "body", details = failure.message } },
      error = "bad_request", message = words, code = 422,
    })
    return
  end
  if not (errors.is_error(failure) and failure.kind == "cancelled") then
    log.error("request failed", { path = http.shown_path(request.path), error = failure })
  end
  send(server, request, 500, {
    detail = "internal error", error = "gateway_error", message = "internal error", code = 500,
  })
end

-- Turns a handler (server, request, params, caller) → status, object, headers into one
-- that answers for itself. `started` answers are the handler's own.
local function answering(server, route, admit, class)
  local handler = route[3]
  return function(request, params)
    local ok, status, object, headers = pcall(function()
      check_host(server, request)
      check_origin(server, request)
      return handler(server, request, params, admit(server, request, params, class))
    end)
    if not ok then
      send_failure(server, request, status)
    elseif status then
      send(server, request, status, object, headers)
    end
  end
end

---All routes as {method, pattern, handler(request, params)}.
---@param server sbx.server.Server
---@return {[1]: string, [2]: string, [3]: async fun(request: table, params: table)}[]
function routes.all(server)
  local list = {}
  local function add(prefix, route, admit, class)
    list[#list + 1] = { route[1], prefix .. route[2], answering(server, route, admit, class) }
  end
  for _, route in ipairs(control_routes) do
    add(API, route, admit_caller, route[4])
  end
  for _, route in ipairs(gateway_routes) do
    add(GATEWAY, route, admit_token, route[4])
  end
  for _, route in ipairs(other_routes) do
    add("", route, route[4])
  end
  for _, route in ipairs(services.control) do
    add(API, route, admit_caller, route[4])
  end
  for _, route in ipairs(services.gateway) do
    add(GATEWAY, route, admit_token, route[4])
  end
  for _, route in ipairs(services.open) do
    add("", route, admit_anybody)
  end
  return list
end

return routes
