-- A scripted sandbox API for tests: it answers as the real one does, except
-- where a test says otherwise. Loaded with dofile by the tests that need it.
--
--   local server <close> = api.start({
--     exec = function(call) return 500, { message = "broken" } end,
--   })
--   local client <close> = server:client()
--
-- A handler gets `call` (op, n: how often this op came, id, body, query,
-- headers, request) and returns status, body (table or string), headers; nothing
-- means the usual answer, and `api.HANG` that there never is one.

local http_server = require("sbx.core.server")
local json = require("sbx.json")
local log = require("sbx.log")
local net = require("sbx.core.net")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")
local time = require("sbx.core.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local services = dofile(here .. "api_services.lua")

local api = { HANG = {}, KEY = "test-key-4711" }

-- Tests leave nothing in the state folder of who runs them. One that is about it
-- says `state.use(folder)`.
state.use(false)

local Server = {}
Server.__index = Server

local routes = {
  { "POST", "^/api/v1/sandbox$", "create" },
  { "GET", "^/api/v1/sandbox$", "list" },
  { "DELETE", "^/api/v1/sandbox$", "bulk_delete" },
  { "POST", "^/api/v1/sandbox/status:batchGet$", "batch" },
  { "GET", "^/api/v1/sandbox/expose/all$", "list_exposed" },
  { "GET", "^/api/v1/sandbox/([^/]+)$", "get" },
  { "DELETE", "^/api/v1/sandbox/([^/]+)$", "delete" },
  { "GET", "^/api/v1/sandbox/([^/]+)/logs$", "logs" },
  { "POST", "^/api/v1/sandbox/([^/]+)/auth$", "auth" },
  { "GET", "^/api/v1/sandbox/([^/]+)/error%-context$", "context" },
  { "POST", "^/api/v1/sandbox/([^/]+)/expose$", "expose" },
  { "GET", "^/api/v1/sandbox/([^/]+)/expose$", "list_exposed" },
  { "DELETE", "^/api/v1/sandbox/([^/]+)/expose/", "unexpose" },
  { "POST", "^/api/v1/sandbox/background%-jobs/status:batchGet$", "jobs" },
  { "POST", "^/gw/ns/([^/]+)/exec$", "exec" },
  { "POST", "^/gw/ns/([^/]+)/upload$", "upload" },
  { "GET", "^/gw/ns/([^/]+)/download$", "download" },
  { "GET", "^/gw/ns/([^/]+)/read%-file$", "read" },
}

table.move(services.routes, 1, #services.routes, #routes + 1, routes)

local function find_route(method, path)
  for _, route in ipairs(routes) do
    local id = path:match(route[2])
    if route[1] == method and id then return route[3], id end
  end
end

---The object of a sandbox as the wire has it.
function api.object(id, fields)
  local object = {
    id = id, name = "demo", dockerImage = "python:3.11-slim", status = "RUNNING",
    cpuCores = 1, memoryGB = 2, diskSizeGB = 5, diskMountPath = "/sandbox-workspace",
    gpuCount = 0, vm = false, networkAccess = true, timeoutMinutes = 60,
    labels = json.array({}), createdAt = "2026-03-02T09:00:00Z",
    updatedAt = "2026-03-02T09:00:00Z", startedAt = json.null,
  }
  for name, value in pairs(fields or {}) do
    object[name] = value
  end
  return object
end

-- The usual answers, for handlers that add something to them.
local usual = services.usual
api.usual = usual

-- The same key makes one sandbox, however often it comes.
function usual.create(server, call)
  local key = call.body.idempotency_key
  if key and server.keys[key] then return 201, server.keys[key] end
  server.created = server.created + 1
  local id = "sbx-" .. server.created
  local object = api.object(id, {
    name = call.body.name,
    dockerImage = call.body.docker_image,
    networkAccess = call.body.network_access,
    networkAllowlist = call.body.network_allowlist,
    networkDenylist = call.body.network_denylist,
    labels = call.body.labels,
    status = "PENDING",
  })
  server.sandboxes[id] = object
  if key then server.keys[key] = object end
  return 201, object
end

function usual.get(server, call)
  local object = server.sandboxes[call.id]
  if not object then return 404, { detail = "Sandbox not found" } end
  object.status = "RUNNING"
  return 200, object
end

local function carries_all(object, wanted)
  local set = {}
  for _, label in ipairs(object.labels) do
    set[label] = true
  end
  for _, label in ipairs(wanted or {}) do
    if not set[label] then return false end
  end
  return true
end

function usual.list(server, call)
  local ids, found = {}, {}
  for id, object in pairs(server.sandboxes) do
    if carries_all(object, call.query.labels) then ids[#ids + 1] = id end
  end
  table.sort(ids)
  local page, size = tonumber(call.query.page[1]), tonumber(call.query.per_page[1])
  for i = (page - 1) * size + 1, math.min(page * size, #ids) do
    local object = server.sandboxes[ids[i]]
    object.status = "RUNNING"
    found[#found + 1] = object
  end
  return 200, {
    sandboxes = json.array(found), total = #ids, page = page, per_page = size,
    has_next = page * size < #ids,
  }
end

function usual.batch(server, call)
  local statuses, failed = {}, {}
  for _, id in ipairs(call.body.sandbox_ids) do
    local object = server.sandboxes[id]
    if object then
      object.status = "RUNNING"
      statuses[#statuses + 1] = { sandbox_id = id, status = object.status }
    else
      failed[#failed + 1] = { sandbox_id = id, code = "NOT_FOUND", message = "No such sandbox" }
    end
  end
  return 200, { statuses = json.array(statuses), errors = json.array(failed) }
end

function usual.delete(server, call)
  if not server.sandboxes[call.id] then return 404, { detail = "Sandbox not found" } end
  server.sandboxes[call.id] = nil
  return 200, { success = true, message = "Deleted" }
end

function usual.bulk_delete(server, call)
  local succeeded, failed = {}, {}
  for _, id in ipairs(call.body.sandbox_ids or {}) do
    if server.sandboxes[id] then
      server.sandboxes[id] = nil
      succeeded[#succeeded + 1] = id
    else
      failed[#failed + 1] = { sandbox_id = id, error = "not found" }
    end
  end
  return 200, {
    succeeded = json.array(succeeded), failed = json.array(failed), message = "done",
  }
end

function usual.auth(server, call)
  if not server.sandboxes[call.id] then return 404, { detail = "Sandbox not found" } end
  server.tokens = server.tokens + 1
  return 200, {
    token = "gateway-token-" .. server.tokens, gateway_url = server.gateway_url,
    user_ns = "ns", job_id = call.id, expires_at = time.iso(time.wall() + 600),
  }
end

function usual.logs() return 200, { logs = "boot ok\n" } end

function usual.context() return 200, { status = "RUNNING" } end

function usual.exec(_, call)
  return 200, { stdout = "ran: " .. call.body.command .. "\n", stderr = "", exit_code = 0 }
end

function usual.upload(server, call)
  local parts = {}
  call.request:form()
  while true do
    local bytes = call.request:read()
    if not bytes then break end
    parts[#parts + 1] = bytes
  end
  local path = call.query.path[1]
  server.files[path] = table.concat(parts)
  return 200, {
    success = true, path = path, size = #server.files[path],
    timestamp = "2026-03-02T09:06:00Z",
  }
end

function usual.download(server, call)
  local bytes = server.files[call.query.path[1]]
  if not bytes then return 404, { error = "file_not_found", message = "no file", code = 404 } end
  return 200, bytes
end

function usual.read(server, call)
  local status, bytes = usual.download(server, call)
  if status ~= 200 then return status, bytes end
  return 200, { content = bytes, size = #bytes }
end

function usual.jobs() return 404, { detail = "Not Found" } end

local function exposure(id, port, name, protocol)
  return {
    exposure_id = "exp-1", sandbox_id = id, port = port, name = name or json.null,
    protocol = protocol or "HTTP", url = "http://127.0.0.1:1/x/exp-1/", tls_socket = "",
    external_port = json.null, created_at = "2026-03-02T09:05:00Z",
  }
end

function usual.expose(_, call)
  return 200, exposure(call.id, call.body.port, call.body.name, call.body.protocol)
end

function usual.list_exposed()
  return 200, { exposures = json.array({ exposure("sbx-1", 8000) }) }
end

function usual.unexpose() return 200, { success = true, message = "ok" } end

local function answer(server, request, status, body, headers)
  if type(body) == "table" then body = json.encode(body) end
  local all = { ["content-type"] = "application/json" }
  for name, value in pairs(headers or {}) do
    all[name] = value
  end
  -- Like the local server it has no limits, unless a test is about them.
  if not server.limited then all["server"] = "sbxlua" end
  request:respond(status, all, body or "")
end

local function serve_one(server, request)
  server.last_path = request.raw_path
  local op, id = find_route(request.method, request.path)
  if not op then return answer(server, request, 404, { detail = "no such route" }) end
  server.counts[op] = (server.counts[op] or 0) + 1
  local call = {
    op = op, n = server.counts[op], id = id, request = request,
    query = request.query, headers = request.headers, path = request.raw_path,
  }
  if op ~= "upload" then
    local raw = request:read_all(64 * 1024 * 1024)
    call.bytes = raw
    if raw:find("^{") then call.body = json.decode(raw) end
  end
  server.calls[#server.calls + 1] = call
  local status, body, headers
  if server.handlers[op] then status, body, headers = server.handlers[op](call, server) end
  if status == api.HANG then
    server.hanging[#server.hanging + 1] = request
    return
  end
  if status == nil then
    status, body, headers = usual[op](server, call)
  end
  answer(server, request, status, body, headers)
end

local function accept_all(server)
  while true do
    local ok, request = pcall(server.listener.accept, server.listener)
    if not ok or not request then return end
    task.daemon(function()
      local done, err = pcall(serve_one, server, request)
      -- The peer may hang up at any time; that is what some tests are about. A
      -- plain error is a mistake in the test.
      if not done and type(err) == "string" then error(err, 0) end
    end)
  end
end

---Starts a server in the current scope. Closing it also ends what the test's
---clients own, as the end of a run would.
---@async
---@param handlers? table<string, fun(call: table, server: table): any, any, any>
function api.start(handlers)
  local server = setmetatable({
    handlers = handlers or {}, counts = {}, calls = {}, sandboxes = {}, files = {},
    hanging = {}, keys = {}, created = 0, tokens = 0, egress = {},
  }, Server)
  server.listener = http_server.listen({ host = "127.0.0.1", port = 0 })
  server.url = "http://127.0.0.1:" .. server.listener.port
  server.gateway_url = server.url .. "/gw"
  server.acceptor = task.daemon(accept_all, server)
  return server
end

---A client of this server.
function Server:client(options)
  local given = { api_key = api.KEY, base_url = self.url }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return sandbox.client(given)
end

---How many requests of this kind came.
function Server:count(op)
  return self.counts[op] or 0
end

---Adds a sandbox that nobody created.
function Server:add(id, fields)
  self.sandboxes[id] = api.object(id, fields)
  return id
end

function Server:__close()
  self.handlers = {}
  log.set_writer(function() end)
  local failures = run.finish()
  log.set_writer(nil)
  self.hanging = {}
  self.listener:close()
  assert(#failures == 0, tostring(failures[1]))
end

---A TCP server for answers that are none: `fn(bytes, n, stream)` gets what each
---connection sends first and returns what to write before it is cut.
---@async
function api.raw(fn)
  local listener = net.listen("127.0.0.1", 0)
  local raw = setmetatable({
    connections = 0,
    url = "http://127.0.0.1:" .. listener.port,
  }, { __close = function() listener:close() end })
  task.daemon(function()
    while true do
      local accepted, stream = pcall(listener.accept, listener)
      if not accepted or not stream then return end
      task.daemon(function()
        local closing <close> = stream
        raw.connections = raw.connections + 1
        local bytes = stream:read()
        local reply = fn(bytes or "", raw.connections, stream)
        if reply and reply ~= "" then stream:write(reply) end
        return closing
      end)
    end
  end)
  return raw
end

---A port on which nothing listens.
function api.dead_url()
  local listener = net.listen("127.0.0.1", 0)
  local url = "http://127.0.0.1:" .. listener.port
  listener:close()
  return url
end

---Calls `fn`, which must raise an error object; returns it.
function api.failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "expected a failure")
  assert(type(err) == "table" and err.kind, "expected an error object, got " .. tostring(err))
  return err
end

return api
