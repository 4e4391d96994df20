---@meta sbx.core.screen
-- Tells one Lua function when to draw what stands on a terminal beside the output.

---@class sbx.core.screen
local core = {}

---From now on calls `fn("output", number)` before something is written to stdout
---(1) or stderr (2) where that is a terminal, and `fn("turn")` where it was asked for. It runs outside every
---task or within any: it cannot wait. What it writes itself is not announced.
---@param fn fun(what: "output"|"turn", number: integer)|nil  nil for nobody
function core.own(fn) end

---Asks for a "turn" every so many seconds of the real clock, without keeping the
---program alive; nil for no more.
---@param seconds number|nil
function core.every(seconds) end

---Asks for a "turn" once the tasks that are ready now have run.
function core.soon() end

---The unfinished last line of what was written to the terminal since the first
---call of any function here; nil when it is too long to be kept.
---@return string|nil
function core.tail() end

---Says that the owner has finished that line.
function core.break_line() end

---Writes to the terminal on stderr, after all output so far, and unannounced. False,
---and not written, where that output has not been taken yet. Never waits.
---@param bytes string
---@param force? boolean  write in any case
---@return boolean
function core.draw(bytes, force) end

return core
