-- Takes the secrets of a call out of what a server has written. It may quote them in
-- its own way: as JSON does, percent-encoded, or one line of many.

local url = require("sbx.url")

local secrets = {}

local HIDDEN = "***"
local SHORTEST = 6 -- bytes: replacing every "1" would garble the text and hide nothing
local SHORTEST_LINE = 8 -- the same of a secret that has several lines

local short = {
  ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
  ["\r"] = "\\r", ["\t"] = "\\t",
}

local function escape_control(char)
  return short[char] or ("\\u%04x"):format(char:byte())
end

local function as_json(text)
  return (text:gsub('[%c"\\]', escape_control))
end

local function escape_letter(bytes)
  local code = utf8.codepoint(bytes)
  if code < 0x10000 then return ("\\u%04x"):format(code) end
  code = code - 0x10000
  return ("\\u%04x\\u%04x"):format(0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))
end

local function as_ascii_json(text)
  text = as_json(text)
  if not utf8.len(text) then return text end
  return (text:gsub("[\xC2-\xF4][\x80-\xBF]+", escape_letter))
end

local function upper_escapes(text)
  return (text:gsub("\\u(%x%x%x%x)", function(digits) return "\\u" .. digits:upper() end))
end

local function add_forms(found, text)
  local plain, ascii = as_json(text), as_ascii_json(text)
  -- The last two: an answer that quotes another one.
  local forms = { text, plain, ascii, upper_escapes(ascii), as_json(plain), as_json(ascii) }
  for _, form in ipairs(forms) do
    found[form] = true
    found[(form:gsub("/", "\\/"))] = true
  end
  found[url.escape(text)] = true
end

-- The longest first: one may be part of another.
local function forms_of(list)
  local found, forms = {}, {}
  for _, secret in ipairs(list) do
    if #secret >= SHORTEST then add_forms(found, secret) end
    for line in secret:gmatch("[^\r\n]+") do
      if line ~= secret and #line >= SHORTEST_LINE then add_forms(found, line) end
    end
  end
  for form in pairs(found) do
    forms[#forms + 1] = form
  end
  table.sort(forms, function(a, b)
    if #a ~= #b then return #a > #b end
    return a < b
  end)
  return forms
end

local forms_by_list = setmetatable({}, { __mode = "k" })

---`text` without any of the strings in `list`, in whatever form. Those of less than six
---bytes stay.
---@param text string
---@param list string[]  not changed afterwards
---@return string
function secrets.hide(text, list)
  local forms = forms_by_list[list]
  if not forms then
    forms = forms_of(list)
    forms_by_list[list] = forms
  end
  for _, form in ipairs(forms) do
    local at, last = text:find(form, 1, true)
    while at do
      text = text:sub(1, at - 1) .. HIDDEN .. text:sub(last + 1)
      at, last = text:find(form, at + #HIDDEN, true)
    end
  end
  return text
end

return secrets
