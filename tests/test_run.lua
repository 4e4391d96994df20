local run = require("sbx.run")
local task = require("sbx.task")

test("run: finalizers run in reverse, each in spite of the others", function()
  local order = {}
  run.defer(function() order[#order + 1] = "first" end)
  run.defer(function() error("broken", 0) end, "the middle one")
  run.defer(function()
    task.sleep(0.001)
    order[#order + 1] = "last"
    run.defer(function() order[#order + 1] = "late" end)
  end)
  local failures = run.finish()
  assert(table.concat(order, " ") == "last late first")
  assert(#failures == 1 and tostring(failures[1]) == "the middle one: broken")
  assert(#run.finish() == 0)
end)

test("run: misuse names the argument", function()
  local ok, err = pcall(run.defer, 5)
  assert(not ok and err:find("expected a function", 1, true))
end)
