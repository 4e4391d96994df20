-- Work of many tasks that travels together: while as many requests are in flight as
-- may be, what else is asked for gathers, and goes with the next one.
--
-- No task of its own: whoever finds a free place sends for all that wait. When it is
-- cancelled meanwhile, what it sent for others goes back in line, and one of them
-- takes over; so what is sent must bear to be sent twice.

local task = require("sbx.task")

local gather = {}

local MOMENT = 0.1 -- seconds that a request waits for more to go with it, in busy times:
local BUSY = 2 -- seconds after some have come together

---One thing that is asked for: `wanted` by so many tasks, of which `waiters` sleep;
---`done` with what became of it.
---@class sbx.sandbox.Gather.Entry
---@field id string
---@field done any
---@field private wanted integer
---@field private waiters table<table, boolean>

---@class sbx.sandbox.Gather
---@field most integer     entries in one request
---@field at_once integer  requests in flight
---@field private what string
---@field private send async fun(batch: sbx.sandbox.Gather.Entry[])
---@field private line sbx.sandbox.Gather.Entry[]  not in flight, oldest first
---@field private entries table<string, sbx.sandbox.Gather.Entry>  until they are done
---@field private running integer
---@field private gathering boolean  a request waits for more to go with it
---@field private busy_until number
local Gather = {}
Gather.__index = Gather

---`send(batch)` is to `finish` each entry of the batch, and raises nothing but being
---cancelled.
---@param options { what: string, most: integer, at_once: integer, send: async fun(batch: table[]) }
---@return sbx.sandbox.Gather
function gather.new(options)
  local self = {
    line = {}, entries = {}, running = 0, gathering = false, busy_until = -math.huge,
  }
  for name, value in pairs(options) do
    self[name] = value
  end
  return setmetatable(self, Gather)
end

---Asks for one more. Who does so has to `await` it. The same id twice is the same
---entry.
---@param id string
---@return sbx.sandbox.Gather.Entry
function Gather:enter(id)
  local entry = self.entries[id]
  if not entry then
    entry = { id = id, wanted = 0, waiters = {} }
    self.entries[id] = entry
    table.insert(self.line, entry)
  end
  entry.wanted = entry.wanted + 1
  return entry
end

---Tells what became of an entry; the first to say so is believed.
---@param entry sbx.sandbox.Gather.Entry
---@param done any
---@return boolean first
function Gather:finish(entry, done)
  if entry.done then return false end
  entry.done = done
  self.entries[entry.id] = nil
  for waiter in pairs(entry.waiters) do
    waiter:wake()
  end
  return true
end

-- There may be a place for the next request: somebody who waits has to send it.
local function pass_on(self)
  if self.running >= self.at_once then return end
  for _, entry in ipairs(self.line) do
    for waiter in pairs(entry.waiters) do
      entry.waiters[waiter] = nil
      if waiter:wake() then return end
    end
  end
end

-- A task that was cancelled wants it no more. What nobody wants is not sent, unless
-- a request for it is under way.
local function leave(self, entry)
  entry.wanted = entry.wanted - 1
  if entry.wanted > 0 or entry.done then return end
  for i, other in ipairs(self.line) do
    if other == entry then
      table.remove(self.line, i)
      self.entries[entry.id] = nil
      return
    end
  end
end

-- What a request was cut off from goes first next time.
local function put_back(self, batch)
  local line = {}
  for _, entry in ipairs(batch) do
    if not entry.done and entry.wanted > 0 then
      line[#line + 1] = entry
    elseif not entry.done then
      self.entries[entry.id] = nil
    end
  end
  self.line = table.move(self.line, 1, #self.line, #line + 1, line)
end

---@async
local function wait_for_more(self)
  if task.now() > self.busy_until or #self.line >= self.most then return end
  self.gathering = true
  local ok, err = pcall(task.sleep, MOMENT)
  self.gathering = false
  if not ok then error(err, 0) end
end

local function take(self)
  local batch = table.move(self.line, 1, math.min(self.most, #self.line), 1, {})
  self.line = table.move(self.line, #batch + 1, #self.line, 1, {})
  if #batch > 1 or self.running > 1 then self.busy_until = task.now() + BUSY end
  if #self.line > 0 then pass_on(self) end
  return batch
end

-- Sends one request for those who have waited longest.
---@async
local function lead(self, own)
  local batch = {}
  self.running = self.running + 1
  local ok, err = pcall(function()
    wait_for_more(self)
    batch = take(self)
    if #batch > 0 then self.send(batch) end
  end)
  self.running = self.running - 1
  if not ok then
    put_back(self, batch)
    leave(self, own)
  end
  pass_on(self)
  if not ok then error(err, 0) end
end

---Waits until it is known what becomes of the entry, and helps.
---@async
---@param entry sbx.sandbox.Gather.Entry
---@return any done
function Gather:await(entry)
  while not entry.done do
    if self.running < self.at_once and #self.line > 0 and not self.gathering then
      lead(self, entry)
    else
      local waiter = task.waiter(self.what)
      entry.waiters[waiter] = true
      local ok, err = pcall(waiter.wait, waiter)
      entry.waiters[waiter] = nil
      if not ok then
        leave(self, entry)
        error(err, 0)
      end
    end
  end
  return entry.done
end

return gather
