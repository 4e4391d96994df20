-- The timeline of the fleet: what happened when, the newest kept.

local time = require("sbx.core.time")

---@class sbx.server.Events
---@field private list sbx.server.Event[]  from `first` to `last`
---@field private first integer
---@field private last integer
---@field private keep integer
---@field private state sbx.server.State
---@field private observer fun(event: sbx.server.Event)
local Events = {}
Events.__index = Events

local events = {}

local KEEP = 2000

---@param state sbx.server.State  where they are written too
---@param keep? integer           how many to hold in memory (default 2000)
---@return sbx.server.Events
function events.new(state, keep)
  return setmetatable({
    list = {}, first = 1, last = 0, keep = keep or KEEP, state = state, observer = function() end,
  }, Events)
end

local function push(self, event)
  self.last = self.last + 1
  self.list[self.last] = event
  event.number = self.last
  if self.last - self.first < self.keep then return end
  self.list[self.first] = nil
  self.first = self.first + 1
end

---Takes up those of earlier servers, oldest first.
---@param earlier sbx.server.Event[]
function Events:restore(earlier)
  for _, event in ipairs(earlier) do
    push(self, event)
  end
end

---Calls `fn` with each event that happens from now on. It must not wait.
---@param fn fun(event: sbx.server.Event)
function Events:observe(fn)
  self.observer = fn
end

---@param kind string  "created", "running", "ended", "adopted", "exposed", "unexposed", "started", "stopped"
---@param sandbox_id? string
---@param detail? string
function Events:add(kind, sandbox_id, detail)
  local event = { at = time.wall(), kind = kind, sandbox_id = sandbox_id, detail = detail }
  push(self, event)
  self.state:add_event(event)
  self.observer(event)
end

---The same for what is not worth the disk: "booting".
---@param kind string
---@param sandbox_id? string
function Events:note(kind, sandbox_id)
  local event = { at = time.wall(), kind = kind, sandbox_id = sandbox_id }
  push(self, event)
  self.observer(event)
end

---The numbers of the oldest event that is still there, and of the newest.
---@return integer first
---@return integer last  less than `first` when there are none
function Events:range()
  return self.first, self.last
end

---Those after the one numbered `after`, oldest first; each has its `number`.
---@param after? integer  (default 0)
---@return sbx.server.Event[]
function Events:since(after)
  local found = {}
  for number = math.max(self.first, (after or 0) + 1), self.last do
    found[#found + 1] = self.list[number]
  end
  return found
end

return events
