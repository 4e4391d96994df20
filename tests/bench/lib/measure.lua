-- Measures for the benchmarks: runs of one piece of work, one line for each.
-- Figures of one machine at one time; compare runs made side by side.

local task = require("sbx.task")

local measure = {}

---Does `work` once to warm up and five times by the clock, and prints the
---median time of one of its `count` operations, and how many go through in a
---second.
---@async
---@param name string
---@param count integer  operations that one call of `work` does
---@param work async fun()
function measure.run(name, count, work)
  work()
  local times = {}
  for i = 1, 5 do
    collectgarbage()
    local start = task.now()
    work()
    times[i] = (task.now() - start) / count
  end
  table.sort(times)
  local median = times[3]
  print(("%-44s %12.2f us %12.0f /s"):format(name, median * 1e6, 1 / median))
end

return measure
