-- What the word before the cursor may become: names, fields and methods, modules,
-- files and sandboxes within strings, and the prompt's own commands.
--
-- No code of the values runs: fields are read raw, along tables of `__index`.

local lexer = require("sbx.repl.lexer")
local places = require("sbx.repl.complete_strings")

local complete = {}

local MOST_KEYS = 5000 -- looked at of one table
local MOST_STEPS = 10 -- along `__index`

---@class sbx.repl.Completion
---@field count integer  bytes before the cursor that are replaced
---@field words { text: string, shown?: string }[]  in order
---@field closing string|nil  the quote that ends a word

-- The table of methods that a function of `__index` looks into: the first one among
-- its upvalues.
local function table_within(fn)
  for index = 1, MOST_STEPS do
    local name, value = debug.getupvalue(fn, index)
    if not name then return nil end
    if type(value) == "table" and name ~= "_ENV" then return value end
  end
end

local function meta_index(value)
  local meta = debug.getmetatable(value)
  local index = type(meta) == "table" and rawget(meta, "__index") or nil
  return type(index) == "function" and table_within(index) or index
end

-- A field without running anything but what finds a module of the library.
local function field_of(value, name, library)
  if value == library and library[name] ~= nil then return library[name] end
  for _ = 1, MOST_STEPS do
    if type(value) == "table" then
      local found = rawget(value, name)
      if found ~= nil then return found end
    end
    value = meta_index(value)
    if type(value) ~= "table" then return nil end
  end
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__call") ~= nil
end

local function add_keys(found, from, wanted, methods)
  local looked = 0
  for key, value in next, from do
    looked = looked + 1
    if looked > MOST_KEYS then return end
    if type(key) == "string" and key:find("^[%a_][%w_]*$") and not lexer.keywords[key]
      and key:sub(1, #wanted) == wanted and (wanted ~= "" or key:sub(1, 1) ~= "_")
      and key:sub(1, 2) ~= "__" and (not methods or is_callable(value)) then
      found[key] = is_callable(value) and "(" or ""
    end
  end
end

local function sorted(found)
  local words = {}
  for text in pairs(found) do
    words[#words + 1] = { text = text }
  end
  table.sort(words, function(a, b) return a.text < b.text end)
  return words
end

-- ------------------------------------------------------------------ expressions

-- The chain of names before the tokens' end: `a.b:c` is { "a", "b" }, ":", "c". Also
-- `("text"):re` and `require("x").y`.
local function chain_of(tokens)
  local at, word = #tokens, ""
  if tokens[at] and (tokens[at].kind == "name" or tokens[at].kind == "keyword") then
    word, at = tokens[at].text, at - 1
  end
  local mark = tokens[at] and tokens[at].text
  if tokens[at] and tokens[at].kind == "symbol" and (mark == "." or mark == ":") then
    local names = {}
    while at > 0 and tokens[at].kind == "symbol"
      and (tokens[at].text == "." or tokens[at].text == ":") do
      local before = tokens[at - 1]
      if not before then return nil end
      if before.kind == "name" then
        table.insert(names, 1, before.text)
        at = at - 2
      else
        return { names = names, at = at - 1 }, mark, word
      end
    end
    return { names = names }, mark, word
  end
  return { names = {} }, "", word
end

-- The value that a chain which begins with something else than a name begins with.
local function base_of(tokens, at)
  local token = tokens[at]
  if token.kind == "string" then return "" end
  if token.text == ")" then
    local inner, before = tokens[at - 1], tokens[at - 2]
    if inner and inner.kind == "string" and before and before.text == "(" then
      local name = tokens[at - 3]
      if name and name.text == "require" then
        return package.loaded[inner.text:sub(2, -2)]
      end
      if not name or name.kind ~= "name" then return "" end
    end
  end
  return nil
end

local function globals_of(env)
  return env.globals or _G
end

local function root_value(env, name)
  local value, known = env.locals(name)
  if known then return value end
  value = rawget(globals_of(env), name)
  if value == nil and env.lazy then value = env.lazy(name) end
  return value
end

local function value_of(env, tokens, chain)
  local value
  local first = 1
  if chain.at then
    value = base_of(tokens, chain.at)
  else
    value = root_value(env, chain.names[1])
    first = 2
  end
  for i = first, #chain.names do
    if value == nil then return nil end
    value = field_of(value, chain.names[i], env.library)
  end
  return value
end

local function fields(env, value, word, methods)
  local found = {}
  if value ~= nil and value == env.library then
    for _, name in ipairs(env.library_names) do
      if name:sub(1, #word) == word then found[name] = "" end
    end
  end
  for _ = 1, MOST_STEPS do
    if type(value) == "table" then add_keys(found, value, word, methods) end
    if value == env.library then break end
    value = meta_index(value)
    if type(value) ~= "table" then break end
  end
  return found
end

local function names(env, word)
  local found = {}
  if word == "" then return found end
  add_keys(found, globals_of(env), word)
  for _, name in ipairs(env.local_names()) do
    if name:sub(1, #word) == word then found[name] = "" end
  end
  for _, name in ipairs(env.library_names) do
    if name:sub(1, #word) == word then found[name] = "" end
  end
  for name in pairs(lexer.keywords) do
    if name:sub(1, #word) == word then found[name] = "" end
  end
  return found
end

local function in_code(env, tokens)
  local chain, mark, word = chain_of(tokens)
  if not chain then return nil end
  if mark == "" then return { count = #word, words = sorted(names(env, word)) } end
  local value = value_of(env, tokens, chain)
  if value == nil then return nil end
  return { count = #word, words = sorted(fields(env, value, word, mark == ":")) }
end

-- ------------------------------------------------------------------------ public

---@class sbx.repl.CompletionEnv
---@field locals fun(name: string): any, boolean
---@field local_names fun(): string[]
---@field lazy nil|async fun(name: string): any  a global that comes when it is asked for
---@field library any
---@field library_names string[]
---@field globals table|nil  (default _G)
---@field sandboxes fun(): string[]  ids that are at hand
---@field command async fun(text: string): sbx.repl.Completion|nil  for a line of the prompt's own

---What the text before the cursor may be completed to; nil for nothing.
---@async
---@param before string
---@param env sbx.repl.CompletionEnv
---@return sbx.repl.Completion|nil
function complete.at(before, env)
  if before:find("^:") then return env.command(before) end
  local tokens = lexer.tokens(before)
  local last = tokens[#tokens]
  -- A name ends where a blank follows it.
  if not last or last.last < #before and not (last.open and last.kind == "string") then
    tokens[#tokens + 1] = { kind = "symbol", text = "", first = #before + 1, last = #before }
  elseif last.open then
    if last.kind ~= "string" then return nil end
    return places.at(tokens, env)
  elseif last.kind == "string" or last.kind == "comment" or last.kind == "number" then
    return nil
  end
  return in_code(env, tokens)
end

---The longest beginning that all words have in common.
---@param words { text: string }[]
---@return string
function complete.common(words)
  local common = words[1].text
  for _, word in ipairs(words) do
    local length = 0
    while length < #common and common:byte(length + 1) == word.text:byte(length + 1) do
      length = length + 1
    end
    common = common:sub(1, length)
  end
  -- Not within a letter.
  return (common:gsub("[\xc0-\xff][\x80-\xbf]*$", function(tail)
    return utf8.len(tail) and tail or ""
  end))
end

---The words in columns, as many as there is room for.
---@param words { text: string, shown?: string }[]
---@param columns integer
---@param most integer  words
---@return string[] lines
function complete.columns(words, columns, most)
  local width = require("sbx.cli.width")
  local clean = require("sbx.log.clean")
  local shown, widest = {}, 1
  for i = 1, math.min(#words, most) do
    shown[i] = clean.line(words[i].shown or words[i].text, 200)
    widest = math.max(widest, width.of(shown[i]))
  end
  local room = math.max(columns - 1, 4)
  widest = math.min(widest, room)
  local per_line = math.max(1, (room + 2) // (widest + 2))
  local rows = (#shown + per_line - 1) // per_line
  local lines = {}
  for row = 1, rows do
    local parts = {}
    for column = 0, per_line - 1 do
      local word = shown[column * rows + row]
      if word then parts[#parts + 1] = width.pad(width.cut(word, widest), widest) end
    end
    lines[row] = (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  if #words > #shown then lines[#lines + 1] = ("... %d more"):format(#words - #shown) end
  return lines
end

return complete
