-- Turns the options of a request into what sbx.core.http takes. Everything that
-- a caller can get wrong is refused here, with the caller's own line.

local body = require("sbx.http.body")
local hash = require("sbx.hash")
local headers = require("sbx.http.headers")
local options = require("sbx.http.options")

---@class sbx.http.request
local request = {}

local MEBIBYTE = 1024 * 1024

-- Without a total limit a request ends after this long without a byte.
local IDLE_SECONDS = 300
local CONNECT_SECONDS = 10
local MAX_BODY = 64 * MEBIBYTE

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

-- Methods that a server may run twice with the effect of once.
local IDEMPOTENT = {
  GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true,
  POST = false, PATCH = false,
}

---Whether a method may be repeated.
---@param method string
---@return boolean
function request.is_idempotent(method)
  return IDEMPOTENT[method] or false
end

local function set_limits(wire, given)
  wire.timeout = given.timeout or nil
  wire.queue_timeout = given.queue_timeout or nil
  local connect, idle = given.connect_timeout, given.idle_timeout
  if connect == nil then connect = CONNECT_SECONDS end
  if idle == nil and not given.timeout then idle = IDLE_SECONDS end
  wire.connect_timeout = connect or nil
  wire.idle_timeout = idle or nil
  wire.max_body = given.max_body or (not given.save and MAX_BODY or nil)
end

-- What is no plain http://host:port is looked at by the parser that sends it.
local function check_url(url, level)
  local after = url:match("^https?://[%l%d][%l%d.-]*(.*)$")
  if after and (after == "" or after:find("^[/?#]")) then return end
  local port = after and tonumber(after:match("^:(%d+)"))
  if port and port >= 1 and port <= 65535 and after:find("^:%d+[/?#]") then return end
  if port and port >= 1 and port <= 65535 and after:find("^:%d+$") then return end

  local urls = require("sbx.url")
  if not url:find("^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]") then
    error(("url: expected http://host… or https://host…, got %q"):format(urls.redact(url)),
      level + 1)
  end
  local ok, err = pcall(urls.parse, url)
  if not ok then error("url: " .. err.message, level + 1) end
end

local function set_target(wire, method, url, given, level)
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
  check_url(url, level + 1)
  wire.method = IDEMPOTENT[method] ~= nil and method or method:upper()
  wire.url = given.query and add_query(url, given.query, level + 1) or url
end

local function set_login(wire, given, authorized, level)
  local bearer, basic = given.bearer, given.basic
  if not bearer and not basic then return end
  if authorized or (bearer and basic) then
    error("expected one of bearer, basic and an Authorization header", level + 1)
  end
  local value = bearer and "Bearer " .. bearer
    or "Basic " .. hash.base64(basic[1] .. ":" .. basic[2])
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
  wire.ca_file = given.ca_file
  wire.verify = given.verify
  if given.key and not given.cert then
    error("key: needs cert as well", level + 1)
  end
  if given.cert or given.pinned_key or given.tls_min == "1.3" then
    wire.tls = {
      cert = given.cert, key = given.key, pinned_key = given.pinned_key,
      only_1_3 = given.tls_min == "1.3",
    }
  end
end

---Checks a request and builds the core's table, with `feeds` and `follow` for
---the modules next to this one.
---@param method string
---@param url string
---@param given table  options, already checked
---@param level integer  whose line an error names
---@return table wire
function request.build(method, url, given, level)
  local wire = {
    headers = {},
    save = given.save,
    unix = given.unix,
    connect_to = given.connect_to,
    http2 = given.version == 2 or nil,
    limit = given.limit,
    group = given.group,
    decode = given.decompress,
  }
  if given.proxy ~= nil then wire.proxy = given.proxy or "" end
  set_target(wire, method, url, given, level + 1)
  set_limits(wire, given)
  set_tls(wire, given, level + 1)
  local typed, keyed, authorized = false, false, false
  if given.headers then
    typed, keyed, authorized = headers.flatten(given.headers, wire.headers, level + 1)
  end
  set_login(wire, given, authorized, level + 1)
  if given.cookies then set_cookies(wire, given.cookies) end
  body.set(wire, given, typed, level + 1)

  wire.at_most_once = given.at_most_once
  if wire.at_most_once == nil then
    wire.at_most_once = not keyed and not IDEMPOTENT[wire.method]
  end
  if wire.method == "HEAD" and body.given(wire) then
    error("a HEAD request has no body", level + 1)
  end
  return wire
end

request.check = options.check

return request
