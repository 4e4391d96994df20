-- Values that a task hands down to all that it spawns.

local check = require("sbx.check")
local core = require("sbx.core.task")

local locals = {}

local Restore = {}

function Restore:__close()
  core.locals(self.before)
end

---Runs `fn(...)` and returns its results. In it, and in all tasks spawned there,
---`get(name)` has the values given here, beside those from further out.
---@async
---@param values table<any, any>
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return any ...
function locals.with(values, fn, ...)
  check.table(values, "with")
  check.fn(fn, "with")
  -- A new table: tasks that were spawned before keep theirs as it is.
  local merged = {}
  for name, value in pairs(core.locals() or {}) do
    merged[name] = value
  end
  for name, value in pairs(values) do
    merged[name] = value
  end
  local _ <close> = setmetatable({ before = core.locals(merged) }, Restore)
  return fn(...)
end

---The value that the nearest `with` around this, or around what spawned this
---task, has given the name; nil when none has.
---@param name any
---@return any
function locals.get(name)
  local values = core.locals()
  if values then return values[name] end
  return nil
end

return locals
