---@meta sbx.core.dial

-- Raw connections through libcurl: TLS, proxies and Unix sockets are behind them.

---@class sbx.core.dial
local dial = {}

---@class sbx.Dial
local Dial = {}

---Connects to where an HTTP request of that URL would go, through a proxy by a
---tunnel. Fields: url unix proxy ca_file verify timeout connect_timeout (seconds,
---0 is none). Raises what a request raises.
---@async
---@param options table
---@return sbx.Dial
function dial.open(options) end

---What has arrived, or nil at the end.
---@async
---@param max? integer  bytes (at most and by default 64 KiB)
---@return string|nil
function Dial:read(max) end

---Returns once the kernel has taken all. Cancelled in the middle it leaves the
---dial broken for writing.
---@async
---@param bytes string
function Dial:write(bytes) end

---Ends our side. Raises ENOTSUP over TLS.
function Dial:shutdown() end

---Ends both sides. Again is harmless. The end of a `<close>` variable and the
---collector do the same.
function Dial:close() end

return dial
