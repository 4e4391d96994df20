-- Those who joined one task were served last come, first served, and each one
-- that was cancelled looked through all that had come after it.

local task = require("sbx.task")

test("task: who joins is served in the order of coming, less those who left", function()
  local gate = task.waiter("the gate")
  local ended = task.spawn(gate.wait, gate)
  local order, joiners = {}, {}
  for i = 1, 7 do
    joiners[i] = task.pspawn(function()
      ended:join()
      order[#order + 1] = i
    end)
  end
  task.yield()
  for _, i in ipairs({ 1, 4, 7, 6 }) do -- the first, one in the middle, the last ones
    joiners[i]:cancel()
  end
  joiners[8] = task.spawn(function()
    ended:join()
    order[#order + 1] = 8
  end)
  task.yield()
  gate:wake()
  for _, each in ipairs(joiners) do
    each:pjoin()
  end
  assert(table.concat(order, " ") == "2 3 5 8", table.concat(order, " "))
end)
