---@meta sbx.core.signal
-- Listening to signals, and sending them.

---@class sbx.core.signal
local signal = {}

---@class sbx.core.signal.Listener
local Listener = {}

---One task at a time. Nil once closed.
---@async
---@return integer|nil number
function Listener:wait() end

---Drops what has come and was not taken; again is harmless.
function Listener:close() end

---@param ... integer  1 to 64
---@return sbx.core.signal.Listener
function signal.listen(...) end

---@param pid integer  above 0
---@param number integer
function signal.send(pid, number) end

return signal
