-- A `__close` function that declares no parameter was not recognised as a
-- finalizer: its waits were cancelled at once.

local task = require("sbx.task")

test("a __close without parameters may wait while cancelled", function()
  local slept = false
  local done = task.move_on(0.02, function()
    local _ <close> = setmetatable({}, {
      __close = function()
        task.sleep(0.02)
        slept = true
      end,
    })
    task.sleep(1000)
  end)
  assert(not done and slept)
end)

test("a __close without parameters may wait in a cancelled generator", function()
  local slept = false
  local done = task.move_on(0.02, function()
    local wait = coroutine.wrap(function()
      local _ <close> = setmetatable({}, {
        __close = function(...)
          task.sleep(0.02)
          slept = select("#", ...) == 2
        end,
      })
      task.sleep(1000)
    end)
    wait()
  end)
  assert(not done and slept)
end)
