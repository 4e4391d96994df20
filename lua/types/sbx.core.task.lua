---@meta sbx.core.task
-- Tasks and scopes, as sbx.task builds on them.

---@class sbx.core.task
---@field task_methods table    methods of a Task, for sbx.task to add to
---@field scope_methods table   methods of a Scope
---@field scope_metatable table  its `end_forgotten` is called for what a task left open
local core = {}

---@class sbx.Scope
local Scope = {}

---Waits until every task in it has ended; daemons are cancelled once no other is
---left. A cancel does not end this wait, it ends the tasks.
---@async
---@return boolean waited  whether there was a task to wait for
function Scope:await() end

---Ends it. Raises when it is not the innermost scope of the running task.
function Scope:leave() end

---Cancels every task in it, and its owner's work inside it.
---@param reason? any  a string becomes part of the error's message
function Scope:cancel(reason) end

---Counts `err` as the failure of a task in it.
---@param err any
function Scope:fail(err) end

---The innermost scope that this task has opened inside it and not closed.
---@return sbx.Scope|nil
function Scope:inner() end

---Whether it has not ended.
---@return boolean
function Scope:is_open() end

---Whether the program's end has set its deadline.
---@return boolean
function Scope:is_bounded() end

---@return integer id
---@return boolean cancelled
---@return boolean timed_out
---@return any[]|nil errors  of its tasks; the task of errors[i] is errors[-i]
---@return any reason
---@return boolean cut  whether a task in it was cancelled before its end
function Scope:state() end

---Moves its deadline.
---@param seconds number  from now
function Scope:deadline(seconds) end

---Queues `fn(...)` as a task of `scope`; nil is the innermost one.
---@param scope sbx.Scope|nil
---@param protect boolean  its failure is delivered by join alone
---@param daemon boolean   cancelled, not awaited, at the scope's end
---@param fn async fun(...): ...
---@return sbx.Task
function core.spawn(scope, protect, daemon, fn, ...) end

---The running task, or nil outside.
---@return sbx.Task|nil
function core.current() end

---Opens a scope, which becomes the innermost one.
---@param shielded boolean  a cancel from outside does not reach in
---@param collects boolean  a failing task does not cancel the others
---@param seconds number|nil  until its deadline
---@return sbx.Scope
function core.open(shielded, collects, seconds) end

---The scope that the running task opened last and has not closed.
---@return sbx.Scope|nil
function core.innermost() end

---Lets the other ready tasks run.
---@async
function core.yield() end

---Raises `cancelled` if the task is; never suspends.
---@param what? string  what cannot wait, where nothing can
function core.checkpoint(what) end

---The table of inherited values that holds here, or nil. With an argument that is
---what this coroutine sets: it holds while the coroutine runs and for what it
---spawns, and what the coroutine had set before is returned.
---@param values? table|nil
---@return table|nil
function core.locals(values) end

---What lives: tasks, waits, active handles of the loop. For leak checks.
---@return { tasks: integer, waits: integer, handles: integer }
function core.stats() end

---Every task that has not ended, newest first.
---@return sbx.Task[]
function core.list() end

---What SIGINT, SIGTERM and SIGHUP cancel; nil for nothing.
---@param scope sbx.Scope|nil
function core.set_root(scope) end

---The time budget of finalizers in cancelled tasks, in seconds (default 10).
---@param seconds? number
---@return number
function core.cleanup_seconds(seconds) end

return core
