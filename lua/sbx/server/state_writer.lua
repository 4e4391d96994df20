-- Group commit: what is changed in one turn of the loop, and while the disk is busy
-- with the turn before, becomes one transaction. Who has to be sure waits for it.

local errors = require("sbx.errors")
local log = require("sbx.log")
local task = require("sbx.task")
local time = require("sbx.core.time")

-- Changes that go to the disk together.
---@class sbx.server.state.Batch
---@field changes table<string, table>  the last statement for each key
---@field appends table[]               statements in their order
---@field waiters sbx.core.Waiter[]     of those who wait for it

---@class sbx.server.state.Writer
---@field private database sbx.core.Database
---@field private pending sbx.server.state.Batch
---@field private flight? sbx.server.state.Batch  being written
---@field private bell? sbx.core.Waiter  of the task that writes, while it sleeps
---@field private failed? any    why the last attempt did not succeed
---@field private wipe? number   monotonic; when to clear the database's log of secrets
---@field private stopped boolean nothing is written in the background any more
---@field private closed boolean
local Writer = {}
Writer.__index = Writer

local writer = {}

-- How long until a failed write is tried again by itself.
local RETRY_SECONDS = 2
-- How long what was deleted may stay readable in the log of the database.
local WIPE_SECONDS = 20
local MAX_APPENDS = 10000

local function new_batch()
  return { changes = {}, appends = {}, waiters = {} }
end

local function is_empty(batch)
  return next(batch.changes) == nil and #batch.appends == 0
end

local function statements_of(batch)
  local list = {}
  for _, statement in pairs(batch.changes) do
    list[#list + 1] = statement
  end
  return table.move(batch.appends, 1, #batch.appends, #list + 1, list)
end

-- What could not be written is written with the next batch, unless that has
-- something newer.
local function put_back(self, batch)
  for key, statement in pairs(batch.changes) do
    self.pending.changes[key] = self.pending.changes[key] or statement
  end
  local appends = batch.appends
  table.move(self.pending.appends, 1, #self.pending.appends, #appends + 1, appends)
  if #appends > MAX_APPENDS then
    appends = table.move(appends, #appends - MAX_APPENDS + 1, #appends, 1, {})
  end
  self.pending.appends = appends
end

local function complain(self, failure)
  if tostring(self.failed) ~= tostring(failure) then
    log.error("the server's state cannot be written", { error = failure })
  end
end

local function write(self)
  local batch = self.pending
  self.pending, self.flight = new_batch(), batch
  local ok, failure = pcall(self.database.transaction, self.database, statements_of(batch))
  self.flight = nil
  if not ok then
    put_back(self, batch)
    complain(self, failure)
  end
  self.failed = not ok and failure or nil
  for _, waiter in ipairs(batch.waiters) do
    waiter:wake(ok, failure)
  end
  if not ok and errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
end

-- Moves the log into the file and empties it, so that no old page is left.
local function wipe(self)
  self.wipe = nil
  local ok, failure = pcall(self.database.run, self.database, "PRAGMA wal_checkpoint(TRUNCATE)")
  if ok then return end
  self.wipe = time.now() + WIPE_SECONDS
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
end

-- Sleeps until something changes; in trouble, or while something has to be wiped,
-- not for ever.
local function sleep(self)
  self.bell = task.waiter("changes to write")
  local seconds = self.failed and RETRY_SECONDS
    or self.wipe and math.max(0, self.wipe - time.now())
  if seconds then
    task.move_on(seconds, self.bell.wait, self.bell)
  else
    self.bell:wait()
  end
  self.bell = nil
end

local function write_all(self)
  while true do
    if is_empty(self.pending) or (self.failed and #self.pending.waiters == 0) then sleep(self) end
    -- Whoever is ready to run may have changes too.
    task.yield()
    if not is_empty(self.pending) then write(self) end
    if self.wipe and self.wipe <= time.now() then wipe(self) end
  end
end

-- Nobody waits for a task that has ended.
local function write_until_stopped(self)
  local _ <close> = setmetatable({}, {
    __close = function()
      self.stopped = true
      for _, waiter in ipairs(self.pending.waiters) do
        waiter:wake(false, "the server is stopping")
      end
    end,
  })
  write_all(self)
end

local function ring(self)
  if self.bell then self.bell:wake() end
end

---Writes in a daemon of the current scope.
---@param database sbx.core.Database  its alone until `close`
---@return sbx.server.state.Writer
function writer.new(database)
  local self = setmetatable({
    database = database, pending = new_batch(), stopped = false, closed = false,
  }, Writer)
  self.task = task.daemon(write_until_stopped, self)
  return self
end

---Notes a change. Of several for one key only the last is written. Never waits.
---@param key string
---@param statement table  `{sql, value...}`
function Writer:put(key, statement)
  if self.closed then return end
  self.pending.changes[key] = statement
  if not self.failed then ring(self) end
end

---Notes something to be written after the changes, in its order. Never waits.
---@param statement table
function Writer:append(statement)
  if self.closed then return end
  local appends = self.pending.appends
  if #appends < MAX_APPENDS then appends[#appends + 1] = statement end
  if not self.failed then ring(self) end
end

---Says that something secret was removed: soon no trace of it is in any file.
function Writer:forget_secrets()
  self.wipe = self.wipe or time.now() + WIPE_SECONDS
  ring(self)
end

local function unavailable(failure)
  errors.raise {
    kind = "unavailable",
    message = "the server's state cannot be written: " .. tostring(failure),
    cause = failure,
    retry_after = RETRY_SECONDS,
  }
end

---Waits until all that was noted is on the disk. Raises `unavailable` when it cannot
---be written; it stays noted and is tried again.
---@async
function Writer:sync()
  local batch = not is_empty(self.pending) and self.pending or self.flight
  if not batch then return end
  if self.stopped then unavailable("the server is stopping") end
  local waiter = task.waiter("the disk")
  batch.waiters[#batch.waiters + 1] = waiter
  ring(self)
  local ok, failure = waiter:wait()
  if not ok then unavailable(failure) end
end

---Writes what is left and stops. Raises what keeps it from the disk. Not cancelled
---meanwhile when its caller shields it.
---@async
function Writer:close()
  if self.closed then return end
  if not self.stopped then pcall(self.sync, self) end
  self.closed = true
  self.task:cancel("closed")
  self.task:pjoin()
  if not is_empty(self.pending) then write(self) end
  if self.wipe then wipe(self) end
  if self.failed then error(self.failed, 0) end
end

return writer
