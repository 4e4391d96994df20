-- Where the client finds its key, its address and its team: arguments first,
-- then the private server of `--local`, the command line, the environment, the context,
-- ~/.prime/config.json.

local contexts = require("sbx.sandbox.contexts")
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
-- wrong shape is a mistake that the user wants to hear about. Second, why a file
-- that is there was not used: worth a word when the key is missing.
---@async
local function read_file()
  local path = config_path()
  if not path then return {} end
  local text, err = errors.try(fs.read, path, { max = MAX_FILE })
  if not text then
    local absent = err.code == "ENOENT" or err.code == "ENOTDIR"
    return {}, not absent and log.clean(tostring(err), 300) or nil
  end
  local ok, document = pcall(json.decode, text)
  -- Not where: that might quote the key.
  if not ok then return {}, path .. " is no JSON" end
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

---Raises `usage` for what is no address of an API.
---@param text string
---@return string  without what may stand behind it
function config.check_url(text)
  return checked_url(text)
end

local function checked_key(key)
  -- A line break in a key would forge header lines.
  if key:find("[%c%s]") then bad("API key: it contains spaces or control characters") end
  log.redact(key)
  return key
end

-- Set at all wins over files, even when empty: that is how one gets rid of a
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
---@field problem string|nil  why the config file was not used, although it is there
---@field origins { url: string, key: string }  where they come from

-- What has a say, in this order: { origin, url, key }.
---@async
local function layers_of(given, file)
  local function variable(name) return non_empty(os.getenv(name)) end
  local server = local_server or {}
  local said = contexts.command_line()
  local layers = {
    { origin = "arguments", url = non_empty(given.base_url), key = non_empty(given.api_key) },
    { origin = "--local", url = server.url, key = server.api_key },
    { origin = "--url", url = said.url },
    { origin = "--key-file", key = said.api_key },
    { origin = "PRIME_API_BASE_URL", url = variable("PRIME_API_BASE_URL") },
    { origin = "PRIME_BASE_URL", url = variable("PRIME_BASE_URL") },
    { origin = "PRIME_API_KEY", key = variable("PRIME_API_KEY") },
    { origin = "~/.prime/config.json", url = file.base_url, key = file.api_key },
    { origin = "default", url = DEFAULT_URL },
  }
  if local_server then return layers end
  local context, name, named = contexts.in_use()
  if not context then return layers end
  local layer = { origin = "context " .. name, url = non_empty(context.url), context = context }
  table.insert(layers, named and 5 or #layers - 1, layer)
  return layers, layer
end

local function first(layers, field)
  for _, layer in ipairs(layers) do
    if layer[field] then return layer[field], layer.origin end
  end
  return nil, "none"
end

-- The key of a context goes to its own address only, and one of another account or
-- address is of no use there.
---@async
local function settle_context(layers, layer, address, file)
  if not layer.url then
    layer.key = contexts.key_of(layer.context)
    return
  end
  local own = config.normalize_url(layer.url)
  if config.normalize_url(address) == own then layer.key = contexts.key_of(layer.context) end
  if config.normalize_url(file.base_url or DEFAULT_URL) ~= own then
    layers[#layers - 1].key = nil -- that of the config file
    file.team_id, file.user_id = nil, nil
  end
end

---Resolves the settings of one client.
---@async
---@param given { api_key?: string, base_url?: string, team_id?: string, user_id?: string }
---@return sbx.sandbox.Config
function config.load(given)
  -- The private server knows neither the user's key nor the user's team.
  local file, problem = {}, nil
  if not local_server then file, problem = read_file() end
  local layers, layer = layers_of(given, file)
  local address, url_origin = first(layers, "url")
  local team = nil
  if layer then
    settle_context(layers, layer, address, file)
    team = layer.context.team_id
  end
  local key, key_origin = first(layers, "key")
  local named = contexts.command_line().context ~= nil
  return {
    api_key = checked_key(key or ""),
    base_url = checked_url(address),
    team_id = scope_id(given.team_id or (named and team or nil), "PRIME_TEAM_ID",
      team or file.team_id),
    user_id = scope_id(given.user_id, "PRIME_USER_ID", file.user_id),
    is_local = local_server ~= nil and address == local_server.url,
    proxy = proxy_for(address, local_server or {}),
    problem = problem,
    origins = { url = url_origin, key = key_origin },
  }
end

return config
