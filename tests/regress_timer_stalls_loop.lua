local task = require("sbx.task")

test("timer: a task that a timer woke runs at once, though another timer is set", function()
  local ended = task.move_on(60, function()
    task.sleep(0)
    task.sleep(0.001)
  end)
  assert(ended)
end)
