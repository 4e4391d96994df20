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

---RFC 3339 in UTC: "2026-01-31T12:00:00.250Z"; whole seconds have no fraction.
---@param seconds? number  since 1970 (default: now)
---@return string
function time.iso(seconds) end

return time
