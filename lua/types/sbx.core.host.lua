---@meta sbx.core.host
-- Facts of this run, and what only the host can do.

---@class sbx.core.host
---@field version string
local host = {}

---The path of this program's file.
---@return string
function host.executable() end

---@param fd integer
---@return boolean
function host.isatty(fd) end

---The terminal's width in cells and its height, or nil.
---@param fd integer
---@return integer|nil columns, integer|nil rows
function host.columns(fd) end

---The bytes of the sandbox agent, a static program.
---@return string
function host.agent() end

---The bytes of the program that speaks SSH for the local server; "" where the build had
---no libssh.
---@return string
function host.ssh() end

---The bytes of a file of the library, of a page, or the source of a module; or nil.
---@param name string  "sbx/a/b.css", "docs/http.md", "sbx.http"
---@return string|nil
function host.file(name) end

---The names of all files in the binary that begin with `prefix`, sorted.
---@param prefix string
---@return string[]
function host.files(prefix) end

---What a second Ctrl-C says was left behind; "" for nothing.
---@param text string  at most about 1,000 bytes are kept
function host.set_abandoned(text) end

---Calls `fn(event, value)` for "signal" (its name), "interrupt" (see sbx.core.terminal), "deadlock" (returns the reason),
---"tree" (SIGQUIT) and "slow" (what held the loop). It runs outside every task, or
---inside whichever a signal interrupted: it cannot wait.
---@param fn fun(event: "signal"|"interrupt"|"deadlock"|"tree"|"slow", value: string|nil): string|nil
function host.observe(fn) end

---The number of the first signal of this run, if one came.
---@return integer|nil
function host.signal() end

---What os.exit was called with; nil before.
---@return integer|nil
function host.exit_status() end

---The innermost line of the script that a task is in: "script.lua:12".
---@param task sbx.Task
---@return string|nil
function host.place(task) end

---The end of the run does not wait for whoever reads our output.
function host.hurry() end

---Writes like print. Waits while a slow reader has much to catch up with; where the
---VM cannot suspend, it blocks.
---@async
---@param fd 1|2
---@param bytes string
function host.write(fd, bytes) end

return host
