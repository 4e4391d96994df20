-- TCP and Unix sockets: connections are `sbx.Stream`s with read, lines, write,
-- shutdown and close; listeners have accept and close. All are `<close>` values.

local check = require("sbx.check")
local core = require("sbx.core.net")
local task = require("sbx.task")

require("sbx.stream")

---@class sbx.net
local net = {}

local function addresses_of(host)
  local literal = host:find(":", 1, true) or host:find("^%d+%.%d+%.%d+%.%d+$")
  return literal and { host } or core.resolve(host)
end

local function connect_any(host, port)
  local failure
  for _, address in ipairs(addresses_of(host)) do
    local ok, result = pcall(core.connect, address, port)
    if ok then return result end
    task.checkpoint() -- a cancellation ends the tries
    failure = failure or result
  end
  error(failure, 0)
end

---Connects to a TCP port; tries each address of the host in turn. Nagle's delay
---is off.
---@async
---@param host string  a name or a literal address
---@param port integer
---@param options? table  `timeout`: seconds for everything
---@return sbx.Stream
function net.connect(host, port, options)
  check.string(host, "host")
  check.integer(port, "port", 1, 65535)
  local timeout = check.options(options, { timeout = check.none }).timeout
  if not timeout then return connect_any(host, port) end
  return task.timeout(timeout, connect_any, host, port)
end

---Connects to a Unix socket.
---@async
---@param path string  at most 107 bytes
---@return sbx.Stream
function net.connect_unix(path)
  return core.connect_unix(check.string(path, "path"))
end

---Listens on a TCP port of the host's first address.
---@async
---@param host string   a name or a literal address; "0.0.0.0" means all of IPv4
---@param port integer  0 takes a free one: see `listener.port`
---@return sbx.Listener
function net.listen(host, port)
  check.string(host, "host")
  check.integer(port, "port", 0, 65535)
  return core.listen(addresses_of(host)[1], port)
end

---Listens on a Unix socket, which is removed when the listener closes.
---@param path string  at most 107 bytes; must not exist
---@return sbx.Listener
function net.listen_unix(path)
  return core.listen_unix(check.string(path, "path"))
end

---The addresses of a host, best first.
---@async
---@param host string
---@return string[]
function net.resolve(host)
  return addresses_of(check.string(host, "host"))
end

return net
