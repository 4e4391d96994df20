-- The sandbox client: makes sandboxes, runs commands in them, moves files, and
-- deletes what the script leaves behind.
--
--   local client <close> = sandbox.client()
--   local box <close> = client:create { name = "demo", docker_image = "python:3.11-slim" }
--   box:wait()
--   print(box:exec("python -c 'print(42)'").stdout)

local check = require("sbx.check")
local config = require("sbx.sandbox.config")
local deletes = require("sbx.sandbox.deletes")
local governor = require("sbx.sandbox.governor")
local host = require("sbx.core.host")
local ownership = require("sbx.sandbox.ownership")
local poller = require("sbx.sandbox.poller")
local request = require("sbx.sandbox.request")
local tokens = require("sbx.sandbox.tokens")

---@class sbx.sandbox
local sandbox = {}

---@class sbx.sandbox.Client
---@field base_url string  of the API, without the `/api/v1`
---@field config sbx.sandbox.Config
---@field tokens sbx.sandbox.Tokens
---@field governor sbx.sandbox.Governor
---@field owned sbx.sandbox.Ownership
---@field poller sbx.sandbox.Poller
---@field reached table<string, boolean>  ids to which commands get through
---@field deletes sbx.sandbox.Deletes
---@field throttle_timeout number  seconds that one call waits out 429 answers
---@field user_agent string
---@field closed boolean
---@field heard boolean  the API has answered something
local Client = {}
Client.__index = Client
Client.__name = "sbx.sandbox.Client"

for _, part in ipairs({
  "lifecycle", "bulk_delete", "listing", "waiting", "commands", "jobs", "processes", "files",
  "tree", "ports", "statuses", "network", "ssh", "registry", "images", "builds", "transfers",
}) do
  for name, method in pairs(require("sbx.sandbox." .. part).methods) do
    Client[name] = method
  end
end

---Forgets all gateway tokens, also those on disk, of which other processes take
---notice.
---@async
function Client:clear_auth_cache()
  self.tokens:clear()
end

---Ends the use of this client. Sandboxes are not touched: those that this run
---made and the script leaves are deleted at the end of the run.
---@async
function Client:close()
  self.closed = true
  self.tokens:close()
end

Client.__close = Client.close
check.methods(Client, "client")

-- Only what is no secret.
function Client:__tostring()
  return "sandbox client of " .. self.base_url
end

---@class sbx.sandbox.ClientOptions
---@field api_key? string  (default: PRIME_API_KEY, then ~/.prime/config.json)
---@field base_url? string  (default: PRIME_API_BASE_URL, PRIME_BASE_URL, the file)
---@field team_id? string  (default: PRIME_TEAM_ID, the file)
---@field user_id? string  (default: PRIME_USER_ID, the file)
---@field throttle_timeout? number  seconds that one call waits out 429s (default 120)

local function checked_options(given)
  local options = check.options(given, {
    api_key = check.none,
    base_url = check.none,
    team_id = check.none,
    user_id = check.none,
    throttle_timeout = 120,
  }, -1)
  for _, name in ipairs({ "api_key", "base_url", "team_id", "user_id" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  check.number(options.throttle_timeout, "throttle_timeout", 0)
  return options
end

---Makes a client. Without a key it is made all the same; its first call raises
---`unauthorized` and says what to do. Raises `usage` for a config file of the
---wrong shape and for an address that is none.
---@async
---@param options? sbx.sandbox.ClientOptions
---@return sbx.sandbox.Client
function sandbox.client(options)
  local opts = request.blame(checked_options, options)
  local self = setmetatable({
    config = config.load(opts),
    throttle_timeout = opts.throttle_timeout,
    user_agent = "sbxlua/" .. tostring(host.version),
    closed = false,
    heard = false,
  }, Client)
  self.base_url = self.config.base_url
  self.tokens = tokens.new(self)
  self.governor = governor.new(self.config)
  self.owned = ownership.new(self)
  self.poller = poller.new(self)
  self.reached = {}
  self.deletes = deletes.new(self)
  return self
end

return sandbox
