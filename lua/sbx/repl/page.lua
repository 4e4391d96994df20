-- A page of the documentation as a terminal shows it: prose broken between words, rows
-- of tables as a term and what it means, without the marks that only make sense when
-- printed.

local width = require("sbx.cli.width")

local page = {}

local BOLD, PLAIN = "\27[1m", "\27[0m"
local INDENT = "    "

-- Links within the documentation are their words; others keep their address.
local function without_links(text)
  return (text:gsub("%[([^%]]+)%]%(([^)%s]+)%)", function(words, address)
    return address:find("^%a+://") and ("%s (%s)"):format(words, address) or words
  end))
end

local function add_wrapped(out, text, indent, cells)
  for _, line in ipairs(width.wrap(without_links(text), math.max(cells - #indent, 10))) do
    out[#out + 1] = indent .. line
  end
end

-- The cells of a row: none for the line below a table's head.
local function cells_of(row)
  if row:find("^|[%s|:-]+|$") then return {} end
  local found = {}
  for cell in row:sub(2):gsub("\\|", "\0"):gmatch("%s*([^|]-)%s*|") do
    if cell ~= "" then found[#found + 1] = (cell:gsub("%z", "|")) end
  end
  return found
end

local function add_row(out, row, cells)
  local found = cells_of(row)
  local term, meaning = table.remove(found, 1), table.concat(found, "  ")
  if not term then return end
  term, meaning = without_links(term), without_links(meaning)
  if width.of(term) + #"  " + width.of(meaning) <= cells then
    out[#out + 1] = meaning == "" and term or term .. "  " .. meaning
    return
  end
  add_wrapped(out, term, "", cells)
  add_wrapped(out, meaning, INDENT, cells)
end

-- What goes on in the next line: the text of a paragraph or an item.
local function is_prose(line)
  return line ~= "" and not line:find("^|") and not line:find("^#") and not line:find("^    ")
    and not line:find("^```") and not line:find("^[*-] ")
end

-- The paragraph or item that begins at `at`, and where it ends.
local function paragraph(lines, at)
  local last = at
  while lines[last + 1] and is_prose(lines[last + 1]) do
    last = last + 1
  end
  return table.concat(lines, " ", at, last), last
end

local function add_paragraph(out, text, cells)
  local mark, item = text:match("^([*-] )(.*)$")
  local first = #out + 1
  add_wrapped(out, item or text, mark and "  " or "", cells)
  if mark and out[first] then out[first] = mark .. out[first]:sub(3) end
end

---@param text string
---@param columns integer  of the terminal
---@param colour boolean
---@return string
function page.render(text, columns, colour)
  local lines, out = {}, {}
  for line in (text:gsub("\n*$", "\n")):gmatch("([^\n]*)\n") do
    lines[#lines + 1] = line
  end
  local cells = math.max(columns - 1, 20)
  local at, is_code = 1, false
  while lines[at] do
    local line = lines[at]
    local heading = line:match("^#+%s+(.*)$")
    if line:sub(1, 3) == "```" then
      is_code = not is_code
    elseif is_code then
      out[#out + 1] = INDENT .. line
    elseif heading then
      out[#out + 1] = colour and BOLD .. heading .. PLAIN or heading
    elseif line:find("^|") then
      add_row(out, line, cells)
    elseif line == "" or line:find("^    ") then
      out[#out + 1] = line
    else
      text, at = paragraph(lines, at)
      add_paragraph(out, text, cells)
    end
    at = at + 1
  end
  return table.concat(out, "\n")
end

return page
