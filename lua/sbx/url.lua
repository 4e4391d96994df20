-- URLs taken apart, put together, resolved and made fit for a log.
--
-- libcurl's parser, the one that sends our requests, reads them: what
-- url.parse says is the host is the host that a request would go to.

local check = require("sbx.check")
local core = require("sbx.core.url")
local errors = require("sbx.errors")

---@class sbx.url
local url = {}

---@class sbx.url.Parts
---@field scheme string      in lower case
---@field user? string       decoded
---@field password? string   decoded
---@field host? string       decoded, in lower case; an IPv6 address without brackets; none for `file`
---@field port? integer      what the URL says, or the usual one of its scheme
---@field path string        as it stands in the URL, at least "/"
---@field query? string      as it stands in the URL, without "?"
---@field fragment? string   as it stands in the URL, without "#"

local ports = { http = 80, https = 443, ws = 80, wss = 443, ftp = 21, ssh = 22, sftp = 22 }

local HIDDEN = "***"
local HOST = "^[%w._~\x80-\xff-]+$"

-- ------------------------------------------------------------------- escaping

local function escape_byte(char)
  return ("%%%02X"):format(char:byte())
end

local function unescape_byte(digits)
  return string.char(tonumber(digits, 16))
end

---Percent-encodes all bytes but letters, digits and `-._~`: fit for any part of
---a URL, one segment of a path as well as a name or a value of a query.
---@param text string
---@return string
function url.escape(text)
  return (check.string(text, "text"):gsub("[^%w%-._~]", escape_byte))
end

---Undoes percent-encoding. A "%" without two hexadecimal digits stays; so does "+".
---@param text string
---@return string
function url.unescape(text)
  return (check.string(text, "text"):gsub("%%(%x%x)", unescape_byte))
end

-- Escapes what must not stand in this part of a URL; what is escaped stays so.
local function escape_part(text, allowed)
  text = text:gsub("%%(%x?%x?)", function(digits)
    if #digits < 2 then return "%25" .. digits end
  end)
  return (text:gsub("[^%w%-._~!$&'()*+,;=:@%%" .. allowed .. "]", escape_byte))
end

-- ---------------------------------------------------------------------- query

local function write_pair(name, value, what, level)
  local kind = type(value)
  if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
    error(what .. ": expected a string, a number or a boolean, got a " .. kind, level + 1)
  end
  return url.escape(name) .. "=" .. url.escape(tostring(value))
end

local function write_list(list, level)
  local written = {}
  for i, pair in ipairs(list) do
    local what = ("query[%d]"):format(i)
    if type(pair) ~= "table" or type(pair[1]) ~= "string" then
      error(what .. ": expected { name, value }", level + 1)
    end
    written[i] = write_pair(pair[1], pair[2], what, level + 1)
  end
  return written
end

local function write_names(values, level)
  local names, written = {}, {}
  for name in pairs(values) do
    if type(name) ~= "string" then
      error("query: expected names, got a " .. type(name), level + 1)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local several = type(values[name]) == "table" and values[name] or { values[name] }
    for _, value in ipairs(several) do
      written[#written + 1] = write_pair(name, value, "query." .. name, level + 1)
    end
  end
  return written
end

local function write_query(values, level)
  local write = values[1] ~= nil and write_list or write_names
  local written = write(values, level + 1)
  return table.concat(written, "&")
end

---Writes a query, without "?": from a table name → value or list of values, in
---the order of the names, or from a list of { name, value }, in its order.
---@param values table
---@param level? integer  whose line an error names (default: the caller's)
---@return string
function url.query(values, level)
  return (write_query(check.table(values, "query"), (level or 1) + 1))
end

---Reads a query, without its "?". "+" stands for a blank, and a name
---without "=" has the value "".
---@param text string
---@return table<string, string> values  of a name that is repeated, the last
---@return { [1]: string, [2]: string }[] list  all pairs { name, value } in their order
function url.parse_query(text)
  check.string(text, "query")
  local values, list = {}, {}
  for piece in text:gsub("%+", " "):gmatch("[^&]+") do
    local name, value = piece:match("^([^=]*)=?(.*)$")
    name, value = url.unescape(name), url.unescape(value)
    values[name] = value
    list[#list + 1] = { name, value }
  end
  return values, list
end

-- -------------------------------------------------------------------- parsing

-- Everything that may be a secret is cut off a text that is no URL.
local function hide(text)
  local scheme, rest = text:match("^(%a[%w+.-]*://)(.*)$")
  rest = rest or text
  local shown = rest:match("^[^?#]*")
  -- A "@" after the "?" may belong to a password with a "?".
  if #shown < #rest and rest:find("@", #shown + 1, true) then shown = HIDDEN end
  shown = shown:gsub("^.*@", "")
  shown = shown:gsub("[^\32-\126]", escape_byte)
  if #shown > 200 then shown = shown:sub(1, 200) .. "…" end
  return (scheme or "") .. shown
end

local function refuse(text, problem)
  errors.raise {
    kind = "syntax",
    op = "parse",
    code = "URL",
    message = ("parse the URL %q: %s"):format(hide(text), problem),
  }
end

-- What libcurl lets pass and we do not, or would explain badly.
local function find_problem(text)
  local bad = text:find("[\0-\32\127]")
  if bad then return ("a blank or a control character at byte %d"):format(bad) end
  if not text:find("^%a[%w+.-]*://") then return "no scheme, such as https://" end
  -- Others take it for a slash, and so another part for the host.
  if text:find("^[^/?#]*//[^/?#]*\\") then return "a backslash before the path" end
  if text:find("^%a[%w+.-]*:///") and not text:find("^[Ff][Ii][Ll][Ee]:") then
    return "no host"
  end
end

-- The parts as they stand in the URL, or nil and what is wrong.
local function split(text)
  local problem = find_problem(text)
  if problem then return nil, problem end
  local found, reason = core.split(text)
  if not found then return nil, (reason:gsub("^%u", string.lower)) end
  if found.port == "0" then return nil, "port 0" end
  local host = found.host
  if host and host:sub(1, 1) ~= "[" and not (host:find(HOST) and utf8.len(host)) then
    return nil, "bad hostname"
  end
  return found
end

-- A host as a name or an address that one can connect to.
local function bare_host(found)
  local host = found.host:lower()
  local address = host:match("^%[(.*)%]$")
  if not address then return host end
  return found.zone and address .. "%" .. found.zone or address
end

local function unless_empty(text)
  if text ~= "" then return text end
end

---Takes an absolute URL apart: `scheme://host…`, or `file:///path`. Raises kind
---`syntax` with the reason for anything else; the message hides user and query.
---@param text string
---@return sbx.url.Parts
function url.parse(text)
  local found, problem = split(check.string(text, "url"))
  if not found then refuse(text, problem) end
  local scheme = found.scheme:lower()
  local user = found.user
  if found.options then user = user .. ";" .. found.options end
  return {
    scheme = scheme,
    user = user and url.unescape(user),
    password = found.password and url.unescape(found.password),
    host = found.host and bare_host(found),
    port = math.tointeger(tonumber(found.port)) or ports[scheme],
    path = found.path,
    query = unless_empty(found.query),
    fragment = unless_empty(found.fragment),
  }
end

-- ------------------------------------------------------------------- building

local function write_host(host, level)
  check.string(host, "host", level + 1)
  local bare = host:match("^%[(.*)%]$") or host
  local address, zone = bare:match("^([^%%]*)%%?(.*)$")
  if address:find("^[%x:.]*:[%x:.]*$") then
    return "[" .. address .. (zone ~= "" and "%25" .. url.escape(zone) or "") .. "]"
  end
  if not host:find(HOST) then
    error(("host: not a name or an address: %q"):format(host), level + 1)
  end
  return host
end

local function write_port(port, scheme, level)
  if port == nil or port == ports[scheme] then return "" end
  local whole = type(port) == "number" and math.tointeger(port)
  if not whole or whole < 1 or whole > 65535 then
    error("port: expected a number from 1 to 65535, got " .. tostring(port), level + 1)
  end
  return ":" .. whole
end

local function write_segments(list, level)
  local segments = {}
  for i, segment in ipairs(list) do
    local kind = type(segment)
    if kind ~= "string" and kind ~= "number" then
      error(("path[%d]: expected a string, got a %s"):format(i, kind), level + 1)
    end
    if segment == "." or segment == ".." then
      error(("path[%d]: %q would name another folder"):format(i, segment), level + 1)
    end
    segments[i] = url.escape(tostring(segment))
  end
  return "/" .. table.concat(segments, "/")
end

local function write_path(path, level)
  if path == nil then return "/" end
  if type(path) == "table" then return (write_segments(path, level + 1)) end
  check.string(path, "path", level + 1)
  if path:sub(1, 1) ~= "/" then path = "/" .. path end
  return escape_part(path, "/")
end

local function write_login(parts, level)
  if parts.user == nil and parts.password == nil then return "" end
  local login = url.escape(check.string(parts.user or "", "user", level + 1))
  if parts.password ~= nil then
    login = login .. ":" .. url.escape(check.string(parts.password, "password", level + 1))
  end
  return login .. "@"
end

local function write_tail(parts, level)
  local tail = ""
  local query = parts.query
  if type(query) == "table" then query = write_query(query, level + 1) end
  if query ~= nil and query ~= "" then
    tail = "?" .. escape_part(check.string(query, "query", level + 1), "/?")
  end
  if parts.fragment ~= nil and parts.fragment ~= "" then
    tail = tail .. "#" .. escape_part(check.string(parts.fragment, "fragment", level + 1), "/?")
  end
  return tail
end

local build_defaults = {
  scheme = "https", user = check.none, password = check.none, host = check.none,
  port = check.none, path = check.none, query = check.none, fragment = check.none,
}

local function build(parts, level)
  local given = check.options(parts, build_defaults, level + 1)
  local scheme = check.string(given.scheme, "scheme", level + 1):lower()
  if not scheme:find("^%a[%w+.-]*$") then
    error(("scheme: not a scheme: %q"):format(scheme), level + 1)
  end
  local text = scheme .. "://"
  if scheme ~= "file" or given.host then
    text = text .. write_login(given, level + 1) .. write_host(given.host, level + 1)
    text = text .. write_port(given.port, scheme, level + 1)
  end
  text = text .. write_path(given.path, level + 1) .. write_tail(given, level + 1)
  local found, problem = split(text)
  if not found then error(("not a URL: %s: %s"):format(hide(text), problem), level + 1) end
  return text
end

---Puts a URL together. `user`, `password` and `host` are plain text. `path` and
---`fragment` are taken as they stand in a URL, with what may not stand there
---escaped; `path` may also be a list of segments, and `query` what url.query
---takes: these are escaped throughout. The usual port of the scheme is left out.
---@param parts sbx.url.Parts|table
---@return string
function url.build(parts)
  return (build(parts, 2))
end

-- ------------------------------------------------------------------ resolving

-- RFC 3986, 5.2.4, for a path that begins with "/".
local function remove_dots(path)
  local kept, trailing = {}, false
  for segment in path:gmatch("/([^/]*)") do
    trailing = segment == "." or segment == ".."
    if segment == ".." then
      kept[#kept] = nil
    elseif segment ~= "." then
      kept[#kept + 1] = segment
    end
  end
  if trailing then kept[#kept + 1] = "" end
  return "/" .. table.concat(kept, "/")
end

-- What a reference without scheme and host changes of the base's parts.
local function apply_path(parts, reference)
  local path, query = reference:match("^([^?]*)(.*)$")
  if path ~= "" then
    if path:sub(1, 1) ~= "/" then path = parts.path:match("^(.*/)") .. path end
    parts.path, parts.query = path, nil
  end
  if query ~= "" then parts.query = query:sub(2) end
  return parts
end

---The URL that `relative` stands for in a document at `base` (RFC 3986, 5.2),
---without "." and ".." in its path. Raises kind `syntax` where one of them is
---none.
---@param base string
---@param relative string
---@return string
function url.join(base, relative)
  local parts = url.parse(check.string(base, "base"))
  local reference, fragment = check.string(relative, "relative"):match("^([^#]*)#?(.*)$")
  if reference:find("^%a[%w+.-]*:") then
    parts = url.parse(relative)
  elseif reference:find("^//") then
    parts = url.parse(parts.scheme .. ":" .. relative)
  else
    parts = apply_path(parts, reference)
    parts.fragment = fragment
  end
  parts.path = remove_dots(parts.path)
  return (build(parts, 2))
end

-- -------------------------------------------------------------------- showing

local function hide_value(pair)
  local name = pair:match("^([^=]*)=")
  return name and name .. "=" .. HIDDEN or HIDDEN
end

---The URL as a log may show it: without user and password, and with "***" for
---the values of its query and for its fragment. What is no URL is cut down to
---what cannot be one of these. Never raises for a string.
---@param text string
---@return string
function url.redact(text)
  if not split(check.string(text, "url")) then return hide(text) end
  local parts = url.parse(text)
  parts.user, parts.password = nil, nil
  parts.query = parts.query and parts.query:gsub("[^&]+", hide_value)
  parts.fragment = parts.fragment and HIDDEN
  return (build(parts, 2))
end

return url
