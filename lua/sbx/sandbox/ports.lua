-- Making a port inside a sandbox reachable from outside, over HTTP or TCP.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local errors = require("sbx.errors")
local log = require("sbx.log")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local url = require("sbx.url")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local MAX_NAME = 50 -- characters
local EXPOSE_SECONDS = 30 -- that a request on its way holds off a cancellation
local CLOSE_SECONDS = 30 -- for the request that a `<close>` does

---@class sbx.sandbox.Exposure
---@field exposure_id string
---@field sandbox_id string
---@field port integer  in the sandbox
---@field url string  anyone who has it can open it
---@field name string|nil
---@field protocol string|nil  HTTP or TCP
---@field tls_socket string|nil
---@field external_port integer|nil  of TCP
---@field external_endpoint string|nil  of TCP: "host:port"
---@field created_at string|nil
local Exposure = {}
Exposure.__index = Exposure
Exposure.__name = "sbx.sandbox.Exposure"

local shape = {
  exposure_id = "string", sandbox_id = "string", url = "string", port = "integer",
  name = "string?", protocol = "string?", tls_socket = "string?", external_port = "integer?",
  external_endpoint = "string?", created_at = "string?",
}

-- Exposure → the client that made it, until it is closed. Kept apart from the object,
-- so that printing or encoding one shows data only.
local owners = setmetatable({}, { __mode = "k" })

---@async
local function unexpose(client, op, sandbox_id, exposure_id, even_closed)
  wire.call(client, {
    op = op,
    method = "DELETE",
    path = wire.sandbox_path(sandbox_id, "/expose/" .. url.escape(exposure_id)),
    sandbox_id = sandbox_id,
    even_closed = even_closed,
  })
end

---Ends it, if this client made it; once more is harmless, and so it is when the
---sandbox has gone.
---@async
function Exposure:close()
  local client = owners[self]
  if not client then return end
  local _, err = errors.try(unexpose, client, "unexpose", self.sandbox_id, self.exposure_id, true)
  if err and not (errors.is_error(err) and err.status == 404) then error(err, 0) end
  owners[self] = nil
end

-- An error in flight stays the one that is raised.
function Exposure:__close(err)
  if not owners[self] then return end
  local ok, failed = pcall(task.shield, CLOSE_SECONDS, self.close, self)
  if ok then return end
  if err == nil then error(failed, 0) end
  log.warn("cannot unexpose a port: " .. tostring(failed), { sandbox_id = self.sandbox_id })
end

function Exposure:__tostring()
  return log.clean(("port %d of sandbox %s at %s"):format(self.port, self.sandbox_id,
    self.external_endpoint or self.url), 300)
end

check.methods(Exposure, "exposure")

-- An exposure made of what was read.
local function checked_exposure(call, found, sandbox_id)
  answers.id(call, found.exposure_id, "exposure_id")
  if sandbox_id and found.sandbox_id ~= sandbox_id then
    answers.refuse(call, "'sandbox_id' is about another sandbox")
  end
  return setmetatable(found, Exposure)
end

---@class sbx.sandbox.ExposeOptions
---@field name? string  at most 50 characters
---@field protocol? "HTTP"|"TCP"  (default "HTTP")

local function checked_options(port, given)
  local options = check.options(given, { name = check.none, protocol = "HTTP" }, -1)
  options.port = check.integer(port, "port", 1, 65535)
  if options.name ~= nil then
    check.string(options.name, "name")
    if (utf8.len(options.name) or MAX_NAME + 1) > MAX_NAME then
      error(("name: expected at most %d characters of UTF-8"):format(MAX_NAME), 0)
    end
  end
  if options.protocol ~= "HTTP" and options.protocol ~= "TCP" then
    error('protocol: expected "HTTP" or "TCP"', 0)
  end
  return options
end

-- What the server has made, but not so as it was asked for, does not stay open.
---@async
local function take_back(client, id, answer)
  local made = answers.read({ op = "expose" }, answer, { exposure_id = "string" }).exposure_id
  answers.check_id(made, "exposure_id")
  unexpose(client, "expose", id, made, true)
end

local function no_tcp(id)
  errors.raise({
    kind = "unsupported",
    op = "expose",
    code = "expose_tcp",
    sandbox_id = id,
    message = ('expose %s: the server exposes no ports over TCP: use protocol = "HTTP"')
      :format(log.clean(id, 100)),
  })
end

-- The exposure in an answer, if it is the one that was asked for.
local function exposure_from(call, answer, opts)
  local exposure = checked_exposure(call, answers.read(call, answer, shape), call.sandbox_id)
  if exposure.port ~= opts.port then answers.refuse(call, "'port' is another one") end
  if opts.protocol == "TCP" then
    -- A server that does not know of protocols has opened it over HTTP.
    local said = exposure.protocol or exposure.external_endpoint and "TCP"
    if said ~= "TCP" then no_tcp(call.sandbox_id) end
  else
    if (exposure.protocol or "HTTP") ~= "HTTP" then
      answers.refuse(call, "'protocol' is another one")
    end
    if not exposure.url:find("^[Hh][Tt][Tt][Pp][Ss]?://[^%s%c]+$") then
      answers.refuse(call, "'url' is no http address")
    end
  end
  return exposure
end

---Makes a port reachable: at the `url` of the result, or with `protocol = "TCP"` at its
---`external_endpoint`. The result is a `<close>` value, which ends it. Raises
---`unsupported` for a virtual machine, and for TCP where the server lacks that; what it
---has opened in its place is ended.
---@async
---@param target string|sbx.sandbox.Box
---@param port integer  that a server in the sandbox listens on
---@param options? sbx.sandbox.ExposeOptions
---@return sbx.sandbox.Exposure
function methods:expose(target, port, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_options, port, options)
  profile.require(self, id, "expose", "expose")
  local call = {
    op = "expose",
    method = "POST",
    path = wire.sandbox_path(id, "/expose"),
    body = { port = opts.port, name = opts.name, protocol = opts.protocol },
    sandbox_id = id,
    shield = EXPOSE_SECONDS,
  }
  local answer = wire.call(self, call)
  local ok, exposure = pcall(exposure_from, call, answer, opts)
  if not ok then
    local closed, failed = pcall(task.shield, CLOSE_SECONDS, take_back, self, id, answer)
    if not closed then
      log.warn("cannot unexpose a port: " .. tostring(failed), { sandbox_id = id })
    end
    error(exposure, 0)
  end
  owners[exposure] = self
  return exposure
end

-- Dot segments would be resolved away: ".." would delete the sandbox itself.
local function checked_exposure_id(id)
  check.string(id, "exposure")
  if not pcall(answers.check_id, id, "exposure") then
    error("exposure: not an exposure id", 0)
  end
end

---Ends what `expose` began. Raises `unsupported` for a virtual machine.
---@async
---@param target string|sbx.sandbox.Box
---@param exposure string|sbx.sandbox.Exposure  or its `exposure_id`
function methods:unexpose(target, exposure)
  local id = wire.id_of(target)
  local exposure_id = exposure
  if type(exposure) == "table" then exposure_id = exposure.exposure_id end
  request.blame(checked_exposure_id, exposure_id)
  profile.require(self, id, "expose", "unexpose")
  unexpose(self, "unexpose", id, exposure_id)
  if type(exposure) == "table" then owners[exposure] = nil end
end

---The exposed ports of one sandbox, or of all of them without an argument. Closing
---one of these ends nothing.
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
  if id then profile.require(self, id, "expose", call.op) end
  local list = answers.list(call, (wire.call(self, call)), "exposures", shape)
  for _, found in ipairs(list) do
    checked_exposure(call, found, id)
  end
  return list
end

return { methods = methods }
