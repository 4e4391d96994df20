-- What a log never shows: strings that were registered, values whose names
-- sound secret, and what has the shape of a key.

local redact = {}

redact.HIDDEN = "***"

local SHORTEST = 6 -- bytes: hiding every "1" would garble the text and hide nothing

-- ----------------------------------------------------------------------- names

local WORDS = {
  "token", "secret", "password", "passwd", "passphrase", "authorization", "cookie", "apikey",
  "credential", "private_key",
}

---Whether what is called `name` should not be seen: "api_key", "Set-Cookie".
---@param name string
---@return boolean
function redact.is_secret_name(name)
  local lower = name:gsub("(%l)(%u)", "%1_%2"):lower():gsub("-", "_")
  for _, word in ipairs(WORDS) do
    if lower:find(word, 1, true) then return true end
  end
  return lower == "key" or lower:find("_key$") ~= nil
end

-- ------------------------------------------------------------------ registered

local registered = {} -- the longest first: one may be part of another
local known = {}
local longest = 0

---From now on `value` is replaced wherever it occurs in a text. Shorter than six
---bytes it is not: it would be found everywhere.
---@param value string
function redact.add(value)
  if #value < SHORTEST or known[value] then return end
  known[value] = true
  longest = math.max(longest, #value)
  local place = 1
  while registered[place] and #registered[place] > #value do
    place = place + 1
  end
  table.insert(registered, place, value)
end

local function without(text, value)
  local at, last = text:find(value, 1, true)
  if not at then return text end
  local parts, from = {}, 1
  while at do
    parts[#parts + 1] = text:sub(from, at - 1)
    from = last + 1
    at, last = text:find(value, from, true)
  end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts, redact.HIDDEN)
end

-- ---------------------------------------------------------------------- shapes

-- Keys that say what they are. Long hexadecimal numbers do not: most are the
-- digests and names of things. No pattern starts with a repetition, which would
-- be tried from each of its letters again.
-- The first word is looked for first: it is not there in most texts.
local SHAPES = {
  { "earer", "([Bb]earer%s+)[%w%-._~+/=]+", "%1***" },
  { "asic", "([Bb]asic%s+)[%w+/]+=+", "%1***" },
  { "uthorization:", "([Aa]uthorization:%s*)[^\r\n]+", "%1***" },
  { "ookie:", "([Cc]ookie:%s*)[^\r\n]+", "%1***" },
  { "://", "(://)[^/%s@]+@", "%1***@" },
  { "sk-", "%f[%w]sk%-[%w_-]+", function(key) return #key >= 20 and "sk-***" or nil end },
  { "gh", "%f[%w]gh[pousr]_%w+", function(key)
    return #key >= 20 and key:sub(1, 4) .. "***" or nil
  end },
  { "xox", "%f[%w]xox[abprs]%-[%w-]+", function(key) return key:sub(1, 5) .. "***" end },
  { "AKIA", "%f[%w]AKIA[%u%d]+", function(key) return #key == 20 and "AKIA***" or nil end },
  { "eyJ", "%f[%w]eyJ[%w_-]+%.[%w_-]+%.?[%w_-]*", "eyJ***" },
  { "-----BEGIN", "(%-%-%-%-%-BEGIN [%u ]*PRIVATE KEY%-%-%-%-%-).-%-%-%-%-%-END",
    "%1***-----END" },
  { "-----BEGIN", "(%-%-%-%-%-BEGIN [%u ]*PRIVATE KEY%-%-%-%-%-)[^*].*", "%1***" },
}

-- Assignments in text that somebody else put together: api_key=abc, "token":"abc".
-- Each is a name with its sign, and what its value looks like.
local ASSIGNMENTS = {
  { '%f[%w_-]([%w_-]+)(\\?["\']?%s?[=:]%s?\\?")', '^[^"\\\n]+' },
  { "%f[%w_-]([%w_-]+)([\"']?%s?[=:]%s?')", "^[^'\\\n]+" },
  { "%f[%w_-]([%w_-]+)([\"']?%s?[=:]%s?)", "^[^%s\"'&,;)}%]]+" },
}

-- A number is hidden too, unless it counts tokens.
local function is_count(name, value)
  return name:lower():find("token", 1, true) ~= nil and #value <= 9 and not value:find("%D")
end

local LOOSE = { key = true, token = true } -- these need more than a colon behind them

local function is_hidden(name, between, value)
  if is_count(name, value) or value:sub(1, 3) == redact.HIDDEN then return false end
  -- "secrets: too many" is a sentence, "token": "x" is not.
  local loose = between:find("^[%s:]") ~= nil
  return not (loose and (#value < 6 or not value:find("%d") or LOOSE[name:lower()]))
end

-- A value whose name is harmless is looked into: `url=http://h/?token=x`.
local function hide_assigned(text, head, value_pattern)
  local parts, from, at = {}, 1, 1
  while true do
    local first, last, name, between = text:find(head, at)
    if not first then break end
    at = last + 1
    local start, stop = nil, nil
    if redact.is_secret_name(name) then start, stop = text:find(value_pattern, at) end
    if start and is_hidden(name, between, text:sub(start, stop)) then
      parts[#parts + 1] = text:sub(from, last) .. redact.HIDDEN
      from, at = stop + 1, stop + 1
    end
  end
  if from == 1 then return text end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts)
end

---Whether the value of a field is not to be seen.
---@param name string
---@param value any
---@return boolean
function redact.hides(name, value)
  if type(value) == "boolean" or not redact.is_secret_name(name) then return false end
  return not (type(value) == "number" and is_count(name, tostring(value)))
end

---`text` without what was registered and what has the shape of a key.
---@param text string
---@return string
function redact.keys(text)
  for _, value in ipairs(registered) do
    text = without(text, value)
  end
  for _, shape in ipairs(SHAPES) do
    if text:find(shape[1], 1, true) then text = text:gsub(shape[2], shape[3]) end
  end
  return text
end

---`text` without secrets: also without what is assigned to names that sound so.
---@param text string
---@return string
function redact.text(text)
  text = redact.keys(text)
  if not text:find("[=:]") then return text end
  for _, pattern in ipairs(ASSIGNMENTS) do
    text = hide_assigned(text, pattern[1], pattern[2])
  end
  return text
end

---How much of a text must be looked at, so that no secret that begins within
---the first `most` bytes escapes by being cut in two.
---@param most integer
---@return integer
function redact.horizon(most)
  return most + math.max(longest, 200)
end

return redact
