---@meta sbx.core.lock
-- Locks between processes, on files.

---@class sbx.core.lock
local lock = {}

---As a `<close>` variable it is let go at the end of the block.
---@class sbx.fs.Lock
local Lock = {}

---Lets the next one have it. Twice is harmless.
function Lock:close() end

---One try. Makes the file where there is none, for its owner alone.
---@async
---@param path string
---@return sbx.fs.Lock|nil  nil while another one holds it
function lock.try(path) end

return lock
