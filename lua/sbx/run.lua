-- What must happen at the end of a run, however it ends. The host calls
-- `finish` once the script is over; modules register what they have to undo.

local errors = require("sbx.errors")

local run = {}

local finalizers = {}

local Failure = {}

function Failure:__tostring()
  if errors.is_error(self.error) and self.error.kind == "cancelled" then
    return self.name .. ": cut off, the time for cleaning up is over"
  end
  return self.name .. ": " .. tostring(self.error)
end

---Registers `fn` for the end of the run. The last one registered runs first.
---@param fn async fun()  may wait and may raise; a failure stops no other one
---@param name? string    for the report of a failure
function run.defer(fn, name)
  if type(fn) ~= "function" then
    error("run.defer: expected a function, got a " .. type(fn), 2)
  end
  finalizers[#finalizers + 1] = { fn = fn, name = name or "finalizer" }
end

---Runs what was registered, the newest first, also what is registered
---meanwhile. A second call finds nothing left to do.
---@async
---@return { name: string, error: any }[]  the failures, in the order they came
function run.finish()
  local failures = {}
  while #finalizers > 0 do
    local finalizer = table.remove(finalizers)
    local ok, err = pcall(finalizer.fn)
    if not ok then
      local failure = { name = finalizer.name, error = err }
      failures[#failures + 1] = setmetatable(failure, Failure)
    end
  end
  return failures
end

return run
