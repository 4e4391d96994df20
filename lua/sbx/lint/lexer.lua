-- Tokens of Lua 5.4, exactly as the language itself takes them.

local lexer = {}

---@class sbx.lint.Token
---@field kind string   "name", "string", "number", "eof", a keyword or an operator
---@field value? any    of a name, string or number
---@field first integer its first byte
---@field last integer  its last byte

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or
  repeat return then true until while]]):gmatch("%a+") do
  KEYWORDS[word] = true
end

-- Operators by their first character, the longest first.
local OPERATORS = {}
for operator in ("... .. . == = ~= ~ <= << < >= >> > // / :: : + - * % ^ # & | ( ) { } [ ] ; ,")
  :gmatch("%S+") do
  local first = operator:sub(1, 1)
  OPERATORS[first] = OPERATORS[first] or {}
  table.insert(OPERATORS[first], operator)
end

local ESCAPES = {
  a = "\a", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", v = "\v",
  ["\\"] = "\\", ['"'] = '"', ["'"] = "'",
}

-- Raised as an object, so that a mistake here cannot pass for one of the source.
local function fail(at, message)
  error({ lint = true, at = at, message = message }, 0)
end

lexer.fail = fail

-- The position behind a line break that begins at `at`: two characters are one
-- break when they differ.
local function after_break(text, at)
  local one, other = text:byte(at, at + 1)
  if (other == 10 or other == 13) and other ~= one then return at + 2 end
  return at + 1
end

-- The position behind `[==[ … ]==]` at `at` and what is inside; nil where no such
-- bracket begins.
local function long_bracket(text, at, what)
  local equals = text:match("^%[(=*)%[", at)
  if not equals then return nil end
  local from = at + #equals + 2
  if text:find("^[\r\n]", from) then from = after_break(text, from) end
  local closing = "]" .. equals .. "]"
  local stop = text:find(closing, from, true)
  if not stop then fail(at, "unfinished long " .. what) end
  return stop + #closing, text:sub(from, stop - 1)
end

-- The position of the next token.
local function skip_blank(text, at)
  while true do
    at = text:find("[^ \t\v\f\r\n]", at) or #text + 1
    if text:sub(at, at + 1) ~= "--" then return at end
    local behind = long_bracket(text, at + 2, "comment")
    at = behind or text:find("[\r\n]", at) or #text + 1
  end
end

local function unicode_escape(text, at)
  local digits = text:match("^{(%x+)}", at)
  if not digits then fail(at, "\\u: expected {hexadecimal digits}") end
  local code = tonumber((digits:gsub("^0+(%x)", "%1")), 16)
  if #digits:gsub("^0+", "") > 8 or code >= 2 ^ 31 then fail(at, "UTF-8 value too large") end
  return utf8.char(code), at + #digits + 2
end

-- What the escape behind the backslash at `at - 1` stands for, and the position
-- behind it.
local function escape(text, at)
  local character = text:sub(at, at)
  if ESCAPES[character] then return ESCAPES[character], at + 1 end
  if character == "x" then
    local digits = text:match("^%x%x", at + 1)
    if not digits then fail(at, "\\x: expected two hexadecimal digits") end
    return string.char(tonumber(digits, 16)), at + 3
  end
  if character == "u" then return unicode_escape(text, at + 1) end
  if character == "z" then return "", text:find("[^ \t\v\f\r\n]", at + 1) or #text + 1 end
  if character == "\n" or character == "\r" then return "\n", after_break(text, at) end
  local digits = text:match("^%d%d?%d?", at)
  if not digits then fail(at, "invalid escape sequence") end
  if tonumber(digits) > 255 then fail(at, "decimal escape too large") end
  return string.char(tonumber(digits)), at + #digits
end

local function read_string(text, first)
  local quote = text:sub(first, first)
  local parts, at = {}, first + 1
  local plain = quote == '"' and '^[^"\\\r\n]+' or "^[^'\\\r\n]+"
  while true do
    local _, last = text:find(plain, at)
    if last then
      parts[#parts + 1] = text:sub(at, last)
      at = last + 1
    end
    local character = text:sub(at, at)
    if character == quote then return table.concat(parts), at end
    if character ~= "\\" then fail(first, "unfinished string") end
    parts[#parts + 1], at = escape(text, at + 1)
  end
end

-- Takes all that may belong to a number first, as the language does: `3..2` is one
-- malformed number, not three tokens.
local function read_number(text, first)
  local at = first
  local exponent = "^[eE]"
  if text:find("^0[xX]", at) then
    exponent = "^[pP]"
    at = at + 2
  end
  while true do
    if text:find(exponent, at) then
      at = at + 1
      if text:find("^[+-]", at) then at = at + 1 end
    elseif text:find("^[%x.]", at) then
      at = at + 1
    else
      break
    end
  end
  if text:find("^[%a_]", at) then at = at + 1 end -- it touches a word
  local value = tonumber(text:sub(first, at - 1))
  if not value then fail(first, "malformed number near '" .. text:sub(first, at - 1) .. "'") end
  return value, at - 1
end

---The token that begins at or behind byte `at`.
---@param text string
---@param at integer
---@return sbx.lint.Token
function lexer.next(text, at)
  local first = skip_blank(text, at)
  if first > #text then return { kind = "eof", first = #text + 1, last = #text } end
  local word = text:match("^[A-Za-z_][A-Za-z0-9_]*", first)
  if word then
    local last = first + #word - 1
    if KEYWORDS[word] then return { kind = word, first = first, last = last } end
    return { kind = "name", value = word, first = first, last = last }
  end
  local character = text:sub(first, first)
  if character == '"' or character == "'" then
    local value, last = read_string(text, first)
    return { kind = "string", value = value, first = first, last = last }
  end
  if text:find("^%.?[0-9]", first) then
    local value, last = read_number(text, first)
    return { kind = "number", value = value, first = first, last = last }
  end
  if character == "[" then
    local behind, value = long_bracket(text, first, "string")
    if behind then return { kind = "string", value = value, first = first, last = behind - 1 } end
    if text:find("^%[=", first) then fail(first, "invalid long string delimiter") end
  end
  for _, operator in ipairs(OPERATORS[character] or {}) do
    if text:sub(first, first + #operator - 1) == operator then
      return { kind = operator, first = first, last = first + #operator - 1 }
    end
  end
  fail(first, "unexpected symbol near '" .. character .. "'")
end

return lexer
