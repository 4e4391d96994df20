---@meta sbx.core.time
-- The clocks, and sleeping.

---@class sbx.core.time
local time = {}

---Suspends the task. Raises `cancelled`.
---@async
---@param seconds number  0 to a billion
function time.sleep(seconds) end

---Seconds on a clock that never goes back; only differences mean much.
---@return number
function time.now() end

---Seconds since 1970.
---@return number
function time.wall() end

---RFC 3339 in UTC: "2026-01-31T12:00:00.250Z". Without `digits`, whole seconds have
---no fraction and others three digits.
---@param seconds? number  since 1970 (default: now); years 0 to 9999
---@param digits? integer  0 to 9
---@return string
function time.iso(seconds, digits) end

return time
