-- Text made harmless for a line of a log or a terminal, whoever wrote it.

local redact = require("sbx.log.redact")

local clean = {}

local MOST = 2000 -- bytes that are kept unless the caller says otherwise

local function escape_byte(char)
  return ("\\x%02x"):format(char:byte())
end

-- C1 controls stand for escape sequences too; in UTF-8 they are C2 80 .. C2 9F.
local function escape_c1(bytes)
  return ("\\u{%x}"):format(utf8.codepoint(bytes))
end

local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape_control(char)
  return escapes[char] or escape_byte(char)
end

-- Cuts `text` to `most` bytes, and not within a letter. Looks a little further for
-- secrets than it shows: one that lies across the end must not be half seen.
local function cut(text, most)
  local horizon = redact.horizon(most)
  if #text > horizon then
    local head = redact.text(text:sub(1, horizon))
    text = head:sub(1, math.max(0, #head - (horizon - most)))
  else
    text = redact.text(text)
    if #text <= most then return text, "" end
  end
  return text:sub(1, most):gsub("[\xc0-\xff][\x80-\xbf]*$", ""), "…"
end

---`text` without secrets, cut to `most` bytes, in valid UTF-8 and without what a
---terminal may take for a command. Line feeds and tabs are kept.
---@param text string
---@param most? integer
---@return string
function clean.utf8(text, most)
  local mark
  text, mark = cut(text, most or MOST)
  if utf8.len(text) then
    text = text:gsub("\xc2[\x80-\x9f]", escape_c1)
  else
    text = text:gsub("[\x80-\xff]", escape_byte)
  end
  return text:gsub("[\0-\8\11-\31\127]", escape_control) .. mark
end

---The same on one line.
---@param text string
---@param most? integer
---@return string
function clean.line(text, most)
  return (clean.utf8(text, most):gsub("[\n\t]", escape_control))
end

return clean
