---@meta sbx.core.stock
-- What the Lua part of the replaced stock functions needs.

---@class sbx.core.stock
local stock = {}

---Our end of a new pipe, and the descriptor of the other one, for a child.
---@param mode "r"|"w"  what our end does
---@return file*, integer
function stock.pipe(mode) end

---Closes the descriptor that `pipe` gave.
---@param fd integer
function stock.close_fd(fd) end

---`fn(failed)` gives the results of `file:close()`, in the end; `failed` when an error
---ended the block of its `<close>` variable.
---@param file file*
---@param fn async fun(failed: boolean): ...
function stock.set_closer(file, fn) end

---A function that calls `slow` if its first argument names a file that may keep its
---reader waiting, or is absent and stdin does; else the C function `given`.
---@param given function
---@param slow async fun(...): ...
---@return async fun(...): ...
function stock.instead(given, slow) end

---io.popen and os.execute as C functions, which check the arguments for these.
---@param popen fun(text: string, mode?: string): file*|nil, string|nil
---@param execute async fun(text?: string): ...
---@return function popen, function execute
function stock.commands(popen, execute) end

---Hands over what is buffered, as far as nobody has to wait.
function stock.push() end

---Waits until all that was written to pipes and terminals is through.
---@async
function stock.drain() end

return stock
