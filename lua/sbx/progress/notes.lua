-- Bars where there is no terminal: a line of the log now and then, and at the end.

local core = require("sbx.core.screen")
local line = require("sbx.progress.line")
local log = require("sbx.log")
local time = require("sbx.core.time")

local notes = {}

local PERIOD = 10 -- seconds between two lines of one bar
local LOOK = 1 -- seconds between two looks at bars that nobody moves

local running = {} -- bar → { when =, at =, said = } of its last line
local count = 0

local function note(bar)
  local fields = {
    done = line.counts(bar), percent = bar:percent(), state = bar.state, note = bar.said,
  }
  local rate, left = bar:rate(), bar:left()
  if rate then fields.rate = line.rate(rate, bar.unit) end
  if left then fields.left = line.duration(left) end
  if bar.state ~= "running" then
    fields.after = line.duration(bar:age())
    fields.reason = bar.reason
  end
  local failed = bar.state == "failed"
  log[failed and "warn" or "info"](bar.label, fields)
end

local function note_if_due(bar)
  local last = running[bar]
  local now = time.now()
  if not last or now - last.when < PERIOD then return end
  if last.at == bar.at and last.said == bar.said then return end
  running[bar] = { when = now, at = bar.at, said = bar.said }
  note(bar)
end

local function on_turn(what)
  if what ~= "turn" then return end
  local due = {}
  for bar in pairs(running) do
    due[#due + 1] = bar
  end
  table.sort(due, function(a, b) return a.opened < b.opened end)
  for _, bar in ipairs(due) do
    note_if_due(bar)
  end
end

---@param bar sbx.Bar
function notes.opened(bar)
  running[bar] = { when = time.now(), at = 0 }
  count = count + 1
  if count == 1 then
    core.own(on_turn)
    core.every(LOOK)
  end
end

notes.changed = note_if_due

---@param bar sbx.Bar
function notes.closed(bar)
  if not running[bar] then return end
  running[bar] = nil
  count = count - 1
  if count == 0 then core.own(nil) end
  note(bar)
end

---Nothing is drawn that would have to be looked after.
function notes.watch() end

---Nothing is drawn that would have to make room.
function notes.hide() end

---The same.
function notes.show() end

---Ends what still runs.
function notes.finish()
  local left = {}
  for bar in pairs(running) do
    left[#left + 1] = bar
  end
  table.sort(left, function(a, b) return a.opened < b.opened end)
  for _, bar in ipairs(left) do
    bar:finish("stopped")
  end
end

return notes
