-- From the tree of what is to be shown to text: on one line where that fits, else
-- an item a line, and short items of a list several a line.

local width = require("sbx.cli.width")

local layout = {}

local INDENT = "  "

local COLOURS = {
  string = "32", number = "36", literal = "33", special = "35", more = "2",
}

local function paint(text, style, colour)
  local code = colour and COLOURS[style]
  if not code then return text end
  return "\27[" .. code .. "m" .. text .. "\27[0m"
end

-- Gives numbers to the nodes that are shown more than once, in their order.
local function number_shared(node, count)
  if node.shared and not node.number then
    count = count + 1
    node.number = count
  end
  for _, item in ipairs(node.items or {}) do
    count = number_shared(item.node, count)
  end
  return count
end

local function mark_of(node)
  return node.number and ("<%d>"):format(node.number) or ""
end

-- The cells of every node when it stands on one line.
local function measure(node)
  if node.target then
    node.text = mark_of(node.target)
  end
  if not node.items then
    node.cells = width.of(node.text) + (node.more and width.of(node.more) or 0)
    return node.cells
  end
  node.before = mark_of(node) .. node.head .. "{"
  local cells = width.of(node.before) + #" " + #" }"
  for i, item in ipairs(node.items) do
    item.cells = measure(item.node) + (item.label and width.of(item.label) + #" = " or 0)
    cells = cells + item.cells + (i > 1 and #", " or 0)
  end
  if node.more then cells = cells + #", " + width.of(node.more) end
  node.cells = cells
  return cells
end

local function add_leaf(out, node, colour)
  table.insert(out, paint(node.text, node.style, colour))
  if node.more then table.insert(out, paint(node.more, "more", colour)) end
end

local function add_flat(out, node, colour)
  if not node.items then return add_leaf(out, node, colour) end
  table.insert(out, node.before .. " ")
  for i, item in ipairs(node.items) do
    if i > 1 then table.insert(out, ", ") end
    if item.label then table.insert(out, item.label .. " = ") end
    add_flat(out, item.node, colour)
  end
  if node.more then table.insert(out, ", " .. paint(node.more, "more", colour)) end
  table.insert(out, " }")
end

local function is_short_list(node)
  for _, item in ipairs(node.items) do
    if item.label or item.node.items or item.cells > 40 then return false end
  end
  return true
end

local add_node

local function add_filled(out, node, indent, cells, colour)
  local column = cells
  for _, item in ipairs(node.items) do
    if column + 1 + item.cells + 1 > cells then
      table.insert(out, "\n" .. indent)
      column = #indent
    else
      table.insert(out, " ")
      column = column + 1
    end
    add_leaf(out, item.node, colour)
    table.insert(out, ",")
    column = column + item.cells + 1
  end
end

local function add_lines(out, node, indent, cells, colour)
  for _, item in ipairs(node.items) do
    table.insert(out, "\n" .. indent)
    local used = #indent
    if item.label then
      table.insert(out, item.label .. " = ")
      used = used + width.of(item.label) + #" = "
    end
    add_node(out, item.node, indent, used, cells, colour)
    table.insert(out, ",")
  end
end

function add_node(out, node, indent, used, cells, colour)
  if not node.items or used + node.cells + #"," <= cells then return add_flat(out, node, colour) end
  table.insert(out, node.before)
  local inner = indent .. INDENT
  local add = is_short_list(node) and add_filled or add_lines
  add(out, node, inner, cells, colour)
  if node.more then table.insert(out, "\n" .. inner .. paint(node.more, "more", colour)) end
  table.insert(out, "\n" .. indent .. "}")
end

---@param node table
---@param cells integer   the width of a line
---@param colour boolean
---@return string
function layout.text(node, cells, colour)
  number_shared(node, 0)
  measure(node)
  local out = {}
  -- Nothing follows the outermost value: no comma.
  add_node(out, node, "", -1, cells, colour)
  return table.concat(out)
end

return layout
