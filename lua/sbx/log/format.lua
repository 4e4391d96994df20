-- A message and its fields as one line: for people, as key=value, or as JSON.

local clean = require("sbx.log.clean")
local json = require("sbx.json")
local redact = require("sbx.log.redact")
local time = require("sbx.core.time")

local format = {}

local MAX_DEPTH = 3
local MAX_ITEMS = 20

---`tostring(value)`, whatever its metamethods do.
---@param value any
---@return string
function format.text_of(value)
  local ok, text = pcall(tostring, value)
  if ok then return text end
  return "(a " .. type(value) .. " that cannot be shown)"
end

-- The metatable's __tostring speaks for a value. Fields are read raw, so that no
-- metamethod of a logged value runs but this.
local function speaks(value)
  local meta = getmetatable(value)
  return type(value) ~= "table" or (type(meta) == "table" and rawget(meta, "__tostring") ~= nil)
end

-- What a table holds: { key =, name = }, positions first, then by name.
local function entries_of(value)
  local entries = {}
  for key in next, value do
    entries[#entries + 1] = { key = key, name = format.text_of(key) }
  end
  table.sort(entries, function(a, b)
    local a_counts, b_counts = math.type(a.key) == "integer", math.type(b.key) == "integer"
    if a_counts ~= b_counts then return a_counts end
    if a_counts then return a.key < b.key end
    return a.name < b.name
  end)
  return entries
end

-- ----------------------------------------------------------------------- text

local show

local function show_table(value, depth)
  if depth >= MAX_DEPTH then return "{…}" end
  local parts = {}
  for i, entry in ipairs(entries_of(value)) do
    if i > MAX_ITEMS then
      parts[i] = "…"
      break
    end
    local text = show(entry.name, rawget(value, entry.key), depth + 1)
    parts[i] = math.type(entry.key) == "integer" and text or entry.name .. "=" .. text
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

function show(name, value, depth)
  if redact.hides(name, value) then return redact.HIDDEN end
  if not speaks(value) then return show_table(value, depth) end
  return format.text_of(value)
end

local function quote(text)
  if text ~= "" and not text:find('[%s="]') then return text end
  return '"' .. text:gsub('"', '\\"') .. '"'
end

local function describe(fields)
  local parts = {}
  for i, entry in ipairs(entries_of(fields)) do
    local text = clean.line(show(entry.name, rawget(fields, entry.key), 0))
    parts[i] = clean.line(entry.name, 100):gsub('[%s="]', "_") .. "=" .. quote(text)
  end
  return parts
end

-- ----------------------------------------------------------------------- JSON

local structure

local function is_list(entries)
  for i, entry in ipairs(entries) do
    if entry.key ~= i then return false end
  end
  return #entries > 0
end

local function structure_table(value, depth)
  if depth >= MAX_DEPTH then return "{…}" end
  local entries = entries_of(value)
  local list = is_list(entries)
  local copy = list and json.array() or json.object()
  for i, entry in ipairs(entries) do
    if i > MAX_ITEMS then
      copy[list and i or "…"] = ("%d more"):format(#entries - MAX_ITEMS)
      break
    end
    local name = list and i or clean.utf8(entry.name, 100)
    copy[name] = structure(entry.name, rawget(value, entry.key), depth + 1)
  end
  return copy
end

function structure(name, value, depth)
  if redact.hides(name, value) then return redact.HIDDEN end
  if type(value) == "boolean" or value == json.null then return value end
  if math.type(value) == "integer" then return value end
  if type(value) == "number" and value - value == 0 then return value end
  if not speaks(value) then return structure_table(value, depth) end
  return clean.utf8(format.text_of(value))
end

local RESERVED = { time = true, level = true, msg = true }

local function as_json(level, text, fields, stamp)
  local parts = {
    '{"time":' .. json.encode(stamp), '"level":' .. json.encode(level),
    '"msg":' .. json.encode(clean.utf8(text)),
  }
  for _, entry in ipairs(fields and entries_of(fields) or {}) do
    local value = structure(entry.name, rawget(fields, entry.key), 0)
    -- A name of ours would stand there twice.
    local name = (RESERVED[entry.name] and "_" or "") .. clean.utf8(entry.name, 100)
    parts[#parts + 1] = json.encode(name) .. ":" .. json.encode(value, { sort_keys = true })
  end
  return table.concat(parts, ",") .. "}\n"
end

-- ---------------------------------------------------------------------- public

---"2026-03-02T09:00:00.250Z", always with milliseconds.
---@return string
function format.timestamp()
  local now = time.wall()
  local whole = math.floor(now)
  return ("%s.%03dZ"):format(time.iso(whole):sub(1, -2), math.floor((now - whole) * 1000))
end

---The line that a message becomes, with its newline.
---@param level string
---@param message any
---@param fields? table
---@param form "terminal"|"text"|"json"
---@return string
function format.line(level, message, fields, form)
  local text = format.text_of(message)
  if form == "json" then return as_json(level, text, fields, format.timestamp()) end
  text = clean.line(text)
  local parts = fields and describe(fields) or {}
  if form == "terminal" then
    local mark = (level == "warn" or level == "error") and level .. ": " or ""
    local tail = #parts > 0 and "  (" .. table.concat(parts, " ") .. ")" or ""
    return "sbxlua: " .. mark .. text .. tail .. "\n"
  end
  local head = ("time=%s level=%s msg=%s"):format(format.timestamp(), level, quote(text))
  table.insert(parts, 1, head)
  return table.concat(parts, " ") .. "\n"
end

return format
