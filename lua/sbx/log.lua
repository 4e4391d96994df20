-- Messages for people, on stderr: readable on a terminal, `key=value` elsewhere.
-- Whatever a peer sent is made harmless first: no value can forge a line, move
-- the cursor, or show a secret.

local time = require("sbx.core.time")

---@class sbx.log
local log = {}

local ranks = { debug = 1, info = 2, warn = 3, error = 4, off = 5 }
local MAX_VALUE = 2000 -- bytes of one value; the rest is cut
local MAX_DEPTH = 3

local threshold, on_terminal
local write = function(line) io.stderr:write(line) end

local secret_words = {
  "token", "secret", "password", "passwd", "authorization", "cookie", "apikey",
}

local function is_secret(name)
  local lower = name:lower():gsub("-", "_")
  for _, word in ipairs(secret_words) do
    if lower:find(word, 1, true) then return true end
  end
  return lower == "key" or lower:find("_key$") ~= nil
end

local function escape_byte(char)
  return ("\\x%02x"):format(char:byte())
end

-- C1 controls stand for escape sequences too; in UTF-8 they are C2 80 .. C2 9F.
local function escape_c1(bytes)
  return ("\\u{%x}"):format(utf8.codepoint(bytes))
end

local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

---`text` without control characters, terminal escapes, broken UTF-8 or bearer
---tokens, so that it can be shown on any terminal and stays on one line.
---@param text string
---@param most? integer  bytes to keep (default 2000)
---@return string
function log.clean(text, most)
  most = most or MAX_VALUE
  local cut = #text > most
  if cut then text = text:sub(1, most):gsub("[\xc0-\xff][\x80-\xbf]*$", "") end
  text = text:gsub("([Bb]earer%s+)[%w%-._~+/=]+", "%1***")
  if utf8.len(text) then
    text = text:gsub("\xc2[\x80-\x9f]", escape_c1)
  else
    text = text:gsub("[\x80-\xff]", escape_byte)
  end
  text = text:gsub("[\0-\31\127]", function(char)
    return escapes[char] or escape_byte(char)
  end)
  return cut and text .. "…" or text
end

local show

local function show_table(value, depth)
  if depth >= MAX_DEPTH then return "{…}" end
  local names, parts = {}, {}
  for name in pairs(value) do
    names[#names + 1] = name
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for i, name in ipairs(names) do
    if i > 20 then
      parts[i] = "…"
      break
    end
    local text = show(tostring(name), value[name], depth + 1)
    parts[i] = math.type(name) == "integer" and text or tostring(name) .. "=" .. text
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

function show(name, value, depth)
  if is_secret(name) then return "***" end
  if type(value) == "table" then
    local meta = getmetatable(value)
    if not (type(meta) == "table" and meta.__tostring) then
      return show_table(value, depth)
    end
  end
  return tostring(value)
end

local function quote(text)
  if text ~= "" and not text:find('[%s="]') then return text end
  return '"' .. text:gsub('"', '\\"') .. '"'
end

local function sorted_names(fields)
  local names = {}
  for name in pairs(fields) do
    names[#names + 1] = tostring(name)
  end
  table.sort(names)
  return names
end

local function describe(fields)
  local parts = {}
  for i, name in ipairs(sorted_names(fields)) do
    local text = log.clean(show(name, fields[name], 0))
    parts[i] = log.clean(name, 100):gsub('[%s="]', "_") .. "=" .. quote(text)
  end
  return parts
end

---The line that a message becomes, with its newline.
---@param level string
---@param message any
---@param fields? table
---@param terminal boolean  the form for people, else `key=value`
---@return string
function log.format(level, message, fields, terminal)
  local text = log.clean(tostring(message))
  local parts = fields and describe(fields) or {}
  if terminal then
    local mark = (level == "warn" or level == "error") and level .. ": " or ""
    local tail = #parts > 0 and "  (" .. table.concat(parts, " ") .. ")" or ""
    return "sbxlua: " .. mark .. text .. tail .. "\n"
  end
  table.insert(parts, 1, "msg=" .. quote(text))
  table.insert(parts, 1, "level=" .. level)
  table.insert(parts, 1, "time=" .. time.iso())
  return table.concat(parts, " ") .. "\n"
end

local function start()
  local wanted = (os.getenv("SBXLUA_LOG") or "info"):lower()
  threshold = threshold or ranks[wanted] or ranks.info
  local found, host = pcall(require, "sbx.core.host")
  on_terminal = found and host.isatty ~= nil and host.isatty(2) or false
end

local function emit(level, message, fields)
  if on_terminal == nil then start() end
  if ranks[level] < threshold then return end
  if fields ~= nil and type(fields) ~= "table" then
    error("log." .. level .. ": fields: expected a table, got a " .. type(fields), 3)
  end
  -- A closed stderr is no reason to fail.
  pcall(write, log.format(level, message, fields, on_terminal))
end

---Sets the lowest level that is shown.
---@param level "debug"|"info"|"warn"|"error"|"off"
function log.set_level(level)
  if not ranks[level] then
    error("log level: expected debug, info, warn, error or off, got " .. tostring(level), 2)
  end
  threshold = ranks[level]
end

---Sends lines to `fn` instead of stderr; nil puts stderr back.
---@param fn? fun(line: string)
function log.set_writer(fn)
  write = fn or function(line) io.stderr:write(line) end
end

---Each writes one line to stderr: the message, then the fields by name. Fields
---whose names sound secret (token, key, password …) show `***`. They never
---wait and never raise on account of stderr.
---@param message any
---@param fields? table<string, any>
function log.debug(message, fields) emit("debug", message, fields) end

---@param message any
---@param fields? table<string, any>
function log.info(message, fields) emit("info", message, fields) end

---@param message any
---@param fields? table<string, any>
function log.warn(message, fields) emit("warn", message, fields) end

---@param message any
---@param fields? table<string, any>
function log.error(message, fields) emit("error", message, fields) end

return log
