-- Turns the options of a request into what sbx.core.http takes. Everything that
-- a caller can get wrong is refused here, with the caller's own line.

local check = require("sbx.check")
local json = require("sbx.json")

---@class sbx.http.request
local request = {}

local MEBIBYTE = 1024 * 1024

-- Without a total limit a request ends after this long without a byte.
local IDLE_SECONDS = 300
local CONNECT_SECONDS = 10
local MAX_BODY = 64 * MEBIBYTE

local function is_seconds(value)
  return value == false or (type(value) == "number" and value > 0 and value <= 1e9)
end

local function is_whole(least, most)
  return function(value)
    local whole = type(value) == "number" and math.tointeger(value)
    return whole and whole >= least and whole <= most
  end
end

local function is_a(name)
  return function(value) return type(value) == name end
end

local SECONDS = { is_seconds, "seconds above 0, or false for no limit" }
local STRING = { is_a("string"), "a string" }
local TABLE = { is_a("table"), "a table" }
local BOOLEAN = { is_a("boolean"), "true or false" }

-- Option name → test, and what to say when it fails.
local OPTIONS = {
  headers = TABLE,
  query = TABLE,
  body = STRING,
  body_path = STRING,
  json = { function() return true end },
  multipart = TABLE,
  save = STRING,
  timeout = SECONDS,
  connect_timeout = SECONDS,
  idle_timeout = SECONDS,
  queue_timeout = SECONDS,
  unix = STRING,
  proxy = {
    function(value) return value == false or type(value) == "string" end,
    "a URL, or false for none",
  },
  max_body = { is_whole(0, math.maxinteger), "a number of bytes" },
  follow = { is_whole(0, 100), "a whole number between 0 and 100" },
  version = { is_whole(1, 2), "1 or 2" },
  verify = BOOLEAN,
  ca_file = STRING,
  at_most_once = BOOLEAN,
  raise = BOOLEAN,
  limit = { is_whole(1, 100000), "a whole number of at least 1" },
  group = STRING,
}

request.options = OPTIONS

---Raises on an unknown option and on a wrong type.
---@param options table
---@param known table  option name → test and text
---@param level integer  whose line the error names
function request.check(options, known, level)
  for name, value in pairs(options) do
    local rule = known[name]
    if not rule then check.options(options, known, level + 1) end
    if not rule[1](value) then
      local got = type(value) == "number" and tostring(value) or "a " .. type(value)
      error(name .. ": expected " .. rule[2] .. ", got " .. got, level + 1)
    end
  end
end

local function escape_byte(char)
  return ("%%%02X"):format(char:byte())
end

---Percent-encodes all bytes but letters, digits and `-._~`.
---@param text string
---@return string
function request.escape(text)
  return (text:gsub("[^%w%-._~]", escape_byte))
end

local function add_query(url, query, level)
  local names, pairs_ = {}, {}
  for name in pairs(query) do
    if type(name) ~= "string" then
      error("query: expected names, got a " .. type(name), level + 1)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local values = query[name]
    if type(values) ~= "table" then values = { values } end
    for _, value in ipairs(values) do
      local pair = request.escape(name) .. "=" .. request.escape(tostring(value))
      pairs_[#pairs_ + 1] = pair
    end
  end
  if #pairs_ == 0 then return url end
  local before, fragment = url:match("^([^#]*)(.*)$")
  local joint = before:find("?", 1, true) and "&" or "?"
  return before .. joint .. table.concat(pairs_, "&") .. fragment
end

-- Names that were found good, in lower case: scripts use few, many times.
local known_names, known_count = {}, 0

local function check_name(name, level)
  if type(name) ~= "string" then
    error("headers: expected names, got a " .. type(name), level + 1)
  end
  if name:find("[^%w!#$%%&'*+.^_`|~-]") or name == "" then
    error(("headers: %q is not a header name"):format(name), level + 1)
  end
  local lower = name:lower()
  if lower == "content-length" or lower == "transfer-encoding" then
    error("headers: " .. lower .. " follows from the body and cannot be set", level + 1)
  end
  if known_count >= 200 then known_names, known_count = {}, 0 end
  known_names[name], known_count = lower, known_count + 1
  return lower
end

local function append_header(list, name, value, level)
  local kind = type(value)
  if kind ~= "string" then
    if kind ~= "number" then
      error("headers: " .. name .. ": expected a string, got a " .. kind, level + 1)
    end
    value = tostring(value)
  end
  if value:find("[%z\1-\8\10-\31]") then
    error("headers: " .. name .. ": must not hold control characters", level + 1)
  end
  local count = #list
  list[count + 1], list[count + 2] = name, value
end

-- Appends the headers to a flat list and returns what it saw of two of them.
local function flatten(headers, list, level)
  local typed, keyed = false, false
  for name, value in pairs(headers) do
    local lower = known_names[name] or check_name(name, level + 1)
    typed = typed or lower == "content-type"
    keyed = keyed or lower == "idempotency-key"
    if type(value) == "table" then
      for _, one in ipairs(value) do
        append_header(list, name, one, level + 1)
      end
    else
      append_header(list, name, value, level + 1)
    end
  end
  return typed, keyed
end

local PART = { name = STRING, filename = STRING, type = STRING, data = STRING, path = STRING }

-- Copies the parts, so that the caller may change its tables meanwhile.
local function copy_parts(parts, level)
  if #parts == 0 or #parts > 100 then
    error("multipart: expected 1 to 100 parts", level + 1)
  end
  local copies = {}
  for i, part in ipairs(parts) do
    if type(part) ~= "table" then
      error("multipart: expected tables, got a " .. type(part), level + 1)
    end
    request.check(part, PART, level + 1)
    if not part.name or (part.data == nil) == (part.path == nil) then
      error("multipart: a part needs a name, and either data or path", level + 1)
    end
    local filename = part.filename or (part.path and part.path:match("[^/]*$"))
    copies[i] = {
      name = part.name,
      filename = filename,
      type = part.type or (filename and "application/octet-stream") or nil,
      data = part.data,
      path = part.path,
    }
  end
  return copies
end

local function set_body(wire, options, typed, level)
  local bodies = (options.body and 1 or 0) + (options.body_path and 1 or 0) +
    (options.json ~= nil and 1 or 0) + (options.multipart and 1 or 0)
  if bodies > 1 then
    error("expected at most one of body, body_path, json and multipart", level + 1)
  end
  wire.body, wire.body_path = options.body, options.body_path
  if options.json ~= nil then
    wire.body = json.encode(options.json)
    if not typed then
      append_header(wire.headers, "Content-Type", "application/json", level)
    end
  elseif options.multipart then
    if typed then error("headers: content-type follows from multipart", level + 1) end
    wire.parts = copy_parts(options.multipart, level + 1)
  end
end

-- Methods that a server may run twice with the effect of once.
local IDEMPOTENT = {
  GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true,
  POST = false, PATCH = false,
}

local function set_limits(wire, options)
  wire.timeout = options.timeout or nil
  wire.queue_timeout = options.queue_timeout or nil
  local connect, idle = options.connect_timeout, options.idle_timeout
  if connect == nil then connect = CONNECT_SECONDS end
  if idle == nil and not options.timeout then idle = IDLE_SECONDS end
  wire.connect_timeout = connect or nil
  wire.idle_timeout = idle or nil
  wire.max_body = options.max_body or (not options.save and MAX_BODY or nil)
end

local function set_target(wire, method, url, options, level)
  if type(method) ~= "string" then
    error("method: expected a string, got a " .. type(method), level + 1)
  end
  if IDEMPOTENT[method] == nil and (method == "" or method:find("[^%w!#$%%&'*+.^_`|~-]")) then
    error(("method: expected letters such as GET, got %q"):format(method), level + 1)
  end
  if type(url) ~= "string" then
    error("url: expected a string, got a " .. type(url), level + 1)
  end
  if url:find("[%z\1-\32\127]") then
    error("url: must not hold spaces or control characters", level + 1)
  end
  if not url:find("^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]") then
    error("url: expected http://host… or https://host…", level + 1)
  end
  wire.method = IDEMPOTENT[method] ~= nil and method or method:upper()
  wire.url = options.query and add_query(url, options.query, level + 1) or url
end

---Checks a request and builds the core's table.
---@param method string
---@param url string
---@param options table  already checked, see request.check
---@param level integer  whose line an error names
---@return table wire
function request.build(method, url, options, level)
  local wire = {
    headers = {},
    save = options.save,
    unix = options.unix,
    ca_file = options.ca_file,
    verify = options.verify,
    follow = options.follow,
    http2 = options.version == 2 or nil,
    limit = options.limit,
    group = options.group,
  }
  if options.proxy ~= nil then wire.proxy = options.proxy or "" end
  set_target(wire, method, url, options, level + 1)
  set_limits(wire, options)
  local typed, keyed = false, false
  if options.headers then
    typed, keyed = flatten(options.headers, wire.headers, level + 1)
  end
  set_body(wire, options, typed, level + 1)

  wire.at_most_once = options.at_most_once
  if wire.at_most_once == nil then
    wire.at_most_once = not keyed and not IDEMPOTENT[wire.method]
  end
  if options.follow and options.follow > 0 and wire.method ~= "GET" and
    wire.method ~= "HEAD" then
    error("follow: only GET and HEAD follow redirects", level + 1)
  end
  if wire.method == "HEAD" and (wire.body or wire.body_path or wire.parts) then
    error("a HEAD request has no body", level + 1)
  end
  return wire
end

return request
