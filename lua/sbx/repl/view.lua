-- What an editor shows: the rows of its text behind a prompt, and where the cursor
-- stands. Of a long text as much as there is room for, around the cursor.

local letters = require("sbx.repl.text")
local width = require("sbx.cli.width")

local view = {}

---@class sbx.repl.Prompt
---@field first string   before the first line
---@field other string   before the others, as wide

-- The rows of one line, and the place of the cursor if it is in it.
local function rows_of(lines, number, prompt, cells, at)
  local head = number == 1 and prompt.first or prompt.other
  head = width.prefix(head, math.max(cells - 2, 0))
  local rows, row, column = letters.wrap(lines[number], cells, width.of(head), at)
  rows[1] = head .. rows[1]
  return rows, row, column
end

local function put_before(rows, more)
  table.move(rows, 1, #rows, #more + 1)
  table.move(more, 1, #more, 1, rows)
end

---@param editor sbx.repl.Editor
---@param prompt sbx.repl.Prompt
---@param columns integer
---@param most integer  rows that there is room for
---@return string[] rows, integer row, integer column  the cursor's, from 1 and 0
function view.rows(editor, prompt, columns, most)
  local b = editor.buffer
  local cells = math.max(columns - 1, 2) -- some terminals wrap at the last column
  if editor.search then
    local search = editor.search
    local mark = search.failed and "(no match) " or "(search) "
    prompt = { first = mark .. letters.shown(search.query) .. ": ", other = prompt.other }
    prompt.first = width.cut(prompt.first, cells // 2)
  end
  local rows, row, column = rows_of(b.lines, b.row, prompt, cells, b.at)
  local above, below = b.row - 1, b.row + 1
  -- As much above the cursor as below, but no room is left empty.
  while #rows < most and (above >= 1 or below <= #b.lines) do
    if above >= 1 then
      local more = rows_of(b.lines, above, prompt, cells)
      put_before(rows, more)
      row, above = row + #more, above - 1
    end
    if below <= #b.lines and (#rows < most or above < 1) then
      local more = rows_of(b.lines, below, prompt, cells)
      table.move(more, 1, #more, #rows + 1, rows)
      below = below + 1
    end
  end
  if #rows > most then
    local first = math.max(1, math.min(row - most // 2, #rows - most + 1))
    rows = table.move(rows, first, first + most - 1, 1, {})
    row = row - first + 1
  end
  return rows, row, column
end

---All rows of a text, as it stays on the screen.
---@param text string
---@param prompt sbx.repl.Prompt
---@param columns integer
---@param most integer  lines: of a longer text its beginning and end
---@return string[]
function view.echo(text, prompt, columns, most)
  local lines, rows = {}, {}
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    lines[#lines + 1] = line
  end
  local cells = math.max(columns - 1, 2)
  local head, tail = #lines, #lines + 1
  if #lines > most then head, tail = most - 2, #lines end
  for number = 1, #lines do
    if number <= head or number >= tail then
      local more = rows_of(lines, number, prompt, cells)
      table.move(more, 1, #more, #rows + 1, rows)
    elseif number == head + 1 then
      rows[#rows + 1] = prompt.other .. ("... %d more lines"):format(tail - head - 1)
    end
  end
  return rows
end

return view
