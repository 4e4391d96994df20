-- Control plane handlers for exposed ports.

local json = require("sbx.json")
local reply = require("sbx.server.reply")

local exposing = {}

local MAX_PER_SANDBOX = 64

local function known(server, params)
  local record = server.fleet.store:get(params.id)
  if not record then reply.refuse(404, "Sandbox not found") end
  return record
end

local function running(server, params)
  local record = known(server, params)
  if record.status ~= "RUNNING" or not record.box then
    reply.refuse(409, "Sandbox is not running: its status is " .. record.status)
  end
  return record
end

-- Fields of the request: port, name or nil, protocol.
local function wanted(body)
  local port = type(body.port) == "number" and math.tointeger(body.port)
  if not port or port < 22 or port > 9000 then
    reply.invalid("port", "expected a whole number from 22 to 9000")
  end
  local name = body.name
  if name == json.null then name = nil end
  if name ~= nil and (type(name) ~= "string" or (utf8.len(name) or 51) > 50
    or name:find("\0", 1, true)) then
    reply.invalid("name", "expected at most 50 characters, none of them NUL")
  end
  local protocol = body.protocol
  if protocol == nil or protocol == json.null then protocol = "HTTP" end
  if protocol ~= "HTTP" and protocol ~= "TCP" then
    reply.invalid("protocol", "expected HTTP or TCP")
  end
  return port, name, protocol
end

function exposing.expose(server, request, params)
  if known(server, params).spec.vm then
    reply.refuse(422, "ports of a virtual machine cannot be exposed; make the sandbox with"
      .. " vm = false for that")
  end
  -- The body first: a sandbox may end while it arrives.
  local port, name, protocol = wanted(reply.json_body(request))
  local record = running(server, params)
  local count = 0
  for _ in pairs(record.exposures) do
    count = count + 1
  end
  if count >= MAX_PER_SANDBOX then
    reply.refuse(422, "at most " .. MAX_PER_SANDBOX .. " exposed ports for each sandbox")
  end

  local made = server.fleet:expose(record, { port = port, name = name, protocol = protocol })
  running(server, params) -- it may have ended meanwhile, and its ports with it
  return 200, made:view()
end

local function by_age(a, b)
  return a.opened < b.opened
end

local function views(exposures)
  table.sort(exposures, by_age)
  local list = {}
  for index, one in ipairs(exposures) do
    list[index] = one:view()
  end
  return { exposures = json.array(list) }
end

function exposing.list(server, _, params)
  local found = {}
  for _, one in pairs(known(server, params).exposures) do
    found[#found + 1] = one
  end
  return 200, views(found)
end

function exposing.list_all(server, _, _, caller)
  local found = {}
  local living = server.fleet.store:list {
    active = true, user = not caller.admin and caller.user_id or nil,
  }
  for _, record in ipairs(living) do
    for _, one in pairs(record.exposures) do
      found[#found + 1] = one
    end
  end
  return 200, views(found)
end

function exposing.unexpose(server, _, params)
  local record = known(server, params)
  local one = record.exposures[params.exposure_id]
  if not one then reply.refuse(404, "Exposure not found") end
  server.fleet:unexpose(one)
  return 200, { success = true, message = "Closed " .. one.id }
end

return exposing
