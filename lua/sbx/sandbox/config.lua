-- Where the client finds its key, its address and its team: arguments first,
-- then the private server of `--local`, the environment, ~/.prime/config.json.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local log = require("sbx.log")
local url = require("sbx.url")

local config = {}

local DEFAULT_URL = "https://api.primeintellect.ai"
local MAX_FILE = 1024 * 1024

local local_server -- { url, api_key } of this run's private server

---Makes every client of this run talk to one server, whatever environment and
---file say. Only arguments to `sandbox.client` win over it.
---@param server { url: string, api_key: string }|nil  nil undoes it
function config.set_local(server)
  local_server = server
end

local function bad(message, ...)
  errors.raise({ kind = "usage", op = "sandbox.client", message = message:format(...) })
end

local function non_empty(value)
  if value ~= nil and value ~= "" then return value end
  return nil
end

local function config_path()
  local home = non_empty(os.getenv("HOME"))
  return home and home .. "/.prime/config.json"
end

local function string_field(document, name, path)
  local value = document[name]
  if value == json.null and name ~= "base_url" then return nil end
  if value ~= nil and type(value) ~= "string" then
    bad("%s: '%s' must be a string", path, name)
  end
  return non_empty(value)
end

-- A file that is missing, unreadable or no JSON counts as empty; JSON of the
-- wrong shape is a mistake that the user wants to hear about.
---@async
local function read_file()
  local path = config_path()
  if not path then return {} end
  local text = errors.try(fs.read, path, { max = MAX_FILE })
  if not text then return {} end
  local ok, document = pcall(json.decode, text)
  if not ok then return {} end
  if type(document) ~= "table" or not text:find("^%s*{") then
    bad("%s: expected a JSON object", path)
  end
  local file = {}
  for _, name in ipairs({ "api_key", "base_url", "team_id", "user_id" }) do
    file[name] = string_field(document, name, path)
  end
  return file
end

---Drops the slashes at the end, then one `/api/v1`.
---@param text string
---@return string
function config.normalize_url(text)
  text = text:gsub("/+$", "")
  return (text:gsub("/api/v1$", ""))
end

local function checked_url(text)
  local ok, parts = pcall(url.parse, text)
  local is_web = ok and (parts.scheme == "http" or parts.scheme == "https") and parts.host
  if not is_web or text:find("[%s%c]") then
    bad("base URL: expected http://… or https://…, got '%s'", log.clean(url.redact(text), 200))
  end
  -- It stands in messages, and the key goes along anyway.
  if parts.user or parts.password then bad("base URL: there is a user or a password in it") end
  if parts.query or parts.fragment then
    bad("base URL: there must be nothing behind its path")
  end
  return config.normalize_url(text)
end

local function checked_key(key)
  -- A line break in a key would forge header lines.
  if key:find("[%c%s]") then bad("API key: it contains spaces or control characters") end
  log.redact(key)
  return key
end

-- Set at all wins over the file, even when empty: that is how one gets rid of a
-- team for one run. The lookup happens at each use.
local function scope_id(given, variable, from_file)
  return function()
    if given ~= nil then return given end
    return os.getenv(variable) or from_file
  end
end

-- A proxy could not reach this machine's own server.
local function proxy_for(address, server)
  if server.url and address == server.url then return false end
  return nil
end

---@class sbx.sandbox.Config
---@field api_key string  empty when there is none
---@field base_url string  without the `/api/v1`
---@field team_id fun(): string|nil
---@field user_id fun(): string|nil
---@field is_local boolean  the private server of --local, which ends with the run
---@field proxy false|nil  false: none, whatever the environment says

---Resolves the settings of one client.
---@async
---@param given { api_key?: string, base_url?: string, team_id?: string, user_id?: string }
---@return sbx.sandbox.Config
function config.load(given)
  local server = local_server or {}
  -- The private server knows neither the user's key nor the user's team.
  local file = local_server and {} or read_file()
  local key = non_empty(given.api_key)
    or server.api_key
    or non_empty(os.getenv("PRIME_API_KEY"))
    or file.api_key
    or ""
  local address = non_empty(given.base_url)
    or server.url
    or non_empty(os.getenv("PRIME_API_BASE_URL"))
    or non_empty(os.getenv("PRIME_BASE_URL"))
    or file.base_url
    or DEFAULT_URL
  return {
    api_key = checked_key(key),
    base_url = checked_url(address),
    team_id = scope_id(given.team_id, "PRIME_TEAM_ID", file.team_id),
    user_id = scope_id(given.user_id, "PRIME_USER_ID", file.user_id),
    is_local = server.url ~= nil and address == server.url,
    proxy = proxy_for(address, server),
  }
end

return config
