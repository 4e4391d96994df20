-- Reads the words of shell scripts: quotes, and what begins with a dollar sign. A part
-- of the parser in parse.lua, whose state it works on: `text`, `at`, `depth`.
--
-- A word is a list of parts: {lit =, quoted =}, {param =, op =, arg =, quoted =},
-- {command = tree, quoted =}, {arith = word, quoted =}.

local words = {}

local MAX_DEPTH = 100

---Raises what the parser catches.
---@param self table
---@param text? string
function words.fail(self, text)
  error({ syntax = text or "unexpected end", at = self.at }, 0)
end

local fail = words.fail

-- A parser of another text, as deep as this one.
local function sub_parser(self, text)
  return setmetatable({ text = text, at = 1, depth = self.depth + 1, waiting = {} },
    getmetatable(self))
end


---Adds literal text to a word.
---@param parts table[]
---@param text string
---@param quoted boolean
function words.push(parts, text, quoted)
  local last = parts[#parts]
  if last and last.lit and last.quoted == quoted then
    last.lit = last.lit .. text
  else
    parts[#parts + 1] = { lit = text, quoted = quoted }
  end
end

local push = words.push

---Counts a level of nesting in. Raises where there are too many.
---@param self table
function words.deeper(self)
  self.depth = self.depth + 1
  if self.depth > MAX_DEPTH then fail(self, "nested too deeply") end
end

local deeper = words.deeper

-- A tree parsed from `text` alone.
local function inner(self, text)
  deeper(self)
  local sub = sub_parser(self, text)
  local tree = sub:list({})
  if sub:peek().kind ~= "end" then fail(sub, "unexpected " .. tostring(sub:peek().text)) end
  self.depth = self.depth - 1
  return tree
end

local read_word

-- ${…}, after the brace.
local function braces(self, quoted)
  local text = self.text
  local length = text:match("^#([%w_@*?$!-]+)}", self.at)
  if length then
    self.at = self.at + #length + 2
    return { param = length, op = "length", quoted = quoted }
  end
  local name = text:match("^[%a_][%w_]*", self.at) or text:match("^%d+", self.at)
    or text:match("^[@*#?$!-]", self.at)
  if not name then fail(self, "bad substitution") end
  self.at = self.at + #name
  local op = text:match("^:[-=?+]", self.at) or text:match("^##", self.at)
    or text:match("^%%%%", self.at) or text:match("^[-=?+#%%]", self.at)
  local part = { param = name, quoted = quoted }
  if op then
    self.at = self.at + #op
    deeper(self)
    part.op, part.arg = op, read_word(self, "}", quoted and not op:find("[#%%]"))
    self.depth = self.depth - 1
  end
  if text:sub(self.at, self.at) ~= "}" then fail(self, "bad substitution") end
  self.at = self.at + 1
  return part
end

-- $((…)), after the two parentheses.
local function arithmetic(self, quoted)
  local depth, from = 0, self.at
  while true do
    local char = self.text:sub(self.at, self.at)
    if char == "" then fail(self) end
    if char == "(" then depth = depth + 1 end
    if char == ")" then
      if depth == 0 and self.text:sub(self.at + 1, self.at + 1) == ")" then break end
      depth = depth - 1
    end
    self.at = self.at + 1
  end
  local sub = sub_parser(self, self.text:sub(from, self.at - 1))
  self.at = self.at + 2
  return { arith = read_word(sub, "", true), quoted = quoted }
end

local function backquoted(self, quoted)
  local pieces = {}
  while true do
    local plain = self.text:match("^[^`\\]+", self.at)
    if plain then
      pieces[#pieces + 1] = plain
      self.at = self.at + #plain
    end
    local char = self.text:sub(self.at, self.at)
    if char == "" then fail(self) end
    self.at = self.at + 1
    if char == "`" then break end
    local escaped = self.text:sub(self.at, self.at)
    pieces[#pieces + 1] = escaped:find("[`\\$]") and escaped or "\\" .. escaped
    self.at = self.at + 1
  end
  return { command = inner(self, table.concat(pieces)), quoted = quoted }
end

-- What follows a dollar sign.
local function dollar(self, parts, quoted)
  local text = self.text
  if text:find("^%(%(", self.at) then
    self.at = self.at + 2
    parts[#parts + 1] = arithmetic(self, quoted)
  elseif text:find("^%(", self.at) then
    self.at = self.at + 1
    deeper(self)
    local held = self.token
    self.token = nil
    local tree = self:list({ [")"] = true })
    if self:take().text ~= ")" then fail(self) end
    self.token, self.depth = held, self.depth - 1
    parts[#parts + 1] = { command = tree, quoted = quoted }
  elseif text:find("^{", self.at) then
    self.at = self.at + 1
    parts[#parts + 1] = braces(self, quoted)
  else
    local name = text:match("^[%a_][%w_]*", self.at) or text:match("^[%d@*#?$!-]", self.at)
    if name then
      self.at = self.at + #name
      parts[#parts + 1] = { param = name, quoted = quoted }
    else
      push(parts, "$", quoted)
    end
  end
end

local function double_quoted(self, parts)
  push(parts, "", true)
  while true do
    local plain = self.text:match('^[^"\\$`]+', self.at)
    if plain then
      push(parts, plain, true)
      self.at = self.at + #plain
    end
    local char = self.text:sub(self.at, self.at)
    self.at = self.at + 1
    if char == "" then fail(self, "unterminated quoted string") end
    if char == '"' then return end
    if char == "$" then
      dollar(self, parts, true)
    elseif char == "`" then
      parts[#parts + 1] = backquoted(self, true)
    else
      local escaped = self.text:sub(self.at, self.at)
      self.at = self.at + 1
      if escaped:find('[$`"\\]') then
        push(parts, escaped, true)
      elseif escaped ~= "\n" then
        push(parts, "\\" .. escaped, true)
      end
    end
  end
end

---The parts of a word up to `stop`.
---@param self table
---@param stop string|nil  nil is the end of a word, "}" that of ${…}, "" that of the text
---@param quoted? boolean  as between double quotes
---@return table[]
function read_word(self, stop, quoted)
  local parts = {}
  local plain_set = stop == nil and "^[^%s;&|<>()\\'\"$`]+"
    or stop == "}" and "^[^}\\'\"$`]+" or "^[^\\\"$`]+"
  while true do
    local text = self.text
    local plain = text:match(plain_set, self.at)
    if plain then
      push(parts, plain, quoted or false)
      self.at = self.at + #plain
    end
    local char = text:sub(self.at, self.at)
    if char == "" or char == stop or (stop == nil and char:find("[%s;&|<>()]")) then
      return parts
    end
    self.at = self.at + 1
    if char == "\\" then
      local escaped = text:sub(self.at, self.at)
      self.at = self.at + 1
      if escaped ~= "\n" then
        local keeps = quoted and not escaped:find('[$`"\\}]')
        push(parts, keeps and "\\" .. escaped or escaped, true)
      end
    elseif char == "'" and not quoted then
      local last = text:find("'", self.at, true)
      if not last then fail(self, "unterminated quoted string") end
      push(parts, text:sub(self.at, last - 1), true)
      self.at = last + 1
    elseif char == '"' and stop ~= "" then
      double_quoted(self, parts)
    elseif char == "$" then
      dollar(self, parts, quoted or false)
    elseif char == "`" then
      parts[#parts + 1] = backquoted(self, quoted or false)
    else
      push(parts, char, quoted or false)
    end
  end
end

words.read = read_word

return words
