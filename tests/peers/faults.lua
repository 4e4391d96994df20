-- A sandbox API over plain TCP, for answers that no HTTP server gives: it can cut a
-- connection before, within and after any part of one. Loaded with dofile.
--
--   local server <close> = faults.start({ exec = function(n) return { cut = "head" } end })
--
-- A script is called with how often its operation came, and returns what happens:
--
--   { status = 503, body = table or text, headers = {} }   an answer
--   { cut = "close" }   the connection ends before the answer
--   { cut = "reset" }   the same by a reset
--   { cut = "head" }    within the head of the answer
--   { cut = "body" }    within its body
--   { hang = true }     nothing comes
--   nil                 what the API usually says

local json = require("sbx.json")
local net = require("sbx.core.net")
local reader = require("sbx.reader")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local time = require("sbx.core.time")

local faults = { KEY = "test-key-4711" }

local Server = {}
Server.__index = Server

local routes = {
  { "^POST /api/v1/sandbox$", "create" },
  { "^GET /api/v1/sandbox%?", "list" },
  { "^DELETE /api/v1/sandbox$", "bulk_delete" },
  { "^PUT /api/v1/sandbox/[^/]+/egress%-policy$", "set_egress" },
  { "^POST /api/v1/sandbox/[^/]+/auth$", "auth" },
  { "^POST /api/v1/sandbox/[^/]+/expose$", "expose" },
  { "^GET /api/v1/sandbox/[^/]+/error%-context$", "context" },
  { "^GET /api/v1/sandbox/[^/]+$", "get" },
  { "^DELETE /api/v1/sandbox/[^/]+$", "delete" },
  { "^POST /gw/ns/job/exec$", "exec" },
  { "^POST /gw/ns/job/upload%?", "upload" },
  { "^GET /gw/ns/job/download%?", "download" },
  { "^GET /gw/ns/job/read%-file%?", "read" },
}

local OBJECT = {
  id = "sbx-1", name = "demo", dockerImage = "x", status = "RUNNING", vm = false,
  networkAccess = true,
}

local usual = {
  create = function() return { status = 201, body = OBJECT } end,
  get = function() return { status = 200, body = OBJECT } end,
  list = function()
    return { status = 200, body = { sandboxes = json.array({ OBJECT }), has_next = false } }
  end,
  delete = function() return { status = 200, body = { success = true } } end,
  bulk_delete = function()
    return { status = 200, body = {
      succeeded = json.array({ "sbx-1" }), failed = json.array({}), message = "",
    } }
  end,
  set_egress = function() return { status = 200, body = { applied = true } } end,
  expose = function()
    return { status = 200, body = {
      exposure_id = "exp-1", sandbox_id = "sbx-1", url = "http://x/", tls_socket = "",
      port = 8000, name = json.null,
    } }
  end,
  context = function() return { status = 200, body = { status = "RUNNING" } } end,
  -- The connection ends, so that the next request has one of its own: on a kept one
  -- libcurl sends once more by itself what may run twice.
  auth = function(server)
    server.tokens = server.tokens + 1
    return { status = 200, headers = { ["Connection"] = "close" }, body = {
      token = "gateway-token-" .. server.tokens, gateway_url = server.gateway_url,
      user_ns = "ns", job_id = "job", expires_at = time.iso(time.wall() + 3600),
      is_vm = false,
    } }
  end,
  exec = function()
    return { status = 200, body = { stdout = "ok\n", stderr = "", exit_code = 0 } }
  end,
  upload = function()
    return { status = 200, body = {
      success = true, path = "/tmp/a", size = 5, timestamp = "2026-03-02T09:06:00Z",
    } }
  end,
  download = function() return { status = 200, body = "bytes" } end,
  read = function() return { status = 200, body = { content = "text", size = 4 } } end,
}

local function render(reply)
  local body = reply.body or ""
  if type(body) == "table" then body = json.encode(body) end
  local lines = { ("HTTP/1.1 %d Status"):format(reply.status or 200) }
  for name, value in pairs(reply.headers or {}) do
    lines[#lines + 1] = name .. ": " .. value
  end
  lines[#lines + 1] = "Server: sbxlua"
  lines[#lines + 1] = "Content-Length: " .. #body
  return table.concat(lines, "\r\n") .. "\r\n\r\n", body
end

-- Reads one request; leaves a byte of its body where that is wanted, so that closing
-- the connection resets it.
local function read_request(source, leave)
  local line = source:line()
  if not line or line == "" then return nil end
  local length, chunked = 0, false
  while true do
    local header = source:line()
    if not header then return nil end
    header = header:gsub("\r$", ""):lower()
    if header == "" then break end
    length = tonumber(header:match("^content%-length:%s*(%d+)")) or length
    chunked = chunked or header:find("^transfer%-encoding:%s*chunked") ~= nil
  end
  if chunked then
    while true do
      local size = tonumber((source:line():gsub("\r$", "")), 16)
      source:bytes(size + 2)
      if size == 0 then break end
    end
  elseif length > (leave and 1 or 0) then
    source:bytes(length - (leave and 1 or 0))
  end
  return (line:gsub(" HTTP/1%.1\r?$", ""))
end

local function op_of(line)
  for _, route in ipairs(routes) do
    if line:find(route[1]) then return route[2] end
  end
  error("faults: no route for " .. line, 0)
end

-- True when the connection goes on.
local function respond(server, stream, reply)
  if reply.hang then
    server.hanging[#server.hanging + 1] = stream
    task.sleep(3600)
  end
  if reply.cut == "close" or reply.cut == "reset" then return false end
  local head, body = render(reply)
  if reply.cut == "head" then
    stream:write(head:sub(1, 20))
    return false
  end
  if reply.cut == "body" then
    stream:write(head:gsub("(Content%-Length: )%d+", "%1" .. #body + 10) .. body)
    return false
  end
  stream:write(head .. body)
  return not (reply.headers and reply.headers["Connection"] == "close")
end

local function serve(server, stream)
  local _ <close> = stream
  local source = reader.new(function() return stream:read() end)
  while true do
    local line = read_request(source, server.leave)
    if not line then return end
    local op = op_of(line)
    server.counts[op] = (server.counts[op] or 0) + 1
    local script = server.scripts[op]
    local reply = script and script(server.counts[op]) or usual[op](server)
    if not respond(server, stream, reply) then return end
  end
end

---@async
function faults.start(scripts)
  local listener = net.listen("127.0.0.1", 0)
  local server = setmetatable({
    listener = listener, scripts = scripts or {}, counts = {}, tokens = 0, hanging = {},
    url = "http://127.0.0.1:" .. listener.port,
  }, Server)
  server.gateway_url = server.url .. "/gw"
  task.daemon(function()
    while true do
      local ok, stream = pcall(listener.accept, listener)
      if not ok or not stream then return end
      task.daemon(function()
        local done, err = pcall(serve, server, stream)
        if not done and type(err) == "string" then error(err, 0) end
      end)
    end
  end)
  return server
end

function Server:client(options)
  local given = { api_key = faults.KEY, base_url = self.url }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return sandbox.client(given)
end

---How many requests of an operation came.
function Server:count(op)
  return self.counts[op] or 0
end

function Server:__close()
  self.listener:close()
  for _, stream in ipairs(self.hanging) do
    stream:close()
  end
end

return faults
