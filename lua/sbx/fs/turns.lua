-- Lets other tasks run now and then, in a loop that seldom has to wait.

local task = require("sbx.task")

local LONGEST = 0.01 -- seconds until other tasks get their turn
local LOOKS = 64 -- calls between two looks at the clock

local turns = {}

---Returns a function to be called once in each round of the loop.
---@return async fun()
function turns.new()
  local count, since = 0, task.now()
  return function()
    count = count + 1
    if count < LOOKS then return end
    count = 0
    if task.now() - since < LONGEST then return end
    task.yield()
    since = task.now()
  end
end

return turns
