-- Making a port inside a sandbox reachable from outside, over HTTP.

local check = require("sbx.check")
local failure = require("sbx.sandbox.failure")
local request = require("sbx.sandbox.request")
local url = require("sbx.url")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

---@class sbx.sandbox.Exposure
---@field exposure_id string
---@field sandbox_id string
---@field port integer  in the sandbox
---@field url string  anyone who has it can open it
---@field name string|nil
---@field protocol string|nil
---@field tls_socket string|nil
---@field external_port integer|nil
---@field external_endpoint string|nil
---@field created_at string|nil

local optional_strings = { "name", "protocol", "tls_socket", "external_endpoint", "created_at" }

local function exposure_from(call, answer)
  local exposure = {
    exposure_id = failure.field(call, answer, "exposure_id", "string"),
    sandbox_id = failure.field(call, answer, "sandbox_id", "string"),
    url = failure.field(call, answer, "url", "string"),
    port = failure.field(call, answer, "port", "integer"),
    external_port = math.tointeger(answer.external_port),
  }
  for _, name in ipairs(optional_strings) do
    if type(answer[name]) == "string" then exposure[name] = answer[name] end
  end
  return exposure
end

local function checked_options(port, given)
  local options = check.options(given, { name = check.none, protocol = "HTTP" }, -1)
  options.port = check.integer(port, "port", 1, 65535)
  if options.name ~= nil then check.string(options.name, "name") end
  check.string(options.protocol, "protocol")
  return options
end

---Makes a port reachable at the `url` of the result.
---@async
---@param target string|sbx.sandbox.Box
---@param port integer  that a server in the sandbox listens on
---@param options? { name?: string, protocol?: string }
---@return sbx.sandbox.Exposure
function methods:expose(target, port, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_options, port, options)
  local call = {
    op = "expose",
    method = "POST",
    path = wire.sandbox_path(id, "/expose"),
    body = { port = opts.port, name = opts.name, protocol = opts.protocol },
    sandbox_id = id,
  }
  return exposure_from(call, (wire.call(self, call)))
end

-- Dot segments would be resolved away: ".." would delete the sandbox itself.
local function checked_exposure(id)
  check.string(id, "exposure")
  if id == "" or id == "." or id == ".." or #id > 256 then
    error("exposure: not an exposure id", 0)
  end
end

---Ends what `expose` began.
---@async
---@param target string|sbx.sandbox.Box
---@param exposure string|sbx.sandbox.Exposure  or its `exposure_id`
function methods:unexpose(target, exposure)
  local id = wire.id_of(target)
  if type(exposure) == "table" then exposure = exposure.exposure_id end
  request.blame(checked_exposure, exposure)
  wire.call(self, {
    op = "unexpose",
    method = "DELETE",
    path = wire.sandbox_path(id, "/expose/" .. url.escape(exposure)),
    sandbox_id = id,
  })
end

---The exposed ports of one sandbox, or of all of them without an argument.
---@async
---@param target? string|sbx.sandbox.Box
---@return sbx.sandbox.Exposure[]
function methods:list_exposed_ports(target)
  local id = target ~= nil and wire.id_of(target) or nil
  local call = {
    op = "list_exposed_ports",
    method = "GET",
    path = id and wire.sandbox_path(id, "/expose") or "/sandbox/expose/all",
    sandbox_id = id,
  }
  local answer = wire.call(self, call)
  local list = {}
  for i, item in ipairs(failure.field(call, answer, "exposures", "table")) do
    list[i] = exposure_from(call, type(item) == "table" and item or {})
  end
  return list
end

return { methods = methods }
