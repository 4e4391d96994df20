-- One exposed port: a listener of its own, on the loopback address unless the server was
-- told otherwise, whose connections are carried through the agent to a port inside the
-- sandbox. The bytes pass as they are, so that WebSockets and any other protocol work.
--
-- Whoever can connect to the address can use it: that is what exposing means. The port of
-- its own keeps a page from sharing an origin with the API.

local addresses = require("sbx.server.addresses")
local hash = require("sbx.hash")
local json = require("sbx.json")
local net = require("sbx.core.net")
local task = require("sbx.task")
local text = require("sbx.server.text")
local time = require("sbx.core.time")

---@class sbx.server.Exposure
---@field id string
---@field opened number      monotonic seconds; orders them
---@field outer_port integer where it listens
---@field host string        the address or name for clients, as in a URL
---@field sandbox sbx.server.Sandbox
---@field port integer      inside the sandbox
---@field name string|nil
---@field protocol string   "HTTP" or "TCP"
---@field created_at number
---@field private listener table
---@field private scope sbx.Scope
---@field private open_connections integer
---@field private relays table<table, boolean>
---@field private closed boolean
local Exposure = {}
Exposure.__index = Exposure

local exposure = {}

local MAX_CONNECTIONS = 256
local CHUNK = 65536

local function copy(from, to)
  while true do
    local bytes = from:read(CHUNK)
    if not bytes then break end
    to:write(bytes)
  end
  to:shutdown()
end

-- A browser deserves to hear why nothing answers; it must have asked first, or
-- closing would take the answer away again.
local function answer_bad_gateway(stream, port)
  stream:read(CHUNK)
  local body = ("nothing answers on port %d inside the sandbox\n"):format(port)
  stream:write("HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    .. "Content-Length: " .. #body .. "\r\n\r\n" .. body)
  stream:shutdown()
end

-- Carries one connection to its end; either side may finish first.
local function relay(self, stream)
  local outside <close> = stream
  -- Accepted, but not seen by `close` when it cut what was connected.
  if self.closed then return end
  local box = self.sandbox.box
  local ok, inside = pcall(function()
    return box.agent:dial(self.port)
  end)
  if not ok then
    if self.protocol == "HTTP" and not self.closed then
      answer_bad_gateway(outside, self.port)
    end
    return
  end
  local _ <close> = setmetatable({}, {
    __close = function()
      inside:close()
    end,
  })
  task.scope(function(scope)
    scope:spawn(copy, outside, inside)
    scope:spawn(copy, inside, outside)
  end)
end

local function relay_and_count(self, stream)
  self.open_connections = self.open_connections + 1
  local current = task.current()
  self.relays[current] = true
  pcall(relay, self, stream)
  self.relays[current] = nil
  self.open_connections = self.open_connections - 1
end

local function accept_all(self)
  while not self.closed do
    local ok, stream = pcall(self.listener.accept, self.listener)
    if not ok or not stream then return end
    if self.open_connections >= MAX_CONNECTIONS then
      stream:close()
    else
      self.scope:pspawn(relay_and_count, self, stream)
    end
  end
end

---@class sbx.server.exposure.Options
---@field sandbox sbx.server.Sandbox
---@field port integer       inside
---@field name? string
---@field protocol string
---@field scope sbx.Scope    where its tasks belong
---@field id? string          of one that is opened again
---@field created_at? number  the same
---@field outer_port? integer  where it was; another one if that is taken
---@field at? {host: string, name?: string}  numeric address, and its name (default 127.0.0.1)

local LOOPBACK = "127.0.0.1"

local function listen(host, port)
  local ok, listener = pcall(net.listen, host, port or 0)
  return ok and listener or net.listen(host, 0)
end

-- How clients call the address.
local function name_of(at)
  if not at then return LOOPBACK end
  if addresses.is_loopback(at.host) then return addresses.in_url(at.host) end
  return addresses.in_url(at.name or at.host)
end

---Opens a listener and starts to serve it.
---@param options sbx.server.exposure.Options
---@return sbx.server.Exposure
function exposure.open(options)
  local listener = listen(options.at and options.at.host or LOOPBACK, options.outer_port)
  local created_at = options.created_at or time.wall()
  local self = setmetatable({
    id = options.id or "exp-" .. hash.random_hex(16),
    opened = time.now() + created_at - time.wall(),
    sandbox = options.sandbox,
    port = options.port,
    name = options.name,
    protocol = options.protocol,
    created_at = created_at,
    listener = listener,
    outer_port = listener.port,
    host = name_of(options.at),
    scope = options.scope,
    open_connections = 0,
    relays = {},
    closed = false,
  }, Exposure)
  self.acceptor = self.scope:pspawn(accept_all, self)
  return self
end

---Stops listening and cuts what is connected.
function Exposure:close()
  if self.closed then return end
  self.closed = true
  self.listener:close()
  self.acceptor:cancel("unexposed")
  for running in pairs(self.relays) do
    running:cancel("unexposed")
  end
end

---The object that the control plane answers with.
---@return table
function Exposure:view()
  local address = self.host .. ":" .. self.outer_port
  local is_tcp = self.protocol == "TCP"
  return {
    exposure_id = self.id,
    sandbox_id = self.sandbox.id,
    port = self.port,
    name = self.name == nil and json.null or self.name,
    protocol = self.protocol,
    url = "http://" .. address .. "/",
    tls_socket = "",
    external_port = is_tcp and self.outer_port or json.null,
    external_endpoint = is_tcp and address or json.null,
    created_at = text.timestamp(self.created_at),
  }
end

return exposure
