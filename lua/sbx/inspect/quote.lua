-- Strings and numbers as Lua would read them, and fit for any terminal.

local quote = {}

local escapes = {
  ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"',
}

local function escape_byte(char)
  return escapes[char] or ("\\x%02x"):format(char:byte())
end

local function escape_character(bytes)
  return ("\\u{%x}"):format(utf8.codepoint(bytes))
end

-- What moves, hides or turns round other letters: C1 controls, invisible blanks
-- and joiners, directions, line separators.
local HIDDEN = {
  "\xc2[\x80-\x9f]", "\xe2\x80[\x8b-\x8f\xa8-\xae]", "\xe2\x81[\xa0-\xaf]", "\xef\xbb\xbf",
}

-- `text` with the bytes that are no UTF-8 written out.
local function escape_invalid(text)
  local parts, from = {}, 1
  while true do
    local length, bad = utf8.len(text, from)
    if length then break end
    parts[#parts + 1] = text:sub(from, bad - 1)
    parts[#parts + 1] = ("\\x%02x"):format(text:byte(bad))
    from = bad + 1
  end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts)
end

---`text` without what a terminal may take for a command; quotes stay.
---@param text string
---@return string
function quote.harmless(text)
  text = escape_invalid(text:gsub('[\0-\31\127]', escape_byte))
  for _, pattern in ipairs(HIDDEN) do
    text = text:gsub(pattern, escape_character)
  end
  return text
end

---The beginning of `text` in at most `most` bytes, and how many are left out.
---@param text string
---@param most integer
---@return string, integer
function quote.beginning(text, most)
  if #text <= most then return text, 0 end
  local head = text:sub(1, most)
  -- Not within a letter.
  if text:find("^[\x80-\xbf]", most + 1) then head = head:gsub("[\xc0-\xff][\x80-\xbf]*$", "") end
  return head, #text - #head
end

---@param text string
---@param most integer  bytes of it to show
---@return string quoted, integer left_out
function quote.string(text, most)
  local head, left_out = quote.beginning(text, most)
  head = escape_invalid(head:gsub('[\0-\31\127"\\]', escape_byte))
  for _, pattern in ipairs(HIDDEN) do
    head = head:gsub(pattern, escape_character)
  end
  return '"' .. head .. '"', left_out
end

---A float always shows that it is one, and reads back as the same.
---@param value number
---@return string
function quote.number(value)
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if value ~= value then return "nan" end
  if value == math.huge then return "inf" end
  if value == -math.huge then return "-inf" end
  local text
  for digits = 14, 17 do
    text = ("%%.%dg"):format(digits):format(value)
    if tonumber(text) == value then break end
  end
  return text:find("[.e]") and text or text .. ".0"
end

local RESERVED = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or
  repeat return then true until while]]):gmatch("%a+") do
  RESERVED[word] = true
end

---Whether a key may stand without brackets.
---@param text string
---@return boolean
function quote.is_name(text)
  return text:find("^[%a_][%w_]*$") ~= nil and not RESERVED[text] and #text <= 100
end

return quote
