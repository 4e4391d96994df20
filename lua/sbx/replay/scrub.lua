-- Takes secrets out of what is recorded. What a server tells once (a token) gets a name in
-- their place, the same wherever it occurs again, so that a replay hands out that name and
-- recognizes it; what a script sends (a key, a password) becomes "***".

local encoding = require("sbx.encoding")
local json = require("sbx.json")
local redact = require("sbx.log.redact")

local scrub = {}

local SHORTEST = 6 -- bytes: hiding every "1" would hide nothing and garble all
local MOST_PLAIN = 200 -- secrets that are looked for one by one
local WORD = "[%w%-._~+]+"

local HIDDEN = redact.HIDDEN

-- Fields that hold a table of secrets by name.
local TABLES = { environment_vars = true, secrets = true, env = true, environment = true }

---@class sbx.replay.Scrub
---@field private names table<string, string>  secret → what stands for it
---@field private list string[]     all of them, the longest first
---@field private odd string[]      those that are no single word
---@field private count integer     of the names given out
local Scrub = {}
Scrub.__index = Scrub

---@return sbx.replay.Scrub
function scrub.new()
  return setmetatable({ names = {}, list = {}, odd = {}, count = 0 }, Scrub)
end

local function insert(list, value)
  local place = 1
  while list[place] and #list[place] > #value do
    place = place + 1
  end
  table.insert(list, place, value)
end

local function add(self, value, name)
  if self.names[value] then return self.names[value] end
  self.names[value] = name
  insert(self.list, value)
  if not value:find("^" .. WORD .. "$") then insert(self.odd, value) end
  return name
end

---From now on `value` is hidden wherever it occurs; one that is very short is not.
---@param value string
function Scrub:hide(value)
  if #value >= SHORTEST then add(self, value, HIDDEN) end
end

-- A secret that the other side has told: its name.
local function told(self, value)
  if self.names[value] then return self.names[value] end
  self.count = self.count + 1
  local name = "replayed-secret-" .. self.count
  return #value >= SHORTEST and add(self, value, name) or name
end

---Hides what a request proves its right with: in its headers, cookies and address. A
---server may repeat any of it.
---@param wire table
function Scrub:hide_login(wire)
  local headers = wire.headers or {}
  for i = 1, #headers, 2 do
    if redact.is_secret_name(headers[i]) then
      local value = headers[i + 1]
      self:hide(value:match("^%a+ +(.+)$") or value)
    end
  end
  if wire.cookie then self:hide(wire.cookie) end
  local user, password = wire.url:match("^%a[%w+.-]*://([^/?#@:]*):([^/?#@]*)@")
  if user then self:hide(password) end
end

local function replace_plain(text, value, name)
  local at, last = text:find(value, 1, true)
  if not at then return text end
  local parts, from = {}, 1
  while at do
    parts[#parts + 1] = text:sub(from, at - 1)
    parts[#parts + 1] = name
    from = last + 1
    at, last = text:find(value, from, true)
  end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts)
end

-- Every known secret in `text` by its name; `size_kept` for bytes whose places count.
local function replace(self, text, size_kept)
  local function name_of(value)
    return size_kept and ("*"):rep(#value) or self.names[value]
  end
  local plain = #self.list > MOST_PLAIN and self.odd or self.list
  for _, value in ipairs(plain) do
    text = replace_plain(text, value, name_of(value))
  end
  if plain == self.list then return text end
  return (text:gsub(WORD, function(word)
    if self.names[word] then return name_of(word) end
    local head, rest = word:match("^(.-)([.~+_-]+)$")
    return head and self.names[head] and name_of(head) .. rest or nil
  end))
end

---Bytes of any kind without the secrets that are known; their number stays the same
---unless they are text.
---@param bytes string
---@return string
function Scrub:bytes(bytes)
  if not encoding.utf8_valid(bytes) then return replace(self, bytes, true) end
  return redact.keys(replace(self, bytes))
end

-- ------------------------------------------------------------------- addresses

local SIGNATURES = { sig = true, signature = true, ["x-amz-signature"] = true,
  ["x-amz-credential"] = true, ["x-goog-signature"] = true, ["x-goog-credential"] = true }

local function is_secret_query(name)
  return redact.is_secret_name(name) or SIGNATURES[name:lower()] or false
end

---An address without user and fragment; values of its query whose names sound secret are
---hidden, unless they have a name already.
---@param url string
---@return string
function Scrub:url(url)
  url = redact.keys(replace(self, url:match("^[^#]*")))
  url = url:gsub("^(%a[%w+.-]*://)[^/?@]*@", "%1")
  return (url:gsub("([?&])([^=&]*)=([^&]*)", function(mark, name, value)
    if value:find("^replayed%-secret%-%d+$") or not is_secret_query(name) then return nil end
    return mark .. name .. "=" .. HIDDEN
  end))
end

-- -------------------------------------------------------------------- requests

local function sent(self, value, name, inside)
  local kind = type(value)
  if kind == "string" then
    local secret = redact.is_secret_name(name)
    if inside or secret then
      local known = self.names[value]
      if known and known ~= HIDDEN then return known end
      if value ~= "" and (secret or inside == "secrets") then self:hide(value) end
      return HIDDEN
    end
    return redact.text(replace(self, value))
  end
  if kind ~= "table" then return value end
  local copy = {}
  for key, item in pairs(value) do
    local label = type(key) == "string" and key or name
    copy[key] = sent(self, item, label, inside or (TABLES[key] and key) or nil)
  end
  return copy
end

---What a request says, as text that two runs have in common: JSON in one form, and
---without secrets. Nil for bytes that are no text.
---@param body string
---@return string|nil
function Scrub:request(body)
  if not encoding.utf8_valid(body) then return nil end
  if body:find("^%s*[{%[]") then
    local ok, value = pcall(json.decode, body)
    if ok then return json.encode(sent(self, value, ""), { sort_keys = true }) end
  end
  return redact.text(replace(self, body))
end

-- --------------------------------------------------------------------- answers

local function collect_url(self, text)
  for name, value in text:gmatch("[?&]([%w_%-]+)=([^&#%s\"]+)") do
    if is_secret_query(name) and #value >= SHORTEST then told(self, value) end
  end
end

-- Finds what is secret by its name; short ones come back as pairs of field and value.
local function collect(self, value, name, short)
  if type(value) == "table" then
    for key, item in pairs(value) do
      -- All that is in a table of secrets is one.
      local label = name == "secrets" and name or type(key) == "string" and key or name
      collect(self, item, label, short)
    end
  elseif type(value) == "string" and value ~= "" then
    if redact.is_secret_name(name) and value ~= HIDDEN then
      local placeholder = told(self, value)
      if #value < SHORTEST then short[#short + 1] = { name, value, placeholder } end
    elseif value:find("://", 1, true) then
      collect_url(self, value)
    end
  end
end

local function quoted(text)
  return json.encode(text):sub(2, -2)
end

local function escaped(text)
  return (text:gsub("%p", "%%%0"))
end

local function as_json(self, text)
  if not text:find("^%s*[{%[]") then return text end
  local ok, value = pcall(json.decode, text)
  if not ok then return text end
  local short = {}
  collect(self, value, "", short)
  for _, each in ipairs(short) do
    local pattern = ('("%s"%%s*:%%s*)"%s"'):format(escaped(quoted(each[1])),
      escaped(quoted(each[2])))
    text = text:gsub(pattern, '%1"' .. each[3] .. '"')
  end
  -- Where JSON writes a secret in another way than it is.
  for _, secret in ipairs(self.odd) do
    local form = quoted(secret)
    if form ~= secret then text = replace_plain(text, form, self.names[secret]) end
  end
  return text
end

---The body of an answer without secrets, else as it is.
---@param body string
---@return string
function Scrub:answer(body)
  if encoding.utf8_valid(body) then body = as_json(self, body) end
  return self:bytes(body)
end

---Headers of an answer without those that hold secrets.
---@param headers table<string, string>
---@return table<string, string>
function Scrub:headers(headers)
  local kept = {}
  for name, value in pairs(headers) do
    if not redact.is_secret_name(name) then
      kept[name] = name:lower() == "location" and self:url(value) or self:bytes(value)
      if not encoding.utf8_valid(kept[name]) then kept[name] = nil end
    end
  end
  return json.object(kept)
end

return scrub
