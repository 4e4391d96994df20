-- The options of a request: their names, and what each may be. The caller's own
-- line is what a refusal names.

local check = require("sbx.check")

---@class sbx.http.options
local options = {}

local function is_seconds(value)
  return value == false or (type(value) == "number" and value > 0 and value <= 1e9)
end

local function is_whole(least, most)
  return function(value)
    local whole = type(value) == "number" and math.tointeger(value)
    return whole and whole >= least and whole <= most
  end
end

local function is_a(...)
  local wanted = {}
  for _, name in ipairs { ... } do
    wanted[name] = true
  end
  return function(value) return wanted[type(value)] end
end

local function is_one_of(...)
  local wanted = {}
  for _, value in ipairs { ... } do
    wanted[value] = true
  end
  return function(value) return wanted[value] end
end

local SECONDS = { is_seconds, "seconds above 0, or false for no limit" }
local STRING = { is_a("string"), "a string" }
local TABLE = { is_a("table"), "a table" }
local BOOLEAN = { is_a("boolean"), "true or false" }
local BYTES = { is_whole(0, math.maxinteger), "a number of bytes" }

local function is_login(value)
  return type(value) == "table" and type(value[1]) == "string" and type(value[2]) == "string"
    and not value[1]:find(":", 1, true)
end

-- Also of a client, which makes a jar of `true`.
local function is_jar(value)
  return type(value) == "table" and type(value.core) == "userdata"
end

-- Option name → test, and what to say when it fails.
options.request = {
  headers = TABLE,
  query = TABLE,
  body = { is_a("string", "function"), "a string or a function" },
  content_length = BYTES,
  body_path = STRING,
  json = { function() return true end },
  form = TABLE,
  multipart = TABLE,
  save = STRING,
  bearer = STRING,
  basic = { is_login, "{ user, password }, without a colon in the user" },
  cookies = { is_jar, "what http.cookies() made" },
  timeout = SECONDS,
  connect_timeout = SECONDS,
  idle_timeout = SECONDS,
  queue_timeout = SECONDS,
  unix = STRING,
  proxy = {
    function(value) return value == false or type(value) == "string" end,
    "a URL, or false for none",
  },
  connect_to = {
    function(value) return type(value) == "string" and value:find("^[^%s,]+:%d+$") end,
    "host:port",
  },
  max_body = BYTES,
  follow = {
    function(value) return type(value) == "table" or is_whole(0, 100)(value) end,
    "a whole number between 0 and 100, or a table",
  },
  retry = { is_a("number", "table"), "a number of tries, or a table" },
  decompress = BOOLEAN,
  version = { is_whole(1, 2), "1 or 2" },
  verify = BOOLEAN,
  ca_file = STRING,
  cert = STRING,
  key = STRING,
  tls_min = { is_one_of("1.2", "1.3"), '"1.2" or "1.3"' },
  pinned_key = STRING,
  at_most_once = BOOLEAN,
  raise = BOOLEAN,
  limit = { is_whole(1, 100000), "a whole number of at least 1" },
  group = STRING,
}

options.part = {
  name = STRING, filename = STRING, type = STRING, path = STRING, size = BYTES,
  data = { is_a("string", "function"), "a string or a function" },
}

options.follow = {
  most = options.request.follow, downgrade = BOOLEAN, headers = TABLE,
}

-- A client's own besides; `cookies` may be true.
options.client = {
  base = STRING,
  cookies = {
    function(value) return value == true or is_jar(value) end,
    "true, or what http.cookies() made",
  },
}
for name, rule in pairs(options.request) do
  options.client[name] = options.client[name] or rule
end

---Raises on an unknown option and on a wrong type.
---@param given table
---@param known table  option name → test and text
---@param level integer  whose line the error names
function options.check(given, known, level)
  for name, value in pairs(given) do
    local rule = known[name]
    if not rule then check.options(given, known, level + 1) end
    if not rule[1](value) then
      local got = type(value) == "number" and tostring(value) or "a " .. type(value)
      error(name .. ": expected " .. rule[2] .. ", got " .. got, level + 1)
    end
  end
end

return options
