-- How a test ends as one that was not run.

local check = require("sbx.check")

local skip = {}

local Skip = {}

function Skip:__tostring()
  return "skipped: " .. self.reason
end

---@param reason string
function skip.raise(reason)
  check.string(reason, "reason", 3)
  error(setmetatable({ reason = reason }, Skip), 0)
end

---Why, or nil when `err` is something else.
---@param err any
---@return string|nil
function skip.reason_of(err)
  return getmetatable(err) == Skip and err.reason or nil
end

return skip
