-- What sleeps until a moment, and again for the rest of it, gets there on the virtual
-- clock too: the rest may be less than the nanosecond that the clock counts in.

local task = require("sbx.task")

test("a sleep of less than a nanosecond lets time pass", { clock = "virtual" }, function()
  local before = task.now()
  task.sleep(1e-12)
  assert(task.now() > before)
  for n = 1, 2000 do
    local goal, sleeps = task.now() + n / 7, 0
    while task.now() < goal do
      sleeps = sleeps + 1
      assert(sleeps < 10, "it does not get there")
      task.sleep(goal - task.now())
    end
  end
end)
