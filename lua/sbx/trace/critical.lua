-- The critical path of a run: what the end of it had to wait for, from its end back to its
-- beginning. Where a task waited for another one, the path goes on in that one.

local critical = {}

local MOST_STEPS = 100000
local SAME = 0.0005 -- microseconds

---@class sbx.trace.Step
---@field task sbx.trace.Task
---@field what string     "runs", or what it waited for
---@field began number    microseconds
---@field ended number

-- The script's own task; of a command, whichever ended last.
local function last_task(data)
  local best
  for _, task in pairs(data.tasks) do
    if task.name == "script" then return task end
    local later = best and (task.ended or data.ended) - (best.ended or data.ended)
    if not best or later > 0 or later == 0 and task.id > best.id then best = task end
  end
  return best
end

-- The last of its waits that was over by `moment`: how many there are up to it.
local function waits_until(task, moment)
  local low, high = 0, #task.waits
  while low < high do
    local middle = (low + high + 1) // 2
    if task.waits[middle].ended <= moment + SAME then
      low = middle
    else
      high = middle - 1
    end
  end
  return low
end

local function requests_by_task(data)
  local by_task = {}
  for _, request in ipairs(data.requests) do
    local list = by_task[request.task]
    if not list then
      list = {}
      by_task[request.task] = list
    end
    list[#list + 1] = request
  end
  return by_task
end

-- What a wait for an answer was for.
local function label_of(wait, requests, ended)
  if wait.name ~= "http" then return wait.name end
  local low, high = 0, #(requests or {})
  while low < high do
    local middle = (low + high + 1) // 2
    if requests[middle].began <= wait.began + SAME then low = middle else high = middle - 1 end
  end
  local request = requests and requests[low]
  local is_within = request and (request.ended or ended) >= wait.ended - SAME
  return is_within and request.name or wait.name
end

-- Adds a step before those that there are.
local function add(steps, task, what, began, ended)
  if ended - began <= SAME then return end
  local first = steps[#steps]
  if first and first.task == task and first.what == what then
    first.began = began
    return
  end
  steps[#steps + 1] = { task = task, what = what, began = began, ended = ended }
end

---The steps of the critical path, from the beginning to the end.
---@param data sbx.trace.Data
---@return sbx.trace.Step[]
function critical.path(data)
  local task = last_task(data)
  if not task then return {} end
  local requests = requests_by_task(data)
  local steps = {}
  local moment = task.ended or data.ended
  local left = waits_until(task, moment)
  local taken = {} -- waits that the path went through already
  for _ = 1, MOST_STEPS do
    local wait = task.waits[left]
    if not wait then
      add(steps, task, "runs", task.began, moment)
      moment = math.min(moment, task.began)
      task = data.tasks[task.parent]
      if not task then break end
      left = waits_until(task, moment)
    else
      add(steps, task, "runs", wait.ended, moment)
      moment = math.min(moment, wait.ended)
      local other = data.tasks[wait.by]
      if other and other ~= task and not taken[wait] and other.began <= wait.at then
        taken[wait] = true
        add(steps, task, "runs", wait.at, moment)
        task, moment = other, math.min(moment, wait.at)
        left = waits_until(task, moment)
      else
        add(steps, task, label_of(wait, requests[task.id], data.ended), wait.began, moment)
        moment = math.min(moment, wait.began)
        left = left - 1
      end
    end
  end
  local path = {}
  for i = #steps, 1, -1 do
    path[#path + 1] = steps[i]
  end
  return path
end

return critical
