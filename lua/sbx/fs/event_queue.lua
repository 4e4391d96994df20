-- What happened and was not asked for yet. Changes of one path that follow each
-- other are one event, also after its creation.

---@class sbx.fs.EventQueue
---@field private events sbx.fs.Event[]
---@field private first integer
---@field private last integer
---@field private latest table<string, sbx.fs.Event>  the last one for a path, if queued
local EventQueue = {}
EventQueue.__index = EventQueue

---@param event sbx.fs.Event
function EventQueue:push(event)
  local latest = self.latest[event.path]
  if event.kind == "change" and latest
    and (latest.kind == "change" or latest.kind == "create") then
    return
  end
  -- What is told of a path after that is about another file.
  if event.is_dir and event.kind == "rename" then self.latest = {} end
  if event.from then self.latest[event.from] = event end
  self.latest[event.path] = event
  self.last = self.last + 1
  self.events[self.last] = event
end

---The oldest event; there must be one.
---@return sbx.fs.Event
function EventQueue:pop()
  local event = self.events[self.first]
  self.events[self.first] = nil
  self.first = self.first + 1
  for _, name in ipairs({ event.path, event.from }) do
    if self.latest[name] == event then self.latest[name] = nil end
  end
  return event
end

---@return integer
function EventQueue:count()
  return self.last - self.first + 1
end

local event_queue = {}

---@return sbx.fs.EventQueue
function event_queue.new()
  return setmetatable({ events = {}, first = 1, last = 0, latest = {} }, EventQueue)
end

return event_queue
