-- What a bar knows: how far it is, how fast it goes, and how it ended. Where it is
-- shown is the business of its sink, which is told when it changes.

local check = require("sbx.check")
local errors = require("sbx.errors")
local log = require("sbx.log")
local time = require("sbx.core.time")

local MOST_TEXT = 200 -- bytes of a label or note

local SAMPLE = 0.5 -- seconds between two samples for the rate
local WINDOW = 20 -- samples that are kept: the rate is that of the last 10 s

---@class sbx.Bar
---@field label string
---@field unit? string
---@field at number        how much is done
---@field of? number       of how much, if that is known
---@field said? string     the note
---@field state "running"|"done"|"failed"|"cancelled"|"stopped"
---@field reason? string   why it failed
---@field opened number    on time.now()
---@field ended? number
local Bar = {}
Bar.__index = Bar
Bar.__name = "sbx.Bar"

local bar = {}

---@param options { label: string, total?: number, unit?: string }
---@param sink { changed: fun(bar: sbx.Bar), closed: fun(bar: sbx.Bar) }
---@return sbx.Bar
function bar.new(options, sink)
  local now = time.now()
  return setmetatable({
    label = log.clean(options.label, MOST_TEXT), unit = options.unit, sink = sink, at = 0,
    of = options.total, state = "running", opened = now, samples = { { when = now, at = 0 } },
  }, Bar)
end

-- ------------------------------------------------------------------------ speed

local function take_sample(self)
  local samples, now = self.samples, time.now()
  if now - samples[#samples].when < SAMPLE then return end
  samples[#samples + 1] = { when = now, at = self.at }
  if #samples > WINDOW then table.remove(samples, 1) end
end

---How much is done a second: lately while it runs, in all once it has ended; nil
---as long as nobody can tell.
---@return number|nil
function Bar:rate()
  local now = self.ended or time.now()
  local from = self.ended and { when = self.opened, at = 0 } or self.samples[1]
  local seconds, done = now - from.when, self.at - from.at
  if seconds < SAMPLE or done <= 0 then return nil end
  return done / seconds
end

---Seconds until it will be done at this rate; nil as long as nobody can tell.
---@return number|nil
function Bar:left()
  local rate = self:rate()
  if not rate or not self.of or self.at >= self.of then return nil end
  return (self.of - self.at) / rate
end

---Seconds since it was opened, until its end.
---@return number
function Bar:age()
  return (self.ended or time.now()) - self.opened
end

---The part that is done, from 0 to 1; nil where the total is not known.
---@return number|nil
function Bar:part()
  if not self.of then return nil end
  if self.of <= 0 then return 1 end
  return math.max(0, math.min(self.at / self.of, 1))
end

---The same in whole per cent; 100 only once it is all.
---@return integer|nil
function Bar:percent()
  if not self.of then return nil end
  if self.of <= 0 or self.at >= self.of then return 100 end
  return math.max(0, math.floor(self.at * 100 / self.of))
end

-- ---------------------------------------------------------------------- progress

local function changed(self)
  if self.state ~= "running" then return end
  take_sample(self)
  self.sink.changed(self)
end

---Says that `count` more is done.
---@param count? number  default 1
function Bar:advance(count)
  if count ~= nil then check.number(count, "count") end
  if self.state ~= "running" then return end
  self.at = self.at + (count or 1)
  changed(self)
end

---Says how much is done in all.
---@param done number
function Bar:set(done)
  check.number(done, "done")
  if self.state ~= "running" then return end
  self.at = done
  changed(self)
end

---Says of how much; nil if that is not known.
---@param total? number
function Bar:total(total)
  if total ~= nil then check.number(total, "total", 0) end
  if self.state ~= "running" then return end
  self.of = total
  changed(self)
end

---A few words beside the bar; nil for none.
---@param text? string
function Bar:note(text)
  if text ~= nil then text = log.clean(check.string(text, "note"), MOST_TEXT) end
  if self.state ~= "running" then return end
  self.said = text
  changed(self)
end

-- ------------------------------------------------------------------------ the end

---Ends it in `state`. What comes later does nothing.
---@param state "done"|"failed"|"cancelled"|"stopped"
---@param reason? string
function Bar:finish(state, reason)
  if self.state ~= "running" then return end
  self.ended = time.now()
  self.state = state
  self.reason = reason and log.clean(reason, MOST_TEXT)
  self.sink.closed(self)
end

---Ends it: all is done.
function Bar:done()
  self:finish("done")
end

---Ends it: it failed.
---@param reason? any  an error or a text
function Bar:fail(reason)
  if errors.is_error(reason) and reason.kind == "cancelled" then
    self:finish("cancelled")
    return
  end
  local ok, text = pcall(tostring, reason)
  self:finish("failed", reason ~= nil and ok and text or nil)
end

-- As a `<close>` variable it ends as its block does.
function Bar:__close(err)
  if err == nil then
    self:done()
  else
    self:fail(err)
  end
end

function Bar:__tostring()
  local of = self.of and "/" .. tostring(self.of) or ""
  return ("bar %s (%s%s, %s)"):format(self.label, tostring(self.at), of, self.state)
end

check.methods(Bar, "bar")

return bar
