-- HTTP requests: pooled connections, four clocks, no surprises on failure.

local check = require("sbx.check")
local core = require("sbx.core.http")
local errors = require("sbx.errors")
local json = require("sbx.json")
local request = require("sbx.http.request")

---@class sbx.http
local http = {}

---@class sbx.http.Options
---@field headers? table<string, string|number|string[]>
---@field query? table<string, any>  appended to the URL; a list repeats the name
---@field body? string
---@field body_path? string     a file to send, read as it is sent
---@field json? any             sent as JSON
---@field multipart? sbx.http.Part[]
---@field save? string          where the body of a status below 400 is written
---@field timeout? number|false seconds in all, from admission on
---@field connect_timeout? number|false  seconds for name, TCP and TLS (default 10)
---@field idle_timeout? number|false     seconds without a byte (default 300 without `timeout`)
---@field queue_timeout? number|false    seconds until admission
---@field unix? string          path of a socket to connect to
---@field proxy? string|false   a URL, or false for none (default: the environment's)
---@field max_body? integer     bytes (default 64 MiB in memory, no limit for `save`)
---@field follow? integer       redirects to follow, GET and HEAD only (default 0)
---@field version? 1|2          2: HTTP/2 over TLS, where the server has it
---@field verify? boolean       the server's certificate (default true)
---@field ca_file? string       certificates to trust, PEM
---@field at_most_once? boolean never send twice (default: for methods that are not idempotent)
---@field raise? boolean        a status of 400 or more raises (default false)
---@field limit? integer        requests at once for this host and group (default 128)
---@field group? string         requests with the same name share a queue of their own

---@class sbx.http.Part
---@field name string
---@field filename? string  default: the last part of `path`
---@field type? string      media type (default application/octet-stream for files)
---@field data? string
---@field path? string      a file, read as it is sent

---@class sbx.http.Timing
---@field queue number       seconds until admission; the others count from there
---@field dns number
---@field connect number
---@field tls number
---@field first_byte number
---@field total number
---@field reused boolean     an existing connection carried the request

---@class sbx.http.Response
---@field status integer
---@field reason string
---@field method string
---@field headers table<string, string>  lower-case names; repeated ones joined by ", "
---@field set_cookies? string[]          each Set-Cookie header
---@field body? string                   absent when saved
---@field saved? string                  the path that the body was saved to
---@field size integer                   bytes of the body, decoded
---@field url string                     after redirects, without user and password
---@field label string                   the URL as it may be logged: without query
---@field retry_after? number            seconds that the server asks to wait
---@field timing sbx.http.Timing
local Response = {}
Response.__index = Response
Response.__name = "sbx.http.Response"

---The body as JSON. Raises an error of kind `json` when it is none.
---@return any
function Response:json()
  local ok, value = pcall(json.decode, self.body or "")
  if ok then return value end
  local reason = errors.is_error(value) and value.message or tostring(value)
  return errors.raise {
    kind = "json",
    op = "http",
    message = ("%s %s: the answer is not JSON: %s"):format(self.method, self.label, reason),
    status = self.status,
    url = self.label,
    cause = value,
  }
end

function Response:__tostring()
  return ("%s %s: %d %s"):format(self.method, self.label, self.status, self.reason)
end

-- Statuses after which the same request may well succeed.
local TRANSIENT = { [408] = true, [425] = true, [502] = true, [503] = true, [504] = true }

local EXCERPT = 1024

local function raise_status(response, wire)
  local status = response.status
  local reason = response.reason:gsub("%c", " "):sub(1, 80)
  errors.raise {
    kind = "http",
    op = "http",
    message = ("%s %s: %d %s"):format(response.method, response.label, status, reason),
    status = status,
    method = response.method,
    url = response.label,
    body = (response.body or ""):sub(1, EXCERPT),
    sent = true,
    retry_after = response.retry_after,
    -- 429 says that nothing was done.
    retryable = status == 429 or (TRANSIENT[status] and not wire.at_most_once) or false,
  }
end

---@async
local function send(method, url, options, level)
  options = options or {}
  if type(options) ~= "table" then
    error("options: expected a table, got a " .. type(options), level + 1)
  end
  request.check(options, request.options, level + 1)
  local wire = request.build(method, url, options, level + 1)
  local response = setmetatable(core.request(wire), Response)
  response.method = wire.method
  if options.raise and response.status >= 400 then raise_status(response, wire) end
  return response
end

---Sends a request and waits for the whole answer. A status of 400 or more is an
---answer, unless `raise` is set. Raises an error object of kind `timeout` (with
---`phase` queue, connect, idle or total), `dns`, `connect`, `tls`, `http` (the
---connection broke), `limit` or `io`; its `sent` is false when provably no byte
---of the request went out, `retryable` says that another try is safe and may work.
---@async
---@param method string
---@param url string
---@param options? sbx.http.Options
---@return sbx.http.Response
function http.request(method, url, options)
  return (send(method, url, options, 2))
end

local METHODS = { "get", "head", "delete", "post", "put", "patch" }

for _, name in ipairs(METHODS) do
  local method = name:upper()
  http[name] = function(url, options)
    return (send(method, url, options, 2))
  end
end

---Percent-encodes all bytes but letters, digits and `-._~`.
---@param text string
---@return string
function http.escape(text)
  return request.escape(check.string(text, "text"))
end

---What each host's queue looks like: `limit active queued connections started
---failed`, and `p50 p90 p99` in seconds; and the number of name look-ups so far.
---@return table<string, table> hosts
---@return integer lookups
function http.stats()
  return core.stats()
end

---Closes the connections that no request uses.
function http.close_idle()
  core.close_idle()
end

---@class sbx.http.ClientOptions: sbx.http.Options
---@field base? string    what paths are appended to
---@field bearer? string  sent as `Authorization: Bearer …`

---@class sbx.http.Client
---@field private base string
---@field private defaults table
local Client = {}
Client.__index = Client
Client.__name = "sbx.http.Client"

local client_options = { base = { function(v) return type(v) == "string" end, "a string" } }
client_options.bearer = client_options.base
for name, rule in pairs(request.options) do
  client_options[name] = rule
end

-- The headers of the request over those of the client, whatever their case.
local function merge_headers(defaults, given)
  local merged, names = {}, {}
  for _, headers in ipairs { defaults, given } do
    for name, value in pairs(headers) do
      local lower = tostring(name):lower()
      if names[lower] then merged[names[lower]] = nil end
      names[lower] = name
      merged[name] = value
    end
  end
  return merged
end

---@async
local function client_send(client, method, path, options, level)
  if type(path) ~= "string" then
    error("path: expected a string, got a " .. type(path), level + 1)
  end
  if path:find("^%a[%w+.-]*://") and client.base ~= "" then
    error("path: expected a path below " .. client.base .. ", got a URL", level + 1)
  end
  if client.base ~= "" and not path:find("^[/?#]") and path ~= "" then path = "/" .. path end
  local merged = {}
  for name, value in pairs(client.defaults) do
    merged[name] = value
  end
  for name, value in pairs(options or {}) do
    merged[name] = value
  end
  if options and options.headers and type(options.headers) == "table" then
    merged.headers = merge_headers(client.defaults.headers, options.headers)
  end
  return (send(method, client.base .. path, merged, level + 1))
end

---As http.request, below the client's base and with its defaults.
---@async
---@param method string
---@param path string  appended to `base`
---@param options? sbx.http.Options
---@return sbx.http.Response
function Client:request(method, path, options)
  return (client_send(self, method, path, options, 2))
end

for _, name in ipairs(METHODS) do
  local method = name:upper()
  Client[name] = function(self, path, options)
    return (client_send(self, method, path, options, 2))
  end
end

local clients = 0

---Makes a client: a base URL and defaults for its requests. Options of a request
---win over them; headers are merged. With `limit` the client has a queue of its
---own before each host.
---@param options? sbx.http.ClientOptions
---@return sbx.http.Client
function http.client(options)
  options = options or {}
  request.check(check.table(options, "options"), client_options, 2)
  local defaults = {}
  for name, value in pairs(options) do
    defaults[name] = value
  end
  defaults.base, defaults.bearer = nil, nil
  defaults.headers = merge_headers({}, options.headers or {})
  if options.bearer then
    local bearer = { Authorization = "Bearer " .. options.bearer }
    defaults.headers = merge_headers(bearer, defaults.headers)
  end
  if options.limit and not options.group then
    clients = clients + 1
    defaults.group = "client " .. clients
  end
  local base = (options.base or ""):gsub("/+$", "")
  return setmetatable({ base = base, defaults = defaults }, Client)
end

return http
