-- WebSockets (RFC 6455), the client's side: the handshake, and messages after it.
-- Connections come from libcurl, frames from C; this is what a script sees.

local check = require("sbx.check")
local core = require("sbx.core.websocket")
local dial = require("sbx.core.dial")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local headers = require("sbx.http.headers")
local host = require("sbx.core.host")
local options = require("sbx.http.options")
local task = require("sbx.task")
local upgrade = require("sbx.http.upgrade")
local url = require("sbx.url")

---@class sbx.http.websocket
local websocket = {}

---@class sbx.http.WebSocketOptions
---@field headers? table<string, string|number|string[]>
---@field bearer? string               sent as `Authorization: Bearer …`
---@field protocols? string[]          subprotocols to offer, the best first
---@field timeout? number|false        seconds until it is open (default 30)
---@field connect_timeout? number|false  seconds for name, TCP and TLS (default 10)
---@field close_timeout? number        seconds for the server to confirm a close (default 5)
---@field ping_interval? number|false  seconds between pings that must be answered (default: none)
---@field max_message? integer         bytes of a message that may come in (default 16 MiB)
---@field unix? string                 path of a socket to connect to
---@field proxy? string|false          a URL, or false for none (default: the environment's)
---@field verify? boolean              the server's certificate (default true)
---@field ca_file? string              certificates to trust, PEM

local http = options.request

-- Option name → test, and what to say when it fails.
local OPTIONS = {
  protocols = { function(value) return type(value) == "table" end, "a list of names" },
  ping_interval = http.idle_timeout,
  close_timeout = {
    function(value) return type(value) == "number" and value > 0 and value <= 1e9 end,
    "seconds above 0",
  },
  max_message = http.max_body,
}
for _, name in ipairs {
  "headers", "bearer", "timeout", "connect_timeout", "unix", "proxy", "verify", "ca_file",
} do
  OPTIONS[name] = http[name]
end

local TIMEOUT, CONNECT_TIMEOUT, CLOSE_TIMEOUT = 30, 10, 5
local MAX_MESSAGE = 16 * 1024 * 1024

-- ------------------------------------------------------------------ a WebSocket

---@class sbx.WebSocket
---@field protocol? string      the subprotocol that the server chose
---@field url string            as it may be logged: without user and query
---@field close_code? integer   once closed: the server's code; 1005 without one, 1006 unless
---  the server said that it closes
---@field close_reason? string  the server's words with it
---@field private core sbx.core.Websocket
local WebSocket = {}
WebSocket.__name = "sbx.WebSocket"

---Sends a text, which must be UTF-8. Returns once the kernel has taken all of it.
---One task may send at a time.
---@async
---@param text string
function WebSocket:send(text)
  check.string(text, "text")
  local fits = self.core:send(text, false)
  if not fits then error("text: not UTF-8; send_binary takes any bytes", 2) end
end

---Sends bytes. Returns once the kernel has taken all of them.
---@async
---@param bytes string
function WebSocket:send_binary(bytes)
  check.string(bytes, "bytes")
  self.core:send(bytes, true)
end

---The next message; nil once either side has closed. Raises when the connection
---broke or the server broke the protocol. One task may receive at a time.
---@async
---@return string|nil data
---@return "text"|"binary" kind
function WebSocket:receive()
  return self.core:receive()
end

---An iterator over the messages that are left, for a generic `for`.
---@return async fun(): string|nil, "text"|"binary"
function WebSocket:messages()
  return function()
    return self.core:receive()
  end
end

---Asks the server for a sign of life.
---@async
---@return number seconds  until it came
function WebSocket:ping()
  return self.core:ping()
end

---Says that we close, and waits for the server to say the same, at most for
---`close_timeout`. What still comes in meanwhile is thrown away.
---@async
---@param code? integer   1000 to 1014 and 3000 to 4999 (default 1000)
---@param reason? string  UTF-8, at most 123 bytes
---@return boolean confirmed  by the server, in time
function WebSocket:close(code, reason)
  code = check.integer(code or 1000, "code", 1000, 4999)
  reason = check.string(reason or "", "reason")
  if #reason > 123 then error("reason: longer than 123 bytes", 2) end
  if not utf8.len(reason) then error("reason: not UTF-8", 2) end
  if not upgrade.may_close_with(code) then
    error(("code: %d is not for programs to send"):format(code), 2)
  end
  return self.core:close(code, reason)
end

-- At the end of a block that was left by an error nothing is waited for.
function WebSocket:__close(err)
  if err == nil then pcall(self.core.close, self.core, 1000, "") end
  self.core:drop()
end

function WebSocket:__tostring()
  return ("websocket (%s%s)"):format(self.url, self.core:status() and ", closed" or "")
end

check.methods(WebSocket, "ws")

function WebSocket:__index(name)
  local method = WebSocket[name]
  if method ~= nil then return method end
  if name ~= "close_code" and name ~= "close_reason" then return nil end
  local _, code, reason = self.core:status()
  return name == "close_code" and code or reason
end

-- -------------------------------------------------------------------- opening

---@class sbx.http.websocket.Target
---@field label string      for messages and logs
---@field address string    what libcurl is to connect to, as a URL
---@field authority string  of the Host header
---@field path string       with the query
---@field authorization? string

local function read_target(text, level)
  if type(text) ~= "string" or not text:find("^[Ww][Ss][Ss]?://") then
    error("url: expected ws://host… or wss://host…", level + 1)
  end
  local ok, parts = pcall(url.parse, text)
  if not ok then error("url: " .. tostring(parts), level + 1) end
  if parts.fragment then error("url: a WebSocket has no fragment (#…)", level + 1) end
  if parts.host:find("[^\33-\126]") then
    error("url: expected a host in ASCII (xn--…)", level + 1)
  end
  local secure = parts.scheme == "wss"
  local name = parts.host:find(":", 1, true) and "[" .. parts.host .. "]" or parts.host
  local usual = parts.port == (secure and 443 or 80)
  local authority = usual and name or name .. ":" .. parts.port
  local target = {
    label = ("%s://%s%s"):format(parts.scheme, authority, parts.path),
    address = ("%s://%s:%d/"):format(secure and "https" or "http", name, parts.port),
    authority = authority,
    path = parts.path .. (parts.query and "?" .. parts.query or ""),
  }
  if parts.user or parts.password then
    local words = (parts.user or "") .. ":" .. (parts.password or "")
    target.authorization = "Basic " .. hash.base64(words)
  end
  return target
end

local function read_protocols(list, level)
  for i, name in ipairs(list) do
    if type(name) ~= "string" or not name:find("^[%w!#$%%&'*+.^_`|~-]+$") then
      error(("protocols[%d]: expected a name without blanks and commas"):format(i), level + 1)
    end
  end
  return list
end

-- Says of a connection that could not be made what was to be opened on it.
local function raise_for(target, err)
  if not errors.is_error(err) or err.kind == "cancelled" then error(err, 0) end
  local before = "connect " .. (err.url or "")
  if err.message:sub(1, #before) == before then
    err.message = "websocket " .. target.label .. err.message:sub(#before + 1)
  end
  err.op, err.url, err.method = "websocket", target.label, nil
  error(err, 0)
end

---@async
local function connect(target, given, timeout)
  local connect_timeout = given.connect_timeout
  if connect_timeout == nil then connect_timeout = CONNECT_TIMEOUT end
  local ok, result = pcall(dial.open, {
    url = target.address,
    unix = given.unix,
    proxy = given.proxy == false and "" or given.proxy,
    ca_file = given.ca_file,
    verify = given.verify,
    timeout = timeout or nil,
    connect_timeout = connect_timeout or nil,
  })
  if not ok then raise_for(target, result) end
  return result
end

local function write_headers(target, given, level)
  local list, names = {}, {}
  headers.flatten(given.headers or {}, list, level + 1)
  for i = 1, #list, 2 do
    local name = list[i]:lower()
    if name == "upgrade" or name == "connection" or name:find("^sec%-websocket%-") then
      error("headers: " .. name .. " is set by the handshake", level + 1)
    end
    names[name] = true
  end
  local function add(name, value)
    if value and not names[name:lower()] then headers.append(list, name, value, level + 1) end
  end
  add("Host", target.authority)
  add("User-Agent", "sbxlua/" .. host.version)
  add("Authorization", given.bearer and "Bearer " .. given.bearer or target.authorization)
  return list
end

---Opens a WebSocket. Raises an error object as http.request does; one of kind
---`http` with `status` and `body` when the server refuses. As a `<close>` variable
---it is closed at the end of its block.
---@async
---@param text string  the URL, ws://… or wss://…
---@param given? sbx.http.WebSocketOptions
---@return sbx.WebSocket
function websocket.open(text, given)
  given = check.table(given or {}, "options")
  options.check(given, OPTIONS, 2)
  local target = read_target(text, 2)
  local protocols = read_protocols(given.protocols or {}, 2)
  local list = write_headers(target, given, 2)
  local timeout = given.timeout
  if timeout == nil then timeout = TIMEOUT end

  local start = task.now()
  local stream <close> = connect(target, given, timeout)
  local left = timeout and math.max(timeout - (task.now() - start), 0) or 1e9
  local done, protocol, rest =
    task.move_on(left, upgrade.ask, stream, target, list, protocols)
  if not done then
    errors.raise {
      kind = "timeout", code = "ETIMEDOUT", phase = "total", op = "websocket",
      url = target.label, retryable = true,
      message = ("websocket %s: timed out after %g s"):format(target.label, timeout),
    }
  end
  return setmetatable({
    protocol = protocol,
    url = target.label,
    core = core.attach(stream, {
      label = target.label,
      bytes = rest,
      max_message = given.max_message or MAX_MESSAGE,
      ping_interval = given.ping_interval or nil,
      close_timeout = given.close_timeout or CLOSE_TIMEOUT,
    }),
  }, WebSocket)
end

return websocket
