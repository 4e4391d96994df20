-- The virtual clock of a test. A sleep, a deadline or a pause between two tries
-- takes no real time by it, however long it is.

local check = require("sbx.check")
local core = require("sbx.core.test")
local time = require("sbx.core.time")

local clocks = {}

---@class sbx.test.Clock
local Clock = {}
Clock.__index = Clock

---Moves the clock on by `seconds`: whatever is due until then happens, in its
---order, and goes on until it waits for something else. Needed only while
---something real is in progress, such as a listener that waits for callers;
---otherwise the clock moves on by itself.
---@async
---@param _ sbx.test.Clock
---@param seconds number
function Clock.advance(_, seconds)
  check.number(seconds, "advance", 0, 1e9)
  core.advance(seconds)
  core.advance(0) -- over when nothing is ready any more
end

---Seconds since the clock became virtual.
---@return number
function Clock:elapsed()
  return time.now() - self.start
end

---The clock of the test whose state this is.
---@param running table|nil
---@return sbx.test.Clock
function clocks.of(running)
  if not running then error("clock: no test is running", 3) end
  if not running.clock then
    core.set_virtual(true)
    running.clock = setmetatable({ start = time.now() }, Clock)
  end
  return running.clock
end

---The test has ended: the clock is the real one again.
function clocks.restore()
  core.set_virtual(false)
end

return clocks
