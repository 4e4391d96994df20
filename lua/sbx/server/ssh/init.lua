-- SSH into containers. The server speaks it itself, on a port of its own: a session is a
-- user name that is good for one sandbox, for one key, for some time. Nothing is needed in
-- the sandbox; what is asked for runs through its agent, as commands do.

local addresses = require("sbx.server.addresses")
local connection = require("sbx.server.ssh.connection")
local hash = require("sbx.hash")
local key = require("sbx.server.ssh.key")
local log = require("sbx.log")
local net = require("sbx.core.net")
local sync = require("sbx.sync")
local task = require("sbx.task")
local time = require("sbx.core.time")

local ssh = {}

local MAX_SESSIONS, MAX_PER_SANDBOX = 1000, 16
local MAX_CONNECTIONS, MAX_UNKNOWN, MAX_PER_SESSION = 256, 32, 16

---@class sbx.server.ssh.Session
---@field id string          the user's name
---@field exposure_id string
---@field record sbx.server.Sandbox
---@field expires_at number  seconds since 1970
---@field ttl integer
---@field blob? string       the key that opens it, in Base64
---@field connections table<sbx.Task, boolean>
---@field closed boolean
---@field timer sbx.Task  ends it when its time is over

---@class sbx.server.ssh.Options
---@field scope fun(): sbx.Scope  the server's
---@field folder? string   where the host's key is kept
---@field host? string     numeric address (default 127.0.0.1)
---@field name? string     how clients call that

---@class sbx.server.ssh.Sessions
---@field private options sbx.server.ssh.Options
---@field private by_id table<string, sbx.server.ssh.Session>
---@field private listener? sbx.Listener
---@field private key? string
---@field private opening table
---@field private connections integer
---@field private unknown table<sbx.Task, boolean>  connections that have proved nothing yet
local Sessions = {}
Sessions.__index = Sessions

---Listens from the first session on.
---@param options sbx.server.ssh.Options
---@return sbx.server.ssh.Sessions
function ssh.new(options)
  return setmetatable({
    options = options, by_id = {}, opening = sync.mutex("the SSH port"), connections = 0,
    unknown = {},
  }, Sessions)
end

-- --------------------------------------------------------------- the listener

local function serve(self, stream)
  local current = task.current()
  self.connections = self.connections + 1
  self.unknown[current] = true
  local ok, failure =
    pcall(connection.serve, self, stream, self.key, self.options.scope())
  self.connections = self.connections - 1
  self.unknown[current] = nil
  for _, session in pairs(self.by_id) do
    session.connections[current] = nil
  end
  task.checkpoint()
  if not ok then log.debug("an SSH connection failed", { error = failure }) end
end

local function size(list)
  local count = 0
  for _ in pairs(list) do
    count = count + 1
  end
  return count
end

local function accept_all(self)
  while true do
    local stream = self.listener:accept()
    if self.connections >= MAX_CONNECTIONS or size(self.unknown) >= MAX_UNKNOWN then
      stream:close()
    else
      self.options.scope():pspawn(serve, self, stream)
    end
  end
end

---@async
local function listen(self)
  local _ <close> = self.opening:lock()
  if self.listener then return end
  self.key = self.key or key.of_host(self.options.folder)
  self.listener = net.listen(self.options.host or "127.0.0.1", 0)
  self.options.scope():daemon(function()
    local _ <close> = self.listener
    accept_all(self)
  end)
end

-- --------------------------------------------------------------- the sessions

---Ends a session and cuts its connections; once more is harmless.
---@param session sbx.server.ssh.Session
function Sessions:close(session)
  if session.closed then return end
  session.closed = true
  self.by_id[session.id] = nil
  if session.timer ~= task.current() then session.timer:cancel("the SSH session has ended") end
  for running in pairs(session.connections) do
    running:cancel("the SSH session has ended")
  end
end

local function expire(self, session)
  task.sleep(session.ttl)
  self:close(session)
end

---Ends the sessions of a sandbox that has ended. Never waits.
---@param record sbx.server.Sandbox
function Sessions:forget(record)
  for _, session in pairs(self.by_id) do
    if session.record == record then self:close(session) end
  end
end

---Whether there is room for another session of this sandbox.
---@param record sbx.server.Sandbox
---@return string|nil problem
function Sessions:full(record)
  local all, own = 0, 0
  for _, session in pairs(self.by_id) do
    all = all + 1
    if session.record == record then own = own + 1 end
  end
  if own >= MAX_PER_SANDBOX then return MAX_PER_SANDBOX .. " SSH sessions of this sandbox" end
  if all >= MAX_SESSIONS then return MAX_SESSIONS .. " SSH sessions" end
  return nil
end

---Opens a session. Raises `unsupported` where this machine cannot speak SSH.
---@async
---@param record sbx.server.Sandbox
---@param ttl integer  seconds
---@return sbx.server.ssh.Session
function Sessions:open(record, ttl)
  listen(self)
  local session = {
    id = "ssh-" .. hash.random_hex(12), exposure_id = "exp-" .. hash.random_hex(16),
    record = record, ttl = ttl, expires_at = time.wall() + ttl, connections = {}, closed = false,
  }
  self.by_id[session.id] = session
  session.timer = self.options.scope():pspawn(expire, self, session)
  return session
end

---The session of that name in that sandbox, or nil.
---@param id string
---@param record sbx.server.Sandbox
---@return sbx.server.ssh.Session|nil
function Sessions:get(id, record)
  local session = self.by_id[id]
  return session and session.record == record and session or nil
end

---The session that this key opens, or nil.
---@param id string
---@param blob string  the key in Base64
---@return sbx.server.ssh.Session|nil
function Sessions:find(id, blob)
  local session = self.by_id[id]
  if not session or not session.blob or session.blob ~= blob then return nil end
  if session.record:ended() then return nil end
  return session
end

---Notes that the peer of this connection has proved that the key is its own.
---@param session sbx.server.ssh.Session
---@param running sbx.Task  the connection's, which `close` cancels
---@return sbx.server.ssh.Session|nil  nil when it has too many connections already
function Sessions:enter(session, running)
  if size(session.connections) >= MAX_PER_SESSION then return nil end
  session.connections[running] = true
  self.unknown[running] = nil
  return session
end

---Where clients connect.
---@return string host
---@return integer port
function Sessions:address()
  local options = self.options
  local at = options.host or "127.0.0.1"
  if not addresses.is_loopback(at) then at = options.name or at end
  return at, self.listener.port
end

return ssh
