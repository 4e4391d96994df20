-- The objects of the library that hold more than a person wants to see at a prompt, in
-- one line each: what it is, how it is doing, how old. Read raw, and whatever the fields.

local redact = require("sbx.log.redact")
local quote = require("sbx.inspect.quote")
local time = require("sbx.time")

local brief = {}

local MOST_TEXT = 80 -- bytes of a field
local LOOKED_AT = 4096 -- bytes of a body: secrets are looked for before it is cut

local function text_of(value, most)
  if type(value) ~= "string" or value == "" then return nil end
  local head, left_out = quote.beginning(redact.text(value:sub(1, LOOKED_AT)), most or MOST_TEXT)
  return quote.harmless(head) .. (left_out > 0 and "…" or "")
end

-- Clocks differ: nothing is younger than nothing.
local function age_of(stamp)
  local ok, made = pcall(time.parse_iso, stamp)
  if not ok then return nil end
  return time.format_duration(math.max(0, math.floor(time.wall() - made))) .. " old"
end

-- What there is of the parts, which may be nil.
local function joined(count, ...)
  local found = {}
  for i = 1, count do
    found[#found + 1] = (select(i, ...))
  end
  return table.concat(found, ", ")
end

local function plain_type(headers)
  local of = type(headers) == "table" and text_of(rawget(headers, "content-type")) or nil
  return of and of:match("^[^;]*")
end

-- ---------------------------------------------------------------------- objects

local function sandbox(value)
  local function field(name)
    return text_of(rawget(value, name))
  end
  local status, why = field("status"), field("termination_reason") or field("error_type")
  if why then status = ("%s (%s)"):format(status or "?", why) end
  return "sandbox " .. joined(7, field("id"), field("name"), status, field("docker_image"),
    age_of(rawget(value, "created_at")), rawget(value, "keep") and "kept" or nil,
    field("error_message"))
end

local function child(value)
  local core = rawget(value, "core")
  local running = type(core) == "userdata" and core.running
  return "process " .. joined(3, text_of(rawget(value, "name")) or "?",
    ("pid %d"):format(rawget(value, "pid")), running and "running" or "ended")
end

local function http_client(value)
  local base = text_of(rawget(value, "base"))
  return "HTTP client" .. (base and " of " .. base or "")
end

-- A body that is text tells more than its size.
local function beginning_of(body)
  if type(body) ~= "string" or body == "" then return "" end
  local head = quote.beginning(body, LOOKED_AT)
  if not utf8.len(head) or head:find("\0", 1, true) then return "" end
  return ": " .. text_of((head:gsub("%s+", " ")))
end

local function response(value)
  local saved = text_of(rawget(value, "saved"))
  return ("%s %s: %d %s"):format(text_of(rawget(value, "method")) or "?",
      text_of(rawget(value, "label"), 200) or "?", rawget(value, "status"),
      joined(4, text_of(rawget(value, "reason")), plain_type(rawget(value, "headers")),
        ("%d bytes"):format(rawget(value, "size")), saved and "in " .. saved))
    .. beginning_of(rawget(value, "body"))
end

local of = {
  ["sbx.sandbox.Box"] = sandbox, ["sbx.Process"] = child, ["sbx.http.Client"] = http_client,
  ["sbx.http.Response"] = response,
}

---The line for an object whose type has this name; nil where its fields say enough,
---or do not make one.
---@param name string|nil
---@param value table
---@return string|nil
function brief.line(name, value)
  local line = of[name]
  if not line then return nil end
  local ok, text = pcall(line, value)
  return ok and text or nil
end

return brief
