-- Hands values from task to task, in order, each to exactly one receiver.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local queue = require("sbx.task.queue")

---@class sbx.channel
local channel = {}

---@class sbx.Channel
---@field capacity integer  how many values it holds for receivers to come
---@field count integer     how many it holds now
---@field closed boolean
---@field name? string
---@field private failure any       what it was closed with
---@field private values table      position → value; nil is a value
---@field private first integer     position of the oldest
---@field private senders sbx.task.Queue    each node has the `value` it brings
---@field private receivers sbx.task.Queue
local Channel = {}
Channel.__index = Channel
Channel.__name = "sbx.Channel"

---Makes a channel. Without a capacity a sender waits until its value is taken.
---@param capacity? integer  values it holds for receivers to come (default 0)
---@param name? string       for reports
---@return sbx.Channel
function channel.new(capacity, name)
  capacity = check.integer(capacity == nil and 0 or capacity, "capacity", 0)
  if name ~= nil then check.string(name, "name") end
  return setmetatable({
    capacity = capacity,
    count = 0,
    closed = false,
    name = name,
    values = {},
    first = 1,
    senders = queue.new(),
    receivers = queue.new(),
  }, Channel)
end

local function describe(self, action)
  if self.name then return action .. " channel '" .. self.name .. "'" end
  return action .. " a channel"
end

local function raise_closed(self)
  errors.raise {
    kind = "closed",
    op = "send",
    message = describe(self, "send to") .. ": it is closed",
    cause = self.failure,
  }
end

local function put(self, value)
  self.values[self.first + self.count] = value
  self.count = self.count + 1
end

-- Takes the oldest value, and lets the next waiting sender in.
local function take(self)
  local first = self.first
  local value = self.values[first]
  self.values[first] = nil
  self.first = first + 1
  self.count = self.count - 1
  local sender = self.senders:wake_first(true)
  if sender then put(self, sender.value) end
  return value
end

-- Hands the value over at once, if that can be. Returns whether it did.
local function offer(self, value)
  if self.receivers:wake_first(true, value) then return true end
  if self.count >= self.capacity then return false end
  put(self, value)
  return true
end

-- Takes a value at once, if there is one: true and the value.
local function poll(self)
  if self.count > 0 then return true, take(self) end
  local sender = self.senders:wake_first(true)
  if sender then return true, sender.value end
  return false
end

local function one_value(count, name)
  if count > 0 then error(name .. ": expected one value, got " .. count + 1, 3) end
end

---Hands `value`, which may be nil, to a receiver, or puts it into the channel.
---Waits until there is one, or room. Raises kind `closed` once it is closed, also
---while it waits; then nobody has got the value.
---@async
---@param value any
---@param ... nil  a channel takes one value at a time
function Channel:send(value, ...)
  one_value(select("#", ...), "send")
  core.checkpoint("send")
  if self.closed then raise_closed(self) end
  if offer(self, value) then return end
  if not self.senders:wait({ value = value }, describe(self, "send to")) then raise_closed(self) end
end

---The same without waiting: false when nobody waits for a value and there is no
---room for it. Raises kind `closed` once it is closed.
---@param value any
---@param ... nil  a channel takes one value at a time
---@return boolean sent
function Channel:try_send(value, ...)
  one_value(select("#", ...), "try_send")
  if self.closed then raise_closed(self) end
  return offer(self, value)
end

-- What a receiver of a closed and empty channel gets.
local function finish(self, ok, value)
  if not ok and self.failure ~= nil then error(self.failure, 0) end
  return ok, value
end

---Waits for the next value: `true` and the value; `false` once the channel is
---closed and empty. Raises the error that it was closed with, if any.
---@async
---@return boolean open
---@return any value
function Channel:receive()
  core.checkpoint("receive")
  local ok, value = poll(self)
  if ok or self.closed then return finish(self, ok, value) end
  return finish(self, self.receivers:wait({}, describe(self, "receive from")))
end

---The same without waiting: `false` also when there is no value at present.
---@return boolean received
---@return any value
function Channel:try_receive()
  local ok, value = poll(self)
  if not ok and self.closed then return finish(self, false) end
  return ok, value
end

---Iterates over the values until the channel is closed and empty: `for n, value
---in ch:items()`, where n counts from 1. Raises as `receive` does.
---@async
---@return async fun(): integer|nil, any
function Channel:items()
  local n = 0
  return function()
    local ok, value = self:receive()
    if not ok then return nil end
    n = n + 1
    return n, value
  end
end

---Closes the channel: who sends from now on, or waits to, gets an error of kind
---`closed`. Receivers still get what it holds, then `false`, or `err` raised if
---given. Later calls do nothing.
---@param err? any
function Channel:close(err)
  if self.closed then return end
  self.closed, self.failure = true, err
  self.receivers:wake_all(false)
  self.senders:wake_all(false)
end

function Channel:__close(err)
  self:close(err)
end

function Channel:__len()
  return self.count
end

function Channel:__tostring()
  local state = self.closed and "closed" or ("%d of %d"):format(self.count, self.capacity)
  return ("channel%s (%s)"):format(self.name and " '" .. self.name .. "'" or "", state)
end

-- --------------------------------------------------------------- for select

-- A channel in a `select` is received from.
Channel.__select = {
  try = function(self)
    local ok, value = poll(self)
    if ok then return true, true, value end
    if self.closed then return true, finish(self, false) end
    return false
  end,
  queue = function(self) return self.receivers end,
  node = function() return {} end,
  finish = finish,
  what = function(self) return describe(self, "receive from") end,
}

local Sending = {}
Sending.__name = "sbx.Channel.Sending"
Sending.__select = {
  try = function(case)
    if case.channel.closed then raise_closed(case.channel) end
    return offer(case.channel, case.value)
  end,
  queue = function(case) return case.channel.senders end,
  node = function(case) return { value = case.value } end,
  finish = function(case, taken)
    if not taken then raise_closed(case.channel) end
  end,
  what = function(case) return describe(case.channel, "send to") end,
}

---For `task.select`: the case that `value` is sent.
---@param value any
---@param ... nil  a channel takes one value at a time
---@return table
function Channel:sending(value, ...)
  one_value(select("#", ...), "sending")
  return setmetatable({ channel = self, value = value }, Sending)
end

check.methods(Channel, "channel")

return channel
