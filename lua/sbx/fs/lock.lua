-- Locks between processes: one at a time, and none is left by a process that died.

local core = require("sbx.core.lock")
local task = require("sbx.task")

local lock = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05 -- seconds between two tries

---@async
---@param path string
---@return sbx.fs.Lock
function lock.hold(path)
  local pause = FIRST_PAUSE
  while true do
    local held = core.try(path)
    if held then return held end
    -- A random part of it, so that nobody is always the one who comes too late.
    task.sleep(pause * (0.5 + math.random()))
    pause = math.min(LONGEST_PAUSE, pause * 2)
  end
end

return lock
