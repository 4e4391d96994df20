-- A bar as one line of so many cells.

local time = require("sbx.time")
local width = require("sbx.cli.width")

local line = {}

local GAP = "  "
local LEAST_GRAPH, MOST_GRAPH = 10, 40
local GRAPH_SHARE = 4 -- one part in four of a line is the graph's
local LEAST_NOTE = 10
local SPINNER = { "|", "/", "-", "\\" }

-- ---------------------------------------------------------------------- numbers

local function with_unit(value, base, units)
  local power = 1
  while math.abs(value) >= base and power < #units do
    value, power = value / base, power + 1
  end
  local whole = value >= 100 or (power == 1 and value == math.floor(value))
  return (whole and "%.0f%s" or "%.1f%s"):format(value, units[power])
end

local BYTES = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" }

local function amount(value, unit)
  if unit == "bytes" then return with_unit(value, 1024, BYTES) end
  return math.tointeger(value) and ("%d"):format(value) or ("%.1f"):format(value)
end

---"42/100 files", "1.5MiB/64MiB", "42".
---@param bar sbx.Bar
---@return string
function line.counts(bar)
  local text = amount(bar.at, bar.unit)
  if bar.of then text = text .. "/" .. amount(bar.of, bar.unit) end
  if bar.unit and bar.unit ~= "bytes" then text = text .. " " .. bar.unit end
  return text
end

---"3.1/s", "1.5MiB/s".
---@param rate number
---@param unit? string
---@return string
function line.rate(rate, unit)
  if unit == "bytes" then return with_unit(rate, 1024, BYTES) .. "/s" end
  return with_unit(rate, 1000, { "", "k", "M", "G" }) .. "/s"
end

---Seconds for people, without parts of one beyond the first.
---@param seconds number
---@return string
function line.duration(seconds)
  if seconds < 1 then return "0s" end
  return time.format_duration(math.min(math.floor(seconds + 0.5), 1e9))
end

-- -------------------------------------------------------------------------- parts

local function graph(bar, cells)
  local inner = cells - 2
  local full = math.floor(bar:part() * inner)
  return "[" .. ("#"):rep(full) .. ("-"):rep(inner - full) .. "]"
end

local ENDS = { done = "in %s", failed = "failed after %s", cancelled = "cancelled after %s",
  stopped = "stopped after %s" }

local function ending(bar)
  local text = ENDS[bar.state]:format(line.duration(bar:age()))
  local more = bar.reason or bar.said
  return more and text .. ": " .. more or text
end

-- Name → text, all but the graph.
local function parts_of(bar, turn)
  local parts = { note = bar.said }
  if bar.of then
    parts.percent = ("%3d%%"):format(bar:percent())
  end
  if bar.of or bar.at > 0 then parts.counts = line.counts(bar) end
  if bar.state ~= "running" then
    parts.note = ending(bar)
    return parts
  end
  local rate, left = bar:rate(), bar:left()
  if rate then parts.rate = line.rate(rate, bar.unit) end
  if left then parts.left = "ETA " .. line.duration(left) end
  if not bar.of then
    parts.spinner = SPINNER[turn % #SPINNER + 1]
    parts.left = line.duration(bar:age())
  end
  return parts
end

local ORDER = { "label", "graph", "spinner", "percent", "counts", "rate", "left", "note" }
-- What goes first where there is too little room.
local EXPENDABLE = { "rate", "counts", "graph", "left", "spinner", "percent" }

local function cells_of(parts)
  local cells = 0
  for _, name in ipairs(ORDER) do
    local text = parts[name]
    if text then
      local wanted = width.of(text)
      if name == "note" then wanted = math.min(wanted, LEAST_NOTE) end
      cells = cells + wanted + (name == "label" and 0 or #GAP)
    end
  end
  return cells
end

local function make_room(parts, cells)
  for _, name in ipairs(EXPENDABLE) do
    if cells_of(parts) <= cells then return end
    parts[name] = nil
  end
end

-- Gives the note the room that is left.
local function use_room(parts, cells)
  if not parts.note then return end
  local wanted = width.of(parts.note)
  local left = math.max(cells - cells_of(parts), 0)
  parts.note = width.cut(parts.note, math.min(wanted, math.min(wanted, LEAST_NOTE) + left))
end

local COLOURS = { done = "32", failed = "31", cancelled = "33", stopped = "33" }

---The line of `bar`, at most `cells` wide.
---@param bar sbx.Bar
---@param cells integer
---@param options { label: integer, turn: integer, colour: boolean }  `label`: the cells of its column
---@return string
function line.text(bar, cells, options)
  local parts = parts_of(bar, options.turn)
  parts.label = width.pad(width.cut(bar.label, options.label), options.label)
  if parts.percent then
    -- Always as wide, so that it does not tremble while numbers grow.
    parts.graph = graph(bar, math.max(LEAST_GRAPH, math.min(cells // GRAPH_SHARE, MOST_GRAPH)))
  end
  make_room(parts, cells)
  use_room(parts, cells)
  local colour = options.colour and COLOURS[bar.state]
  if colour and parts.note then parts.note = "\27[" .. colour .. "m" .. parts.note .. "\27[0m" end
  local texts = {}
  for _, name in ipairs(ORDER) do
    texts[#texts + 1] = parts[name]
  end
  return table.concat(texts, GAP)
end

return line
