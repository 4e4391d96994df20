-- Bars on a terminal: they stand below the output and make way for it.
--
-- What is on the terminal at any time: the output, perhaps with an unfinished last
-- line, then one line for each of `drawn`, then the cursor in the first column.

local core = require("sbx.core.screen")
local host = require("sbx.core.host")
local inspect = require("sbx.inspect")
local line = require("sbx.progress.line")
local time = require("sbx.core.time")
local width = require("sbx.cli.width")

local screen = {}

local FD = 2
local PERIOD = 0.1 -- seconds between two drawings that nobody asked for
local LABEL_SHARE = 0.35 -- of a line, for the labels at most

local bars = {} -- in the order of opening; ended ones as long as one before them runs
local drawn = {} -- the lines that stand there
local hidden = 0 -- how often `hide` was called without `show`
local tail_above = nil -- the cells of an unfinished line of output just above the bars
local turn = 0
local last_drawing = -math.huge
local drawn_columns
local colour

local function up(count)
  return count > 0 and ("\27[%dA"):format(count) or ""
end

-- ------------------------------------------------------------------------- lines

local function size()
  local columns, rows = host.columns(FD)
  return columns or 80, (rows and rows > 0) and rows or 24
end

local function label_cells(columns)
  local cells = 0
  for _, bar in ipairs(bars) do
    cells = math.max(cells, width.of(bar.label))
  end
  return math.min(cells, math.floor(columns * LABEL_SHARE))
end

-- The last column stays free: some terminals wrap once it is written.
local function line_of(bar, columns, label)
  return line.text(bar, columns - 1, { label = label, turn = turn, colour = colour })
end

-- The lines, which will stay, of the bars that have ended and have no running one
-- before them.
local function settled_lines(columns, label)
  local lines = {}
  for i, bar in ipairs(bars) do
    if bar.state == "running" then break end
    lines[i] = line_of(bar, columns, label)
  end
  return lines
end

-- Which of the bars from `first` on are shown where there is room for so many
-- lines: running ones before ended ones. One line then tells of the others.
local function choose(first, room)
  local shown = {}
  for _, running in ipairs({ true, false }) do
    for i = first, #bars do
      if (bars[i].state == "running") == running and room > 1 then
        shown[i], room = true, room - 1
      end
    end
  end
  return shown
end

local function live_lines(first, columns, rows, label)
  local count, room = #bars - first + 1, math.max(rows - 1, 1)
  local shown = count > room and choose(first, room)
  local lines = {}
  for i = first, #bars do
    if not shown or shown[i] then lines[#lines + 1] = line_of(bars[i], columns, label) end
  end
  if shown then
    lines[#lines + 1] = width.cut(("... and %d more"):format(count - #lines), columns - 1)
  end
  return lines
end

local function same(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end

-- ----------------------------------------------------------------------- drawing

-- What an unfinished line of output needs before bars can stand below it.
local function below_tail()
  local tail = core.tail()
  if tail == "" then return "" end
  local cells = tail and not tail:find("%c") and utf8.len(tail) and width.of(tail)
  tail_above = cells and cells < size() and cells or nil
  if not tail_above then core.break_line() end
  return "\r\n"
end

-- Back to where the output broke off.
local function back_to_tail()
  if not tail_above then return "" end
  local right = tail_above > 0 and ("\27[%dC"):format(tail_above) or ""
  tail_above = nil
  return up(1) .. right
end

-- Puts `lines` in the place of what is drawn; `settled` ones stay above them. Where
-- the terminal takes nothing now, nothing changes, unless it is forced to.
local function replace(settled, lines, force)
  local out = {}
  if #drawn > 0 then
    out[1] = "\r" .. up(#drawn)
  elseif #settled + #lines > 0 then
    out[1] = below_tail()
  end
  for _, list in ipairs({ settled, lines }) do
    for _, text in ipairs(list) do
      out[#out + 1] = text .. "\27[K\r\n"
    end
  end
  if #drawn > #settled + #lines then out[#out + 1] = "\27[J" end
  if #settled > 0 and tail_above then
    tail_above = nil
    core.break_line()
  end
  if #lines == 0 then out[#out + 1] = back_to_tail() end
  if not core.draw(table.concat(out), force) then return end
  table.move(bars, #settled + 1, #bars + #settled, 1)
  drawn = lines
end

local function draw(force)
  last_drawing = time.now()
  -- While the terminal has not taken what was written before, nothing is drawn.
  if hidden > 0 or not core.draw("", force) then return end
  local columns, rows = size()
  local label = label_cells(columns)
  local settled = settled_lines(columns, label)
  local lines = live_lines(#settled + 1, columns, rows, label)
  if #settled == 0 and columns == drawn_columns and same(lines, drawn) then return end
  drawn_columns = columns
  replace(settled, lines, force)
end

-- Takes the bars away; those that have ended leave their last line.
local function erase()
  local columns = size()
  local settled = settled_lines(columns, label_cells(columns))
  if #drawn > 0 or #settled > 0 then replace(settled, {}, true) end
end

local function stop_if_idle()
  if #bars == 0 then core.every(nil) end
end

local function on_turn()
  turn = turn + 1
  draw()
  stop_if_idle()
end

local function on_output()
  if hidden == 0 then erase() end
  if #bars > 0 then core.soon() end
end

---Looks after the terminal from now on: what is written there before the first
---bar may leave a line unfinished.
function screen.watch()
  colour = inspect.has_colour(FD)
  core.own(function(what)
    if what == "output" then on_output() else on_turn() end
  end)
end

-- ------------------------------------------------------------------------ as sink

---@param bar sbx.Bar
function screen.opened(bar)
  bars[#bars + 1] = bar
  if #bars == 1 then core.every(PERIOD) end
  core.soon()
end

function screen.changed()
  if time.now() - last_drawing >= PERIOD then draw() end
end

function screen.closed()
  core.soon()
end

-- -------------------------------------------------------------------------- public

---Takes the bars away until `show`.
function screen.hide()
  if hidden == 0 then erase() end
  hidden = hidden + 1
end

function screen.show()
  if hidden == 0 then return end
  hidden = hidden - 1
  if hidden == 0 then core.soon() end
end

---Ends what still runs and leaves the last lines.
function screen.finish()
  for _, bar in ipairs(bars) do
    bar:finish("stopped")
  end
  hidden = 0
  draw(true)
  core.every(nil)
end

return screen
