---@meta sbx.core.trace
-- The trace of this run.

---@class sbx.core.trace
local trace = {}

---Begins a trace in a plain file, which is made anew with the mode 0600.
---@param path string
---@param clean fun(text: string): string  what names of tasks go through; does not wait
function trace.open(path, clean) end

---Adds an event, a JSON object as text without line feeds; nothing when there is no trace.
---@param json string
function trace.event(json) end

---Microseconds since the trace began; nil when there is none.
---@return number|nil
function trace.now() end

---Ends it. Raises what went wrong when it was written.
function trace.close() end

return trace
