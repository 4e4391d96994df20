-- First come, first served: the tasks that wait for what other tasks give. The
-- queue behind channels, locks and limits.
--
-- A node is one place in one queue: a table with the `waiter` of its task, and
-- what its owner keeps in it. A cancelled task's node leaves the queue before
-- its task goes on, and is passed over until then: nothing is given to it.

local waiters = require("sbx.core.waiter")

---@class sbx.task.Queue
---@field count integer  how many wait
---@field private head table|nil
---@field private tail table|nil
local Queue = {}
Queue.__index = Queue

local queue = {}

---@return sbx.task.Queue
function queue.new()
  return setmetatable({ count = 0 }, Queue)
end

---Appends `node`, which is in no queue.
---@param node table
function Queue:push(node)
  local tail = self.tail
  node.queue, node.before = self, tail
  if tail then
    tail.after = node
  else
    self.head = node
  end
  self.tail = node
  self.count = self.count + 1
end

---Takes `node` out. False when it is in this queue no more.
---@param node table
---@return boolean
function Queue:remove(node)
  if node.queue ~= self then return false end
  local before, after = node.before, node.after
  if before then
    before.after = after
  else
    self.head = after
  end
  if after then
    after.before = before
  else
    self.tail = before
  end
  node.queue, node.before, node.after = nil, nil, nil
  self.count = self.count - 1
  return true
end

---The node that has waited longest, or nil.
---@return table|nil
function Queue:first()
  return self.head
end

---Takes `node` out and gives the values to its task. A node of a `select` also
---tells which of its cases it is. False when the task takes nothing any more.
---@param node table
---@return boolean
function Queue:wake(node, ...)
  self:remove(node)
  if node.case then return node.waiter:wake(node.case, ...) end
  return node.waiter:wake(...)
end

---Gives the values to the one who has waited longest and takes them: returns its
---node, or nil when nobody waits.
---@return table|nil
function Queue:wake_first(...)
  local node = self.head
  while node do
    if self:wake(node, ...) then return node end
    node = self.head
  end
  return nil
end

---Gives the values to all that wait, and empties the queue.
function Queue:wake_all(...)
  while self:wake_first(...) do end
end

---Waits at the end of the queue: returns what the node was woken with. When the
---task is cancelled it leaves the queue, calls `left()` if given, and raises.
---@async
---@param node table   its `waiter` is made here
---@param what string  for reports: what is waited for
---@param left? fun()
---@return any ...
function Queue:wait(node, what, left)
  node.waiter = waiters.new(what)
  self:push(node)
  return self:finish(node, left, pcall(node.waiter.wait, node.waiter))
end

---@private
function Queue:finish(node, left, ok, ...)
  if ok then return ... end
  self:remove(node)
  if left then left() end
  error((...), 0)
end

return queue
