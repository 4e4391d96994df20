-- What the tests of traces share: reads one as any program would, and checks that all in it
-- is paired and nested.

local fs = require("sbx.fs")
local json = require("sbx.json")

local support = {}

local EPSILON = 0.002 -- microseconds: what is written is rounded

-- Spans of one track, each within or outside of every other.
local function check_nesting(track, spans)
  table.sort(spans, function(a, b)
    if a.from ~= b.from then return a.from < b.from end
    return a.to > b.to
  end)
  local open = {}
  for _, span in ipairs(spans) do
    assert(span.from <= span.to + EPSILON, track .. ": ends before it begins: " .. span.name)
    while #open > 0 and open[#open].to <= span.from + EPSILON do
      table.remove(open)
    end
    local around = open[#open]
    if around and span.to > around.to + EPSILON then
      error(("%s: %s (%f to %f) overlaps %s (%f to %f)"):format(track, span.name, span.from,
        span.to, around.name, around.from, around.to))
    end
    open[#open + 1] = span
  end
end

local check = {}

function check.M(event) assert(event.args.name, "a name that is none") end

function check.B(event, state)
  local key = event.pid .. "/" .. event.tid
  assert(not state.open[key], key .. ": begins twice")
  state.open[key] = event
end

function check.E(event, state)
  local key = event.pid .. "/" .. event.tid
  local begin = assert(state.open[key], key .. ": ends, and never began")
  state.open[key] = nil
  state.add(key, begin.name, begin.ts, event.ts)
end

function check.X(event, state)
  assert(event.dur >= 0, event.name .. ": takes less than nothing")
  state.add(event.pid .. "/" .. event.tid, event.name, event.ts, event.ts + event.dur)
end

function check.b(event, state)
  local key = event.cat .. "/" .. event.id
  assert(not state.async[key], key .. ": begins twice")
  state.async[key] = event
end

function check.e(event, state)
  local key = event.cat .. "/" .. event.id
  local begin = assert(state.async[key], key .. ": ends, and never began")
  assert(begin.ts <= event.ts and begin.name == event.name, key .. ": does not fit")
  state.async[key] = nil
end

function check.i(event) assert(event.name and event.s == "t", "an instant that is none") end

---The events of a trace, checked. With `killed` some may not have ended.
---@async
---@param path string
---@param killed? boolean
---@return table[] events, table document, string text
function support.read(path, killed)
  local text = fs.read(path)
  local document = json.decode(text)
  local spans = {}
  local state = { open = {}, async = {} }
  function state.add(key, name, from, to)
    spans[key] = spans[key] or {}
    table.insert(spans[key], { name = name, from = from, to = to })
  end
  for _, event in ipairs(document.traceEvents) do
    local known = assert(check[event.ph], "an event of a kind that is not known")
    assert(math.type(event.pid) == "integer" and math.type(event.tid) == "integer")
    assert(event.ph == "M" or event.ts >= 0)
    known(event, state)
  end
  if not killed then
    assert(next(state.open) == nil, "a span never ends: " .. tostring(next(state.open)))
    assert(next(state.async) == nil, "a request never ends: " .. tostring(next(state.async)))
  end
  for key, list in pairs(spans) do
    check_nesting(key, list)
  end
  return document.traceEvents, document, text
end

---Those events that `wanted` has the fields of.
function support.find(events, wanted)
  local found = {}
  for _, event in ipairs(events) do
    local fits = true
    for name, value in pairs(wanted) do
      fits = fits and event[name] == value
    end
    if fits then found[#found + 1] = event end
  end
  return found
end

return support
