-- Clients: a base URL and defaults for many requests.

local check = require("sbx.check")
local cookies = require("sbx.http.cookies")
local exchange = require("sbx.http.exchange")
local headers = require("sbx.http.headers")
local options = require("sbx.http.options")

---@class sbx.http.ClientOptions: sbx.http.Options
---@field base? string    what paths are appended to
---@field cookies? boolean|sbx.http.Cookies  true: a jar of its own

---@class sbx.http.Client
---@field cookies? sbx.http.Cookies
---@field private base string
---@field private defaults table
---@field get async fun(self: sbx.http.Client, path: string, given?: sbx.http.Options): sbx.http.Response
---@field head async fun(self: sbx.http.Client, path: string, given?: sbx.http.Options): sbx.http.Response
---@field delete async fun(self: sbx.http.Client, path: string, given?: sbx.http.Options): sbx.http.Response
---@field post async fun(self: sbx.http.Client, path: string, given?: sbx.http.Options): sbx.http.Response
---@field put async fun(self: sbx.http.Client, path: string, given?: sbx.http.Options): sbx.http.Response
---@field patch async fun(self: sbx.http.Client, path: string, given?: sbx.http.Options): sbx.http.Response
local Client = {}
Client.__index = Client
Client.__name = "sbx.http.Client"

local client = {}

-- Whose login it is is said once: what the request says stands.
local function merge_login(merged, given)
  local authorized = given.bearer or given.basic
  for name in pairs(type(given.headers) == "table" and given.headers or {}) do
    authorized = authorized or tostring(name):lower() == "authorization"
  end
  if not authorized then return end
  merged.bearer, merged.basic = given.bearer, given.basic
  if not merged.headers or not (given.bearer or given.basic) then return end
  merged.headers = headers.merge({}, merged.headers)
  for name in pairs(merged.headers) do
    local own = type(given.headers) == "table" and given.headers[name]
    if name:lower() == "authorization" and not own then merged.headers[name] = nil end
  end
end

---@async
local function send(self, method, path, given, streamed, level)
  if type(path) ~= "string" then
    error("path: expected a string, got a " .. type(path), level + 1)
  end
  if path:find("^%a[%w+.-]*://") and self.base ~= "" then
    error("path: expected a path below " .. self.base .. ", got a URL", level + 1)
  end
  if self.base ~= "" and not path:find("^[/?#]") and path ~= "" then path = "/" .. path end
  local merged = {}
  for name, value in pairs(self.defaults) do
    merged[name] = value
  end
  if given ~= nil then
    if type(given) ~= "table" then
      error("options: expected a table, got a " .. type(given), level + 1)
    end
    for name, value in pairs(given) do
      merged[name] = value
    end
    if type(given.headers) == "table" then
      merged.headers = headers.merge(self.defaults.headers, given.headers)
    end
    merge_login(merged, given)
  end
  return (exchange.send(method, self.base .. path, merged, streamed, level + 1))
end

---As http.request, below the client's base and with its defaults.
---@async
---@param method string
---@param path string  appended to `base`
---@param given? sbx.http.Options
---@return sbx.http.Response
function Client:request(method, path, given)
  return (send(self, method, path, given, false, 2))
end

---As http.stream, below the client's base and with its defaults.
---@async
---@param method string
---@param path string  appended to `base`
---@param given? sbx.http.Options
---@return sbx.http.Stream
function Client:stream(method, path, given)
  return (send(self, method, path, given, true, 2))
end

for _, name in ipairs { "get", "head", "delete", "post", "put", "patch" } do
  local method = name:upper()
  Client[name] = function(self, path, given)
    return (send(self, method, path, given, false, 2))
  end
end

local clients = 0

---Makes a client: a base URL and defaults for its requests. Options of a request
---win over them; headers are merged. With `limit` the client has a queue of its
---own before each host.
---@param given? sbx.http.ClientOptions
---@return sbx.http.Client
function client.new(given)
  given = given or {}
  options.check(check.table(given, "options"), options.client, 3)
  local defaults = {}
  for name, value in pairs(given) do
    defaults[name] = value
  end
  defaults.base = nil
  defaults.headers = headers.merge({}, given.headers or {})
  if given.cookies == true then defaults.cookies = cookies.new() end
  if given.limit and not given.group then
    clients = clients + 1
    defaults.group = "client " .. clients
  end
  local base = (given.base or ""):gsub("/+$", "")
  return setmetatable({ base = base, defaults = defaults, cookies = defaults.cookies }, Client)
end

check.methods(Client, "client")

return client
