---@meta sbx.core.test
-- What the test runner needs of the loop. The library's business, not a script's.

---@class sbx.core.test
local core = {}

---Makes the clock of tasks virtual, or real again: sleeps, deadlines, now, wall.
---A virtual one stands still while tasks run, passes as usual while something
---real is in progress, and jumps to the next timer when nothing else is left.
---@param on boolean
---@param wall? number  what the wall clock begins at (default: the present)
function core.set_virtual(on, wall) end

---Waits until the virtual clock has gone on by so much, which it does whenever no
---task is ready, whatever else is in progress.
---@async
---@param seconds number
function core.advance(seconds) end

---Seconds on the real monotonic clock.
---@return number
function core.now() end

---Waits so long on the real clock. Keeps nothing alive: a deadlock is still seen.
---A step that goes on when the time is over is interrupted, and what a signal would
---cancel is cancelled.
---@async
---@param seconds number
function core.guard(seconds) end

---The traceback of the step that a guard interrupted since the last call.
---@return string|nil
function core.struck() end

---Ready tasks run in an order that the seed determines; nil: first come first
---served again.
---@param seed integer|nil
function core.shuffle(seed) end

---A file that is what stdout was so far; descriptor 1 leads to stderr now.
---@return file*
function core.divert_stdout() end

return core
