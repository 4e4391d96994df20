-- Where the server keeps its sandboxes: in memory, in the order of creation. Ended ones
-- stay for those who ask later, but neither for ever nor without end.

local index = require("sbx.server.store_index")
local time = require("sbx.core.time")

---@class sbx.server.Store
---@field private by_id table<string, sbx.server.Sandbox>
---@field private index sbx.server.Index
---@field private numbers integer  of sandboxes that were ever added
---@field private ended sbx.server.Sandbox[]  in the order of their ends, from `first` to `last`
---@field private first integer
---@field private last integer
---@field private logged integer  the oldest of them whose log is kept
---@field private log_bytes integer  of the logs of ended ones
---@field private max_log_bytes integer
---@field private keep integer
---@field private keep_seconds number
---@field private on_forget fun(sandbox: sbx.server.Sandbox)
local Store = {}
Store.__index = Store

local store = {}

local KEEP = 20000
local KEEP_SECONDS = 7 * 24 * 3600
-- Of the log of one that has ended, and of all those together.
local MAX_ENDED_LOG, MAX_ENDED_LOGS = 65536, 64 * 1024 * 1024

---@class sbx.server.store.Options
---@field keep? integer         ended records to hold (default 20000)
---@field keep_seconds? number  how long at most (default a week)
---@field max_log_bytes? integer  of all logs of ended ones together (default 64 MiB)
---@field on_forget? fun(sandbox: sbx.server.Sandbox)  told of each that is dropped

---@param options? sbx.server.store.Options
---@return sbx.server.Store
function store.new(options)
  local opts = options or {}
  return setmetatable({
    by_id = {}, index = index.new(), numbers = 0,
    ended = {}, first = 1, last = 0, logged = 1, log_bytes = 0,
    max_log_bytes = opts.max_log_bytes or MAX_ENDED_LOGS,
    keep = opts.keep or KEEP,
    keep_seconds = opts.keep_seconds or KEEP_SECONDS,
    on_forget = opts.on_forget or function() end,
  }, Store)
end

local function drop_log(self, sandbox)
  self.log_bytes = self.log_bytes - sandbox.log_share
  sandbox.logs:trim(0)
end

local function forget_oldest(self)
  local sandbox = self.ended[self.first]
  self.ended[self.first] = nil
  if self.logged <= self.first then
    self.logged = self.first + 1
    drop_log(self, sandbox)
  end
  self.first = self.first + 1
  self.index:remove(sandbox)
  sandbox.index = nil
  self.by_id[sandbox.id] = nil
  self.on_forget(sandbox)
end

---Drops what ended too long ago.
function Store:expire()
  local oldest = time.wall() - self.keep_seconds
  while self.first <= self.last and (self.ended[self.first].terminated_at or 0) < oldest do
    forget_oldest(self)
  end
end

---Takes up a record that has not ended, or one from an earlier server.
---@param sandbox sbx.server.Sandbox
function Store:add(sandbox)
  self.by_id[sandbox.id] = sandbox
  self.numbers = self.numbers + 1
  sandbox.number, sandbox.index = self.numbers, self.index
  self.index:add(sandbox)
  if sandbox:ended() then self:retire(sandbox) end
end

---Told once of each record that has ended: from now on it may be dropped.
---@param sandbox sbx.server.Sandbox
function Store:retire(sandbox)
  self.last = self.last + 1
  self.ended[self.last] = sandbox
  sandbox.logs:trim(MAX_ENDED_LOG)
  sandbox.log_share = sandbox.logs.size
  self.log_bytes = self.log_bytes + sandbox.log_share
  while self.log_bytes > self.max_log_bytes and self.logged < self.last do
    drop_log(self, self.ended[self.logged])
    self.logged = self.logged + 1
  end
  while self.last - self.first >= self.keep do
    forget_oldest(self)
  end
end

---@param id any
---@return sbx.server.Sandbox|nil
function Store:get(id)
  return self.by_id[id]
end

---The sandboxes that a query means, newest first: those from `first` to `last` of them,
---and how many there are in all.
---@param query? sbx.server.Query  default: all
---@param first? integer
---@param last? integer
---@return sbx.server.Sandbox[] found
---@return integer total
function Store:list(query, first, last)
  return self.index:list(query or {}, first or 1, last or math.huge)
end

return store
