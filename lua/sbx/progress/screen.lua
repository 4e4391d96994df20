-- Bars on a terminal: they stand below the output and make way for it. Below them
-- stands the footer, if there is one, such as the line that a person is typing.
--
-- What is on the terminal at any time: the output, perhaps with an unfinished last
-- line, then one line for each of `drawn`, then the cursor in the first column; or,
-- with a footer, the cursor somewhere in that.

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
local cursor = { row = 1, column = 0 } -- the line among them that it is in; one more: below
local footer -- gives the lines below the bars, and the cursor's place in them
local late = false -- the terminal did not take the last drawing
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

local function live_lines(first, columns, room, label)
  local count = #bars - first + 1
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

-- From the first column below the last of so many lines to the cursor's place.
local function to_cursor(count, place)
  if place.row > count then return "" end
  local right = place.column > 0 and ("\27[%dC"):format(place.column) or ""
  -- Below the last line there is no row yet.
  return "\r" .. up(count - place.row) .. right
end

-- Puts `lines` in the place of what is drawn; `settled` ones stay above them. Where
-- the terminal takes nothing now, nothing changes, unless it is forced to. Returns
-- whether it did.
local function replace(settled, lines, place, force)
  local out = {}
  if #drawn > 0 then
    out[1] = "\r" .. up(cursor.row - 1)
  elseif #settled + #lines > 0 then
    out[1] = below_tail()
  end
  for _, text in ipairs(settled) do
    out[#out + 1] = text .. "\27[K\r\n"
  end
  for i, text in ipairs(lines) do
    local is_last = i == #lines and place.row <= #lines
    out[#out + 1] = text .. "\27[K" .. (is_last and "" or "\r\n")
  end
  -- Behind the end of the last line, or in the first column of the next row.
  if #drawn > #settled + #lines then
    out[#out + 1] = place.row <= #lines and "\r\n\27[J" .. up(1) or "\27[J"
  end
  if #settled > 0 and tail_above then
    tail_above = nil
    core.break_line()
  end
  out[#out + 1] = #lines == 0 and back_to_tail() or to_cursor(#lines, place)
  if not core.draw(table.concat(out), force) then return false end
  drawn, cursor = lines, place
  return true
end

-- The same, where what has settled are the first of the bars.
local function replace_bars(settled, lines, place, force)
  if not replace(settled, lines, place, force) then return end
  table.move(bars, #settled + 1, #bars + #settled, 1)
end

-- Adds the footer to the bars' lines; returns where the cursor is to be.
local function add_footer(lines, columns, below, row, column)
  local above = #lines
  table.move(below, 1, #below, above + 1, lines)
  return { row = above + row, column = math.min(column, columns - 1) }
end

local PART_OF_BARS = 2 -- with a footer: one part in so many rows

local function draw(force)
  last_drawing = time.now()
  -- While the terminal has not taken what was written before, nothing is drawn.
  if hidden > 0 then return end
  if not core.draw("", force) then
    late = true
    core.every(PERIOD)
    return
  end
  late = false
  local columns, rows = size()
  local label = label_cells(columns)
  local settled = settled_lines(columns, label)
  local room, below, row, column = math.max(rows - 1, 1), nil, nil, nil
  if footer then
    local most = #bars > #settled and math.max(rows // PART_OF_BARS, 1) or room
    below, row, column = footer(columns, most)
    room = math.max(room - #below, 1)
  end
  local lines = live_lines(#settled + 1, columns, room, label)
  local place = { row = #lines + 1, column = 0 }
  if below then place = add_footer(lines, columns, below, row, column) end
  local moved = place.row ~= cursor.row or place.column ~= cursor.column
  if #settled == 0 and columns == drawn_columns and not moved and same(lines, drawn) then return end
  drawn_columns = columns
  replace_bars(settled, lines, place, force)
end

-- Takes all away; bars that have ended leave their last line.
local function erase()
  local columns = size()
  local settled = settled_lines(columns, label_cells(columns))
  if #drawn > 0 or #settled > 0 then
    replace_bars(settled, {}, { row = 1, column = 0 }, true)
  end
end

local function stop_if_idle()
  if #bars == 0 and not late then core.every(nil) end
end

local function on_turn()
  turn = turn + 1
  draw()
  stop_if_idle()
end

local function on_output()
  if hidden == 0 then erase() end
  if #bars > 0 or footer then core.soon() end
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

---Puts lines below the bars, which are asked for whenever all is drawn; nil for none.
---@param fn nil|fun(columns: integer, most: integer): string[], integer, integer  at least one line and at most so many, none as wide as the terminal; the cursor's line, from 1, and column, from 0
function screen.set_footer(fn)
  if not fn and hidden == 0 then erase() end
  footer = fn
  if fn or #bars > 0 then core.soon() end
end

---What the footer would show has changed.
screen.refresh = core.soon

---Draws now.
function screen.draw()
  draw(true)
end

---Writes lines that stay, above the bars.
---@param lines string[]  none as wide as the terminal
function screen.leave(lines)
  if hidden == 0 then erase() end
  replace(lines, {}, { row = 1, column = 0 }, true)
  core.soon()
end

---Clears the terminal.
function screen.clear()
  if hidden > 0 then return end
  erase()
  tail_above = nil
  core.break_line()
  core.draw("\27[H\27[2J", true)
  core.soon()
end

---All that stood there is to be drawn anew, below what stands there now.
function screen.forget()
  drawn, cursor, tail_above = {}, { row = 1, column = 0 }, nil
  core.break_line()
  core.soon()
end

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
