---@meta sbx.core.waiter
-- Where one task waits until another one wakes it, once.

---@class sbx.core.waiter
local core = {}

---@class sbx.core.Waiter
local Waiter = {}

---Suspends until `wake`, and returns what that was given; at once when it came
---before. One task at a time; after a wait that was cancelled another one raises.
---@async
---@return any ...
function Waiter:wait() end

---Wakes the waiter, once. False when it was woken before or nobody will take it.
---@return boolean
function Waiter:wake(...) end

---@param what string  for reports: what is waited for
---@return sbx.core.Waiter
function core.new(what) end

return core
