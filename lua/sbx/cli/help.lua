-- The text that --help shows: an example first, then usage, then everything in
-- the order in which it was declared, wrapped to the terminal.

local spec = require("sbx.cli.spec")
local values = require("sbx.cli.values")
local width = require("sbx.cli.width")

local help = {}

local MOST_LEFT = 28 -- cells of the left column; wider entries get lines of their own
local GAP = 2

-- ------------------------------------------------------------------- one item

-- What stands for the value of an option or argument.
local function metavar(item)
  if item.metavar then return item.metavar end
  local kind = item.type or "string"
  if kind == "map" then return "KEY=VALUE" end
  if kind == "list" then kind = item.of or "string" end
  if kind == "choice" then
    local all = table.concat(item.choices, "|")
    if width.of(all) <= 20 then return all end
  end
  return values.metavars[kind] or spec.label(item):match("[^-]+$")
end

local function shows_negative(option)
  return option.default == true or (option.env ~= nil and option.default == nil)
end

local function left_of(option)
  local long = spec.long(option.name)
  if option.type == "flag" then
    if shows_negative(option) then long = "--[no-]" .. long:sub(3) end
  elseif option.secret then
    long = long .. "-file " .. (option.metavar or "FILE")
  else
    long = long .. " " .. metavar(option)
  end
  return (option.short and "-" .. option.short .. ", " or "    ") .. long
end

local function shown(value)
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  for key, one in pairs(value) do
    parts[#parts + 1] = math.type(key) == "integer" and tostring(one)
      or tostring(key) .. "=" .. tostring(one)
  end
  if #value == 0 then table.sort(parts) end
  return table.concat(parts, ",")
end

-- What is worth knowing besides the sentence: "(default 10, 1 to 99, env COUNT)".
local function facts_of(item)
  local facts = {}
  local function add(...)
    table.insert(facts, table.concat({ ... }))
  end
  local default = item.default
  if item.required then add("required") end
  if item.choices and metavar(item) ~= table.concat(item.choices, "|") then
    add(values.listed(item.choices))
  end
  if default ~= nil and default ~= false and shown(default) ~= "" then
    add("default ", item.type == "flag" and "yes" or shown(default))
  end
  if values.range(item) then add(values.range(item)) end
  if item.type == "list" or item.type == "map" then add("may be repeated") end
  if item.env then add("env ", item.env) end
  return #facts > 0 and "(" .. table.concat(facts, item.choices and "; " or ", ") .. ")" or ""
end

local function right_of(item)
  local text, facts = item.help or "", facts_of(item)
  return text ~= "" and facts ~= "" and text .. " " .. facts or text .. facts
end

-- -------------------------------------------------------------------- sections

-- Collects entries { left, right } into sections by the group of each.
local function sections_of(items, default_title, left, right)
  local order, by_title = {}, {}
  for _, item in ipairs(items or {}) do
    if not item.hidden then
      local title = item.group or default_title
      if not by_title[title] then
        by_title[title] = { title = title }
        table.insert(order, by_title[title])
      end
      table.insert(by_title[title], { left(item), right(item) })
    end
  end
  return order
end

local function left_of_argument(argument)
  return spec.label(argument) .. (argument.many and "..." or "")
end

local function own_help(chain, h_is_free)
  local entries = { { (h_is_free and "-h, " or "    ") .. "--help", "show this" } }
  if #chain == 1 and chain[1].version then
    table.insert(entries, { "    --version", "show the version" })
  end
  return entries
end

local function add_own_help(sections, chain)
  local scope = spec.scope(chain[1])
  for i = 2, #chain do
    scope = spec.enter(scope, chain[i])
  end
  local section
  for _, candidate in ipairs(sections) do
    if candidate.title == "options" then section = candidate end
  end
  if not section then
    section = { title = "options" }
    table.insert(sections, section)
  end
  for _, entry in ipairs(own_help(chain, scope.words["-h"].help == true)) do
    table.insert(section, entry)
  end
end

local function all_sections(chain)
  local level = chain[#chain]
  local list = {}
  local function append(sections)
    table.move(sections, 1, #sections, #list + 1, list)
  end
  append(sections_of(level.arguments, "arguments", left_of_argument, right_of))
  local options = sections_of(level.options, "options", left_of, right_of)
  add_own_help(options, chain)
  append(options)
  for i = #chain - 1, 1, -1 do
    if chain[i + 1].apart then break end
    append(sections_of(chain[i].options, "options of " .. chain[i].name, left_of, right_of))
  end
  append(sections_of(level.commands, "commands",
    function(command) return command.name end,
    function(command) return command.summary or "" end))
  return list
end

local function left_cells(sections, cells)
  local left = 0
  for _, section in ipairs(sections) do
    for _, entry in ipairs(section) do
      local wanted = width.of(entry[1])
      if wanted <= math.min(MOST_LEFT, cells // 2 - GAP) then left = math.max(left, wanted) end
    end
  end
  return left
end

-- ----------------------------------------------------------------------- lines

local function add_wrapped(lines, text, cells, indent)
  for _, line in ipairs(width.wrap(text, cells - #indent)) do
    table.insert(lines, line == "" and "" or indent .. line)
  end
end

local function add_entry(lines, entry, left, cells)
  local indent = (" "):rep(2 + left + GAP)
  local wrapped = width.wrap(entry[2], math.max(cells - #indent, 10))
  if width.of(entry[1]) > left then
    local blanks = "  " .. entry[1]:match("^ *")
    add_wrapped(lines, entry[1], cells, blanks)
  else
    local first = "  " .. width.pad(entry[1], left + GAP) .. (table.remove(wrapped, 1) or "")
    table.insert(lines, (first:gsub("%s+$", "")))
  end
  for _, line in ipairs(wrapped) do
    if line ~= "" then table.insert(lines, indent .. line) end
  end
end

local function add_examples(lines, example)
  if example == nil then return end
  for _, text in ipairs(type(example) == "table" and example or { example }) do
    for line in (text:gsub("\n$", "") .. "\n"):gmatch("([^\n]*)\n") do
      table.insert(lines, line)
    end
  end
  table.insert(lines, "")
end

local function argument_usage(argument)
  local text = spec.label(argument) .. (argument.many and "..." or "")
  return argument.optional and "[" .. text .. "]" or text
end

-- One usage line, continued under its own beginning.
local function add_usage(lines, first, words, cells)
  local indent = (" "):rep(math.min(width.of(first) + 1, 20))
  local line = first
  for _, word in ipairs(words) do
    if width.of(line) + 1 + width.of(word) > cells and line ~= first then
      table.insert(lines, line)
      line = indent .. word
    else
      line = line .. " " .. word
    end
  end
  table.insert(lines, line)
end

-- "launch create": the words that lead to the last of the chain.
function help.path(chain)
  local names = {}
  for i, level in ipairs(chain) do
    names[i] = level.name
  end
  return table.concat(names, " ")
end

local function add_usages(lines, chain, cells)
  local level = chain[#chain]
  local first = "usage: " .. help.path(chain)
  local required = {}
  for _, option in ipairs(level.options or {}) do
    if option.required and not option.secret then
      table.insert(required, spec.long(option.name) .. " " .. metavar(option))
    end
  end
  table.insert(required, "[options]")
  if level.arguments or not level.commands or level.run then
    local words = table.move(required, 1, #required, 1, {})
    for _, argument in ipairs(level.arguments or {}) do
      table.insert(words, argument_usage(argument))
    end
    add_usage(lines, first, words, cells)
    first = "       " .. help.path(chain)
  end
  if level.commands then
    table.insert(required, "COMMAND ...")
    add_usage(lines, first, required, cells)
  end
end

---The help on the last of `chain`, for a terminal of `cells`.
---@param chain table[]  the program's spec and the commands down to the one meant
---@param cells integer
---@return string
function help.text(chain, cells)
  local level = chain[#chain]
  local lines = {}
  add_examples(lines, level.example)
  if level.summary then
    add_wrapped(lines, level.summary, cells, "")
    table.insert(lines, "")
  end
  add_usages(lines, chain, cells)
  if level.description then
    table.insert(lines, "")
    add_wrapped(lines, level.description, cells, "")
  end
  local sections = all_sections(chain)
  local left = left_cells(sections, cells)
  for _, section in ipairs(sections) do
    table.insert(lines, "")
    table.insert(lines, section.title)
    for _, entry in ipairs(section) do
      add_entry(lines, entry, left, cells)
    end
  end
  if level.commands then
    table.insert(lines, "")
    add_wrapped(lines, ("'%s COMMAND --help' tells more of a command."):format(help.path(chain)),
      cells, "")
  end
  if level.notes then
    table.insert(lines, "")
    add_wrapped(lines, level.notes, cells, "")
  end
  return table.concat(lines, "\n") .. "\n"
end

return help
