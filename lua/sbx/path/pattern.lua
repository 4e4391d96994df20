-- Wildcard patterns, turned into a machine that reads a path once from left to
-- right: whatever the pattern, the time is linear in the length of the path.
--
-- The pattern becomes states with arrows (an NFA). The set of states that a path
-- so far may be in is one state of the machine; such sets, and what follows them,
-- are made when first needed and kept. A walk hands the same machine one name at
-- a time, and learns early which folders cannot hold a match.

local MAX_NESTING = 50 -- braces within braces
local MAX_KEPT = 500 -- sets, and steps of one set, before they are forgotten

---@class sbx.path.Pattern
---@field private states table[]    arrows: { op, arg, out, other }
---@field private kept table<string, sbx.path.Pattern.Set>
---@field private count integer     of `kept`
---@field private hidden boolean
---@field start sbx.path.Pattern.Set
local Pattern = {}
Pattern.__index = Pattern

---@class sbx.path.Pattern.Set
---@field accepts boolean  what was read so far matches
---@field package states integer[]  those that read a character
---@field package opens boolean     a name begins here
---@field package steps table<string, sbx.path.Pattern.Set|false>
---@field package taken integer     how many `steps`

-- ------------------------------------------------------------------ characters

-- The character at `at`: a UTF-8 sequence, or the byte where there is none.
local function character(text, at)
  if text:byte(at) < 128 or not utf8.len(text, at, at) then return text:sub(at, at) end
  return text:sub(at, utf8.offset(text, 2, at) - 1)
end

-- A number to compare characters by; lone bytes come after all of Unicode.
local function code_of(char)
  if #char > 1 then return utf8.codepoint(char) end
  local byte = char:byte()
  return byte < 128 and byte or 0x110000 + byte
end

-- --------------------------------------------------------------------- parsing

-- The parser is a table { text, at, depth }; its failures are plain strings.
local function fail(parser, what)
  error({ problem = ("%s in %q"):format(what, parser.text) }, 0)
end

local function take(parser)
  if parser.at > #parser.text then return nil end
  local char = character(parser.text, parser.at)
  parser.at = parser.at + #char
  return char
end

-- The character that stands for itself, after a backslash too.
local function take_plain(parser, char)
  if char ~= "\\" then return char end
  return take(parser) or fail(parser, "nothing follows the last backslash")
end

-- What follows "[": ranges of codes, perhaps negated. A "]" that comes first
-- stands for itself.
local function parse_class(parser)
  local class = { op = "class", negated = false }
  if parser.text:sub(parser.at, parser.at) == "!" then
    class.negated = true
    parser.at = parser.at + 1
  end
  repeat
    local char = take(parser) or fail(parser, "'[' is never closed")
    if char == "]" and #class > 0 then return class end
    local low = code_of(take_plain(parser, char))
    local high = low
    if parser.text:find("^%-[^%]]", parser.at) then
      parser.at = parser.at + 1
      high = code_of(take_plain(parser, take(parser)))
    end
    class[#class + 1] = { low, high }
  until false
end

-- "**" counts where it is a whole name: `before` and what follows are "/", an end
-- or, in braces, the bounds of an alternative.
local function is_globstar(parser, before)
  if parser.text:sub(parser.at, parser.at) ~= "*" then return false end
  local after = parser.text:sub(parser.at + 1, parser.at + 1)
  local bound = parser.depth > 0 and "^[/,}]?$" or "^/?$"
  return before and after:find(bound) ~= nil
end

local function parse_star(parser, before)
  if not is_globstar(parser, before) then return { op = "star" } end
  parser.at = parser.at + 1
  if parser.text:sub(parser.at, parser.at) ~= "/" then return { op = "everything" } end
  parser.at = parser.at + 1
  return { op = "folders" }
end

local parse_sequence

-- What follows "{": alternatives up to the closing brace.
local function parse_braces(parser)
  if parser.depth == MAX_NESTING then fail(parser, "braces are nested too deep") end
  parser.depth = parser.depth + 1
  local choice = { op = "choice" }
  repeat
    choice[#choice + 1] = parse_sequence(parser)
    local char = take(parser) or fail(parser, "'{' is never closed")
  until char == "}"
  parser.depth = parser.depth - 1
  return choice
end

function parse_sequence(parser)
  local items = {}
  local bound = true -- a name begins here
  while parser.at <= #parser.text do
    local begun = parser.at
    local char = take(parser)
    if parser.depth > 0 and (char == "," or char == "}") then
      parser.at = begun
      break
    end
    local item
    if char == "*" then
      item = parse_star(parser, bound)
    elseif char == "?" then
      item = { op = "any" }
    elseif char == "[" then
      item = parse_class(parser)
    elseif char == "{" then
      item = parse_braces(parser)
    else
      item = { op = "char", arg = take_plain(parser, char) }
    end
    items[#items + 1] = item
    bound = item.arg == "/" or item.op == "folders"
  end
  return items
end

-- -------------------------------------------------------------------- building

local function add(states, op, arg, out, other)
  states[#states + 1] = { op = op, arg = arg, out = out, other = other }
  return #states
end

-- Any number of characters of a name, then `out`. Returns the state to begin at.
local function add_star(states, out)
  local loop = add(states, "split", "star", nil, out)
  states[loop].out = add(states, "any", nil, loop)
  return loop
end

local build

local builders = {
  char = function(states, item, out)
    return add(states, "char", item.arg, out)
  end,
  any = function(states, _, out)
    return add(states, "any", nil, out)
  end,
  class = function(states, item, out)
    return add(states, "class", item, out)
  end,
  star = function(states, _, out)
    return add_star(states, out)
  end,
  -- "**/": any number of names, each with its slash.
  folders = function(states, _, out)
    local loop = add(states, "split", nil, nil, out)
    local rest = add_star(states, add(states, "char", "/", loop))
    states[loop].out = add(states, "any", nil, rest)
    return loop
  end,
  -- "**" at the end: one name or more.
  everything = function(states, _, out)
    local after = add(states, "split", nil, nil, out)
    local first = add(states, "any", nil, add_star(states, after))
    states[after].out = add(states, "char", "/", first)
    return first
  end,
  choice = function(states, item, out)
    local begin
    for i = #item, 1, -1 do
      local branch = build(states, item[i], out)
      begin = begin and add(states, "split", nil, branch, begin) or branch
    end
    return begin
  end,
}

function build(states, items, out)
  for i = #items, 1, -1 do
    out = builders[items[i].op](states, items[i], out)
  end
  return out
end

-- --------------------------------------------------------------------- running

-- Adds to `reading` the states that read a character, reached from `list` without
-- reading one. With `past` it collects there the ways out of stars and does not
-- take them; without, a literal dot is not reached. Returns whether the end is.
local function follow(states, list, seen, reading, past)
  local accepts = false
  while #list > 0 do
    local index = table.remove(list)
    local state = states[index]
    if seen[index] or (not past and state.arg == ".") then goto continue end
    seen[index] = true
    if state.op == "split" then
      list[#list + 1] = state.out
      local into = past and state.arg == "star" and past or list
      into[#into + 1] = state.other
    elseif state.op == "match" then
      accepts = true
    else
      reading[#reading + 1] = index
    end
    ::continue::
  end
  return accepts
end

-- All states that read a character, reached from `list` without reading one; and
-- whether the end is among what is reached. Where a name begins a star that stands
-- for nothing does not make way for a dot: "*.a" does not match ".a".
local function close_over(self, list, opens)
  local seen, reading, past = {}, {}, {}
  local accepts = follow(self.states, list, seen, reading, past)
  local guarded = opens and not self.hidden
  while #past > 0 do
    local left = past
    past = {}
    accepts = follow(self.states, left, seen, reading, not guarded and past or nil) or accepts
  end
  table.sort(reading)
  return reading, accepts
end

-- The one set that stands for these states.
local function set_of(self, list, opens)
  local states, accepts = close_over(self, list, opens)
  if #states == 0 and not accepts then return false end
  local key = table.concat(states, " ") .. (accepts and "!" or "") .. (opens and "/" or "")
  local set = self.kept[key]
  if set then return set end
  if self.count >= MAX_KEPT then
    self.kept, self.count = {}, 0
  end
  set = { states = states, accepts = accepts, opens = opens, steps = {}, taken = 0 }
  self.kept[key], self.count = set, self.count + 1
  return set
end

local function in_class(class, char)
  local code = code_of(char)
  for _, range in ipairs(class) do
    if code >= range[1] and code <= range[2] then return not class.negated end
  end
  return class.negated
end

local function reads(self, state, char, opens)
  if state.op == "char" then return state.arg == char end
  if char == "/" or (char == "." and opens and not self.hidden) then return false end
  return state.op == "any" or in_class(state.arg, char)
end

-- The set after `char`, or false when no path that goes on like this matches.
local function step(self, set, char)
  local list = {}
  for _, index in ipairs(set.states) do
    local state = self.states[index]
    if reads(self, state, char, set.opens) then list[#list + 1] = state.out end
  end
  local next_set = set_of(self, list, char == "/")
  if set.taken >= MAX_KEPT then
    set.steps, set.taken = {}, 0
  end
  set.steps[char], set.taken = next_set, set.taken + 1
  return next_set
end

---Reads on from `set`. Returns the set after `text`, or false when nothing that
---begins like this can match.
---@param set sbx.path.Pattern.Set
---@param text string
---@return sbx.path.Pattern.Set|false
function Pattern:advance(set, text)
  local plain = not text:find("[\x80-\xFF]")
  local at, size = 1, #text
  while at <= size do
    local char = plain and text:sub(at, at) or character(text, at)
    local next_set = set.steps[char]
    if next_set == nil then next_set = step(self, set, char) end
    if not next_set then return false end
    set, at = next_set, at + #char
  end
  return set
end

local pattern = {}

---Makes a machine of `text`, or returns nil and what is wrong with it.
---@param text string
---@param hidden boolean  wildcards match a dot that opens a name
---@return sbx.path.Pattern|nil, string|nil
function pattern.compile(text, hidden)
  local parser = { text = text, at = 1, depth = 0 }
  local ok, items = pcall(parse_sequence, parser)
  if not ok then
    if type(items) == "table" and items.problem then return nil, items.problem end
    error(items, 0)
  end
  local self = setmetatable({ states = {}, kept = {}, count = 0, hidden = hidden }, Pattern)
  local begin = build(self.states, items, add(self.states, "match"))
  self.start = set_of(self, { begin }, true)
  return self
end

return pattern
