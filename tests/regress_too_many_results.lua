-- A task that returned as many values as a stack holds, while tasks of its own
-- went on, ended the program with a failed assertion.

local task = require("sbx.task")

test("task: one that returns too much fails, and awaits its own tasks", function()
  local ended, refused = 0, false
  for count = 999900, 1000000, 5 do
    local child = task.pspawn(function()
      task.spawn(function()
        local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
        task.yield()
      end)
      return table.unpack({}, 1, count)
    end)
    local fits, succeeded = pcall(child.pjoin, child)
    refused = refused or fits and not succeeded
  end
  assert(ended == 21 and refused)
end)
