---@meta sbx.core.websocket

---@class sbx.core.websocket
local websocket = {}

---@class sbx.core.Websocket
local Websocket = {}

---A WebSocket on a dial whose server has agreed to one; the dial is taken over.
---Fields: label max_message (bytes) ping_interval close_timeout (seconds) bytes
---(what followed the server's answer).
---@param dial sbx.Dial
---@param options table
---@return sbx.core.Websocket
function websocket.attach(dial, options) end

---What a server must answer to this Sec-WebSocket-Key.
---@param key string
---@return string
function websocket.accept_for(key) end

---The next message; nil once closed.
---@async
---@return string|nil data
---@return "text"|"binary" kind
function Websocket:receive() end

---@async
---@param bytes string
---@param binary boolean
---@return boolean  false: nothing was sent, the text is not UTF-8
function Websocket:send(bytes, binary) end

---Seconds until the pong came.
---@async
---@return number
function Websocket:ping() end

---@async
---@param code integer
---@param reason string
---@return boolean confirmed  by the server, in time
function Websocket:close(code, reason) end

---Ends the connection at once.
function Websocket:drop() end

---@return boolean ended
---@return integer|nil code
---@return string|nil reason
function Websocket:status() end

return websocket
