-- The time for cleaning up began with the first cancel that a task survived, and ran
-- on while the task only awaited tasks of its own: a later cancel found none left,
-- and finalizers were cut off at their first wait.

local loop = require("sbx.core.test")
local task = require("sbx.task")

-- Runs `work` for a second, and returns whether its finalizer could wait.
local function is_cleaned(work)
  local cleaned = false
  task.move_on(1, function()
    local _ <close> = setmetatable({}, {
      __close = function()
        task.sleep(1)
        cleaned = true
      end,
    })
    work()
  end)
  return cleaned
end

local function map_for(seconds)
  task.map({ seconds, seconds }, task.sleep)
end

test("cancel: each cancel that a task survives leaves the next its time to clean up", function()
  loop.set_virtual(true)
  local _ <close> = setmetatable({}, { __close = function() loop.set_virtual(false) end })
  for round = 1, 20 do
    assert(is_cleaned(function() map_for(60) end), "round " .. round)
  end
  map_for(60)
  assert(is_cleaned(function() map_for(60) end))
  task.timeout(60, function()
    for round = 1, 20 do
      assert(is_cleaned(function() map_for(60) end), "round " .. round)
    end
  end)
end)

test("cancel: but what one finalizer used up is not given to another", function()
  loop.set_virtual(true)
  local _ <close> = setmetatable({}, { __close = function() loop.set_virtual(false) end })
  local began, cleaned = task.now(), 0
  local function clean()
    map_for(4)
    task.sleep(1)
    cleaned = cleaned + 1
  end
  task.move_on(1, function()
    local _ <close> = setmetatable({}, { __close = clean })
    local _ <close> = setmetatable({}, { __close = clean })
    local _ <close> = setmetatable({}, { __close = clean })
    map_for(60)
  end)
  assert(cleaned == 2 and task.now() - began < 12, task.now() - began)
end)
