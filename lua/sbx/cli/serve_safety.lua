-- The options of `serve` that say who may reach the server, under which name and how
-- often: checked here, before anything is started.

local addresses = require("sbx.server.addresses")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local limits = require("sbx.server.limits")
local net = require("sbx.core.net")
local time = require("sbx.time")

local serve_safety = {}

local LEAST_TOKEN, MOST_TOKEN = 120, 86400
-- Of one address, where other machines can connect.
local MAX_PER_PEER = 1024

local function usage_error(message)
  errors.raise { kind = "usage", message = message }
end

local function read_pem(option, path)
  local text, failure = errors.try(fs.read, path, { max = 1048576 })
  if not text then usage_error(option .. ": " .. tostring(failure)) end
  if not text:find("-----BEGIN ", 1, true) then
    usage_error(option .. ": " .. path .. " holds no PEM text (-----BEGIN …)")
  end
  return text
end

local function read_private(option, path)
  local found, failure = errors.try(fs.stat, path)
  if not found then usage_error(option .. ": " .. tostring(failure)) end
  if found.mode & 63 ~= 0 then -- group or others
    usage_error(("%s: the mode of %s is %03o; a key must be readable by its owner only"
      .. " (chmod 600)"):format(option, path, found.mode & 511))
  end
  return read_pem(option, path)
end

local function tls_of(options)
  if not options.tls_cert and not options.tls_key then return nil end
  if not (options.tls_cert and options.tls_key) then
    usage_error("--tls-cert and --tls-key go together")
  end
  return {
    cert = read_pem("--tls-cert", options.tls_cert),
    key = read_private("--tls-key", options.tls_key),
  }
end

local function check_remote(options, name, tls)
  if addresses.is_loopback(name) then return end
  if not options.allow_remote then
    usage_error("--listen: " .. name .. " is not a loopback address: whoever reaches it can try"
      .. " keys. Use 127.0.0.1 and a tunnel, or --allow-remote with --tls-cert and --tls-key")
  elseif not tls then
    usage_error("--allow-remote: keys and data would travel in clear; give --tls-cert and"
      .. " --tls-key")
  elseif addresses.is_any(name) and #options.host_names == 0 then
    usage_error("--listen: " .. name .. " is the name of no machine: say with --host-name how"
      .. " clients call this one")
  end
end

local function check_expose(options)
  local host = options.expose_on
  if not host then return nil end
  local ok, listener = pcall(net.listen, host, 0)
  if not ok then
    usage_error("--expose-on: expected a numeric address of this machine, got " .. host)
  end
  listener:close()
  if not addresses.is_loopback(host) and not options.allow_remote then
    usage_error("--expose-on: " .. host .. " is not a loopback address, and exposed ports ask for"
      .. " no key: that needs --allow-remote")
  end
  return host
end

local function check_names(names)
  for _, name in ipairs(names) do
    if not name:find("^[%w%-._%[%]:]+$") or name:find("[^%]]:%d+$") then
      usage_error("--host-name: expected a name or an address without a port, got " .. name)
    end
  end
  return names
end

local function token_lifetime(text)
  if not text then return nil end
  local ok, seconds = pcall(time.duration, text)
  if ok and seconds >= LEAST_TOKEN and seconds <= MOST_TOKEN then return seconds end
  usage_error("--token-lifetime: expected a time of 2m to 1d, got " .. text)
end

---What `server.start` is to be told. Raises kind `usage`.
---@async
---@param options table  of the command line
---@param name string    the host to listen on
---@return table
function serve_safety.options(options, name)
  local tls = tls_of(options)
  check_remote(options, name, tls)
  local rules = {}
  for _, text in ipairs(options.limits) do
    limits.parse(rules, text)
  end
  return {
    tls = tls,
    host_names = check_names(options.host_names),
    limits = rules,
    token_lifetime = token_lifetime(options.token_lifetime),
    max_per_peer = not addresses.is_loopback(name) and MAX_PER_PEER or nil,
    expose_host = check_expose(options),
  }
end

return serve_safety
