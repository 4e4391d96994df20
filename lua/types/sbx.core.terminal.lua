---@meta sbx.core.terminal
-- The terminal on standard input as a line editor needs it.

---@class sbx.core.terminal
local terminal = {}

---Makes it give each key at once and unechoed. Output is processed as ever.
---@return boolean  false where standard input is no terminal
function terminal.raw() end

---Whether Ctrl-C is a signal, which reaches a program that is busy, or a key, in its
---place among the others. A terminal that was just made raw sends signals.
---@param yes boolean
function terminal.signals(yes) end

---Gives it the modes from before; again is harmless. The end of the process does too.
function terminal.restore() end

---Stops this job, as Ctrl-Z does; returns once it goes on. A job that no shell could
---continue is not stopped.
function terminal.suspend() end

---What has been typed and not been read, without waiting.
---@return string
function terminal.take() end

---Whether SIGINT, in place of ending the program, is told to the observer as
---"interrupt", also while Lua code runs.
---@param yes boolean
function terminal.keep_on(yes) end

return terminal
