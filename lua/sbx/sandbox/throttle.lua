-- Patience with 429: pauses that grow while the server keeps refusing, are never
-- shorter than its `Retry-After`, and end at a total.

local observe = require("sbx.observe")
local task = require("sbx.task")
local log = require("sbx.log")

---@class sbx.sandbox.Throttle
---@field refusals integer  in a row
---@field private patience number
---@field private give_up number|nil  when patience ends
local Throttle = {}
Throttle.__index = Throttle

local throttle = {}

local FIRST_PAUSE = 0.2 -- seconds
local LONGEST_PAUSE = 60

---@param patience number  seconds after the first refusal, in all
---@return sbx.sandbox.Throttle
function throttle.new(patience)
  return setmetatable({ patience = patience, refusals = 0 }, Throttle)
end

---A number from 0.75 to 1.25 times `seconds`, so that tasks which were refused
---together do not come back together.
---@param seconds number
---@return number
function throttle.jitter(seconds)
  return seconds * (0.75 + math.random() / 2)
end

---Seconds until patience ends.
---@return number
function Throttle:left()
  return self.give_up and self.give_up - task.now() or self.patience
end

---Sleeps before the next try, or raises `err` when patience would end first.
---@async
---@param err sbx.Error  of a 429
function Throttle:pause(err)
  self.give_up = self.give_up or task.now() + self.patience
  self.refusals = self.refusals + 1
  local growing = FIRST_PAUSE * 2 ^ math.min(self.refusals - 1, 20)
  local seconds = throttle.jitter(math.min(growing, LONGEST_PAUSE))
  if err.retry_after then
    -- Nor do those come back together who were told the same.
    seconds = math.max(seconds, err.retry_after + math.random() * math.min(1, growing))
  end
  if seconds > self:left() then error(err, 0) end
  log.debug("throttled by the server", { op = err.op, pause = ("%.1f s"):format(seconds) })
  if observe.retry then observe.retry(err.op, err, seconds) end
  task.sleep(seconds)
end

---To be called after an answer that was no 429: only consecutive ones count.
function Throttle:reset()
  self.refusals = 0
  self.give_up = nil
end

return throttle
