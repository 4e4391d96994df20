-- Texts that a test may have made of any bytes, as reports can hold them.

local function show(bytes)
  return (bytes:gsub(".", function(byte) return ("\\x%02x"):format(byte:byte()) end))
end

---The text with what is no UTF-8 and no character of XML shown as \x1b. Of the
---control characters tab, line feed and carriage return stay.
---@param text string
---@return string
return function(text)
  local parts, from = {}, 1
  while from <= #text do
    local _, bad = utf8.len(text, from)
    local last = bad and bad - 1 or #text
    parts[#parts + 1] = text:sub(from, last)
    if bad then parts[#parts + 1] = show(text:sub(bad, bad)) end
    from = last + 2
  end
  -- U+FFFE and U+FFFF are characters of nothing.
  return (table.concat(parts):gsub("[%z\1-\8\11\12\14-\31\127]", show)
    :gsub("\xEF\xBF[\xBE\xBF]", show))
end
