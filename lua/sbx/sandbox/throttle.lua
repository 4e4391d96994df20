-- Patience with 429: pauses that grow while the server keeps refusing, are never
-- shorter than its `Retry-After`, and end at a total.

local task = require("sbx.task")
local log = require("sbx.log")

---@class sbx.sandbox.Throttle
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

---Sleeps before the next try, or raises `err` when patience would end first.
---@async
---@param err sbx.Error  of a 429
function Throttle:pause(err)
  local now = task.now()
  self.give_up = self.give_up or now + self.patience
  self.refusals = self.refusals + 1
  local growing = FIRST_PAUSE * 2 ^ math.min(self.refusals - 1, 20)
  local seconds = throttle.jitter(math.min(growing, LONGEST_PAUSE))
  seconds = math.max(seconds, err.retry_after or 0)
  if now + seconds > self.give_up then error(err, 0) end
  log.debug("throttled by the server", { op = err.op, pause = ("%.1f s"):format(seconds) })
  task.sleep(seconds)
end

---To be called after an answer that was no 429: only consecutive ones count.
function Throttle:reset()
  self.refusals = 0
  self.give_up = nil
end

return throttle
