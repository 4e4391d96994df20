-- Turns the options of a request into what sbx.core.http takes. Everything that
-- a caller can get wrong is refused here, with the caller's own line.

local body = require("sbx.http.body")
local headers = require("sbx.http.headers")
local options = require("sbx.http.options")

---@class sbx.http.request
local request = {}

local MEBIBYTE = 1024 * 1024

-- Without a total limit a request ends after this long without a byte.
local IDLE_SECONDS = 300
local CONNECT_SECONDS = 10
local MAX_BODY = 64 * MEBIBYTE

local function add_query(url, query, level)
  local written = require("sbx.url").query(query, level + 1)
  if written == "" then return url end
  local before, fragment = url:match("^([^#]*)(.*)$")
  local joint = before:find("?", 1, true) and "&" or "?"
  return before .. joint .. written .. fragment
end

-- Methods that a server may run twice with the effect of once.
local IDEMPOTENT = {
  GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true,
  POST = false, PATCH = false,
}

-- What is no plain http://host:port/ is looked at by the parser that sends it.
local function check_url(url, level)
  if url:find("^https?://[%l%d][%l%d.-]*:%d%d?%d?%d?%d?[/?#]")
    or url:find("^https?://[%l%d][%l%d.-]*[/?#]") then
    return
  end
  local urls = require("sbx.url")
  if not url:find("^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]") then
    error(("url: expected http://host… or https://host…, got %q"):format(urls.redact(url)),
      level + 1)
  end
  local ok, err = pcall(urls.parse, url)
  if not ok then error("url: " .. err.message, level + 1) end
end

-- The method as it is sent.
local function check_target(method, url, level)
  if type(method) ~= "string" then
    error("method: expected a string, got a " .. type(method), level + 1)
  end
  if type(url) ~= "string" then
    error("url: expected a string, got a " .. type(url), level + 1)
  end
  if url:find("[%z\1-\32\127]") then
    error("url: must not hold spaces or control characters", level + 1)
  end
  check_url(url, level + 1)
  if IDEMPOTENT[method] ~= nil then return method end
  if method == "" or method:find("[^%w!#$%%&'*+.^_`|~-]") then
    error(("method: expected letters such as GET, got %q"):format(method), level + 1)
  end
  return method:upper()
end

local function set_login(wire, given, authorized, level)
  local bearer, basic = given.bearer, given.basic
  if authorized or (bearer and basic) then
    error("expected one of bearer, basic and an Authorization header", level + 1)
  end
  local value = bearer and "Bearer " .. bearer
    or "Basic " .. require("sbx.encoding").base64(basic[1] .. ":" .. basic[2])
  headers.append(wire.headers, "Authorization", value, level + 1)
end

-- libcurl writes one Cookie header, of the jar's cookies and the caller's.
local function set_cookies(wire, jar)
  local list, rest, texts = wire.headers, {}, {}
  for i = 1, #list, 2 do
    if list[i]:lower() == "cookie" then
      texts[#texts + 1] = list[i + 1]
    else
      rest[#rest + 1], rest[#rest + 2] = list[i], list[i + 1]
    end
  end
  wire.headers, wire.cookies = rest, jar.core
  wire.cookie = texts[1] and table.concat(texts, "; ")
end

local function set_tls(wire, given, level)
  if given.key and not given.cert then
    error("key: needs cert as well", level + 1)
  end
  wire.tls = {
    cert = given.cert, key = given.key, pinned_key = given.pinned_key,
    only_1_3 = given.tls_min == "1.3",
  }
end

-- Options that go as they are, and the core's names for them.
local PLAIN = {
  save = "save", unix = "unix", connect_to = "connect_to", verify = "verify",
  ca_file = "ca_file", limit = "limit", group = "group", decompress = "decode",
  timeout = "timeout", queue_timeout = "queue_timeout", max_body = "max_body",
  connect_timeout = "connect_timeout", idle_timeout = "idle_timeout",
  at_most_once = "at_most_once",
}

local CLOCKS = {
  timeout = true, queue_timeout = true, connect_timeout = true, idle_timeout = true,
}

local function apply(wire, given, level)
  for name, value in pairs(given) do
    local plain = PLAIN[name]
    if CLOCKS[name] then
      wire[plain] = value or nil
    elseif plain then
      wire[plain] = value
    end
  end
  if given.timeout and given.idle_timeout == nil then wire.idle_timeout = nil end
  if given.save and not given.max_body then wire.max_body = nil end
  if given.version == 2 then wire.http2 = true end
  if given.query then wire.url = add_query(wire.url, given.query, level + 1) end
  if given.proxy ~= nil then wire.proxy = given.proxy or "" end
  if given.cert or given.key or given.pinned_key or given.tls_min then
    set_tls(wire, given, level + 1)
  end
  local typed, keyed, authorized = false, false, false
  if given.headers then
    typed, keyed, authorized = headers.flatten(given.headers, wire.headers, level + 1)
  end
  if keyed and given.at_most_once == nil then wire.at_most_once = false end
  if given.bearer or given.basic then set_login(wire, given, authorized, level + 1) end
  if given.cookies then set_cookies(wire, given.cookies) end
  body.set(wire, given, typed, level + 1)
  if wire.method == "HEAD" and body.given(wire) then
    error("a HEAD request has no body", level + 1)
  end
end

---Checks a request and builds the core's table, with `feeds` for upload.lua.
---@param method string
---@param url string
---@param given table  options, already checked
---@param level integer  whose line an error names
---@return table wire
function request.build(method, url, given, level)
  method = check_target(method, url, level + 1)
  local wire = {
    method = method,
    url = url,
    headers = {},
    connect_timeout = CONNECT_SECONDS,
    idle_timeout = IDLE_SECONDS,
    max_body = MAX_BODY,
    at_most_once = not IDEMPOTENT[method],
  }
  if next(given) ~= nil then apply(wire, given, level + 1) end
  return wire
end

request.check = options.check

return request
