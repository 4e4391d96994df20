---@meta sbx.core.net

-- TCP and Unix sockets. Addresses are literal here; `sbx.net` takes names too.

---@class sbx.core.net
local net = {}

---@class sbx.Listener
---@field port? integer  of a TCP listener
local Listener = {}

---@async
---@param address string  a literal IPv4 or IPv6 address
---@param port integer
---@return sbx.Stream
function net.connect(address, port) end

---@async
---@param path string  at most 107 bytes
---@return sbx.Stream
function net.connect_unix(path) end

---@param address string  a literal IPv4 or IPv6 address
---@param port integer  0 takes a free one
---@return sbx.Listener
function net.listen(address, port) end

---@param path string  at most 107 bytes; must not exist, and is removed at close
---@return sbx.Listener
function net.listen_unix(path) end

---@async
---@param name string
---@return string[] addresses  literal, best first
function net.resolve(name) end

---The next connection. Several tasks may wait; they are served in order.
---@async
---@return sbx.Stream
function Listener:accept() end

---Stops listening; who waits in `accept` gets EBADF. Again is harmless. The end
---of a `<close>` variable and the collector do the same.
function Listener:close() end

return net
