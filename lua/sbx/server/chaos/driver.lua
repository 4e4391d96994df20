-- A driver under chaos: some images cannot be had, and some sandboxes die.

local errors = require("sbx.errors")
local task = require("sbx.task")

local driver = {}

-- All of `real`, with methods that are called on it, but for those of `own`.
local function over(real, own)
  return setmetatable(own, {
    __index = function(_, name)
      local value = real[name]
      if type(value) ~= "function" then return value end
      return function(_, ...)
        return value(real, ...)
      end
    end,
  })
end

-- A box that dies after `plan.death` seconds.
local function mortal(box, plan)
  local own = {}
  local listener, death, ended

  local function die(reason, error_type)
    if ended then return end
    ended = true
    death = { reason, error_type }
    if listener then listener(reason, error_type) end
  end
  local clock = task.pspawn(function()
    task.sleep(plan.death)
    die(plan.reason or "chaos ended it", plan.error_type)
  end)
  box:on_exit(die)

  function own.on_exit(_, fn)
    listener = fn
    if death then fn(death[1], death[2]) end
  end
  for _, name in ipairs { "kill", "release" } do
    if box[name] then
      own[name] = function()
        ended = true
        clock:cancel("the sandbox ended")
        return box[name](box)
      end
    end
  end
  return over(box, own)
end

---@param real sbx.server.Driver
---@param plan_of fun(): table  what happens to the next sandbox, as `Rules:sandbox` has it
---@return sbx.server.Driver
function driver.over(real, plan_of)
  local own = {}
  function own.create(_, spec)
    local plan = plan_of()
    if plan.boot then task.sleep(plan.boot) end
    if plan.image_pull then
      errors.raise {
        kind = "image_pull", message = ("image %s: chaos kept it from being pulled"):format(
          spec.image),
      }
    end
    local box = real:create(spec)
    return plan.death and mortal(box, plan) or box
  end
  return over(real, own)
end

return driver
