-- Lua text as tokens, finished or not: for completion, indentation, and the locals
-- that an input declares. What is no Lua becomes tokens all the same.

local lexer = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or
  repeat return then true until while]]):gmatch("%S+") do
  KEYWORDS[word] = true
end

---The reserved words.
---@type table<string, true>
lexer.keywords = KEYWORDS

---@class sbx.repl.Token
---@field kind "name"|"keyword"|"number"|"string"|"comment"|"symbol"
---@field text string
---@field first integer   of its bytes
---@field last integer
---@field open boolean|nil  a string or comment that does not end
---@field quote string|nil  of a string: its quote, or "[" for a long one

local OPENERS = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }
local CLOSERS = { ["end"] = true, ["until"] = true }

-- The end of the long bracket that opens at `at`, or nil where none opens there.
local function long_bracket(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at + #level + 2, true)
  return last or #text, last == nil
end

local function short_string(text, at)
  local quote = text:sub(at, at)
  local from = at + 1
  while true do
    local found = text:find("[\\\n" .. quote .. "]", from)
    if not found then return #text, true end
    local char = text:sub(found, found)
    if char == quote then return found, false end
    if char == "\n" then return found - 1, true end
    if text:find("^\\z", found) then
      local _, blank = text:find("^%s*", found + 2)
      from = blank + 1
    else
      from = found + 2
    end
    if from > #text then return #text, true end
  end
end

local function comment(text, at)
  local last, open = long_bracket(text, at + 2)
  if last then return last, open end
  local line = text:find("\n", at, true)
  return line and line - 1 or #text, false
end

local function word_at(text, at)
  local _, last = text:find("^[%a_][%w_]*", at)
  local word = text:sub(at, last)
  return { kind = KEYWORDS[word] and "keyword" or "name", text = word, first = at, last = last }
end

local function string_at(text, at)
  local char = text:sub(at, at)
  if char == "[" then
    local last, open = long_bracket(text, at)
    return { kind = "string", text = text:sub(at, last), first = at, last = last,
      open = open or nil, quote = "[" }
  end
  local last, open = short_string(text, at)
  return { kind = "string", text = text:sub(at, last), first = at, last = last,
    open = open or nil, quote = char }
end

local function number_at(text, at)
  local _, last = text:find("^0[xX][%x.]*[pP][+-]?%w*", at)
  if not last then
    _, last = text:find("^[%d.]+[eE][+-]?%w*", at)
  end
  if not last then
    _, last = text:find("^[%w.]+", at)
  end
  return { kind = "number", text = text:sub(at, last), first = at, last = last }
end

local SYMBOLS = { "^%.%.%.", "^%.%.", "^::", "^[=~<>]=", "^<<", "^>>", "^//" }

local function symbol_at(text, at)
  for _, pattern in ipairs(SYMBOLS) do
    local _, last = text:find(pattern, at)
    if last then return { kind = "symbol", text = text:sub(at, last), first = at, last = last } end
  end
  return { kind = "symbol", text = text:sub(at, at), first = at, last = at }
end

local function token_at(text, at)
  if text:find("^[%a_]", at) then return word_at(text, at) end
  if text:find("^%.?%d", at) then return number_at(text, at) end
  if text:find("^[\"']", at) or text:find("^%[=*%[", at) then return string_at(text, at) end
  if text:find("^%-%-", at) then
    local last, open = comment(text, at)
    return { kind = "comment", text = text:sub(at, last), first = at, last = last,
      open = open or nil }
  end
  return symbol_at(text, at)
end

---The tokens of `text`.
---@param text string
---@return sbx.repl.Token[]
function lexer.tokens(text)
  local tokens, at = {}, 1
  while true do
    at = text:find("%S", at)
    if not at then return tokens end
    local token = token_at(text, at)
    tokens[#tokens + 1] = token
    at = token.last + 1
  end
end

---How many blocks and brackets are open at the end of `text`; and whether a string
---or comment is.
---@param text string
---@return integer depth, boolean inside
function lexer.depth(text)
  local depth, inside = 0, false
  for _, token in ipairs(lexer.tokens(text)) do
    local word = token.text
    if token.kind == "keyword" then
      if OPENERS[word] then depth = depth + 1 end
      if CLOSERS[word] then depth = math.max(depth - 1, 0) end
    elseif token.kind == "symbol" then
      if word:find("^[%(%[{]$") then depth = depth + 1 end
      if word:find("^[%)%]}]$") then depth = math.max(depth - 1, 0) end
    elseif token.kind == "string" or token.kind == "comment" then
      inside = token.open == true
    end
  end
  return depth, inside
end

local function skip_comments(tokens, at)
  while tokens[at] and tokens[at].kind == "comment" do
    at = at + 1
  end
  return at
end

-- The names that a `local` at `at` declares, into `found`.
local function read_names(tokens, at, found)
  at = skip_comments(tokens, at + 1)
  if tokens[at] and tokens[at].text == "function" then
    at = skip_comments(tokens, at + 1)
    if tokens[at] then found[#found + 1] = { name = tokens[at].text } end
    return
  end
  while tokens[at] and tokens[at].kind == "name" do
    local entry = { name = tokens[at].text }
    found[#found + 1] = entry
    at = skip_comments(tokens, at + 1)
    if tokens[at] and tokens[at].text == "<" then
      local name = skip_comments(tokens, at + 1)
      local close = skip_comments(tokens, name + 1)
      if not tokens[close] then return end
      entry.attribute = tokens[name].text
      entry.first, entry.last = tokens[at].first, tokens[close].last
      at = skip_comments(tokens, close + 1)
    end
    if not tokens[at] or tokens[at].text ~= "," then return end
    at = skip_comments(tokens, at + 1)
  end
end

---What the outermost block of a text that compiles declares: its locals, in order,
---with their attributes and where these stand; and where its `return` stands.
---@param text string
---@return { name: string, attribute?: string, first?: integer, last?: integer }[] locals
---@return integer|nil returns
---@return table<string, true> names  all that occur
function lexer.locals(text)
  local found, names, depth, returns = {}, {}, 0, nil
  local tokens = lexer.tokens(text)
  for at, token in ipairs(tokens) do
    if token.kind == "name" then names[token.text] = true end
    if token.kind == "keyword" then
      local word = token.text
      if depth == 0 and word == "local" then read_names(tokens, at, found) end
      if depth == 0 and word == "return" then returns = token.first end
      if OPENERS[word] then depth = depth + 1 end
      if CLOSERS[word] then depth = depth - 1 end
    end
  end
  return found, returns, names
end

return lexer
