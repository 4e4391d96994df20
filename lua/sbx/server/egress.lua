-- Where sandboxes may connect to: asked for at their creation, and of virtual machines
-- replaced while they run. Each policy has a generation; the one that is in force is told.

local errors = require("sbx.errors")
local json = require("sbx.json")
local network = require("sbx.server.network")
local reply = require("sbx.server.reply")
local sync = require("sbx.sync")
local task = require("sbx.task")

local egress = {}

local FIRST = 1
local LOOK_SECONDS = 0.1 -- between two looks at a sandbox that boots

---@class sbx.server.Egress
---@field generation integer          of the policy that was asked for last
---@field applied_generation integer  of the one that is in force, -1: none yet

---@class sbx.server.Policy  one of them
---@field allowlist? string[]  only there
---@field denylist? string[]   everywhere but there

local locks = setmetatable({}, { __mode = "k" }) -- record → held by who applies a policy

local function has_rules(driver)
  return driver.features ~= nil and driver.features.network_rules == true
end

---@param spec sbx.server.Spec
---@return sbx.server.Policy
local function policy_of(spec)
  if spec.network_allowlist then return { allowlist = spec.network_allowlist } end
  if spec.network_denylist then return { denylist = spec.network_denylist } end
  if spec.network then return { denylist = {} } end
  return { allowlist = {} }
end

---How a sandbox stands. Never nil.
---@param record sbx.server.Sandbox
---@return sbx.server.Egress
local function state_of(record)
  record.egress = record.egress or { generation = FIRST, applied_generation = -1 }
  return record.egress
end

---What the driver is asked for when it boots a sandbox: whether it has a network, and
---the lists for it. A virtual machine, whose policy may change, gets a network in any
---case where the driver has rules.
---@param record sbx.server.Sandbox
---@param driver sbx.server.Driver
---@return boolean network
---@return sbx.server.Policy|nil rules
function egress.for_driver(record, driver)
  local spec = record.spec
  if not (spec.vm and has_rules(driver)) then return spec.network, nil end
  local policy = policy_of(spec)
  if policy.denylist and #policy.denylist == 0 then return true, nil end
  return true, policy
end

---Notes that the driver has booted a sandbox with what `for_driver` told.
---@param record sbx.server.Sandbox
---@param generation integer  as it was then
function egress.booted(record, generation)
  state_of(record).applied_generation = generation
end

---@param record sbx.server.Sandbox
---@return integer
function egress.generation(record)
  return state_of(record).generation
end

local function view(record)
  local state, policy = state_of(record), policy_of(record.spec)
  return {
    policy = {
      allowlist = policy.allowlist and json.array(policy.allowlist) or json.null,
      denylist = policy.denylist and json.array(policy.denylist) or json.null,
    },
    generation = state.generation,
    applied_generation = state.applied_generation,
    applied = state.applied_generation == state.generation,
  }
end

-- ------------------------------------------------------------------- what is asked for

local function list_in(body, name, can)
  local list = body[name]
  if list == nil or list == json.null then return nil end
  local entries, problem = network.list(name, list, can)
  if not entries then reply.invalid(name, problem) end
  return entries
end

local function same(one, other)
  for _, name in ipairs { "allowlist", "denylist" } do
    local a, b = one[name], other[name]
    if (a == nil) ~= (b == nil) or a and table.concat(a, " ") ~= table.concat(b, " ") then
      return false
    end
  end
  return true
end

local function refuse_change(record)
  reply.refuse(422, record.spec.vm
    and "this server's driver decides the network of a sandbox when it is created: make"
      .. " another one with the policy that you want"
    or "the network of a container is the whole one or none, decided when it is created; make"
      .. " another sandbox with the network_access that you want")
end

-- The policy of a PUT. Raises 422.
local function wanted(record, body, driver)
  -- Where nothing can be changed any list is read, to tell the real reason.
  local changeable = record.spec.vm and has_rules(driver)
  local can = { lists = true, vm = record.spec.vm }
  local policy = {
    allowlist = list_in(body, "allowlist", can), denylist = list_in(body, "denylist", can),
  }
  if (policy.allowlist == nil) == (policy.denylist == nil) then
    reply.refuse(422, "give a list as one of allowlist and denylist, and null as the other")
  end
  if not changeable and not same(policy, policy_of(record.spec)) then refuse_change(record) end
  return policy, changeable
end

-- ------------------------------------------------------------------------ applying it

local function set_policy(record, policy)
  record.spec.network_allowlist = policy.allowlist
  record.spec.network_denylist = policy.denylist
  record.spec.network = policy.allowlist == nil or #policy.allowlist > 0
end

-- Brings into force what was asked for last. One at a time.
local function apply(record)
  local lock = locks[record] or sync.mutex("network policy")
  locks[record] = lock
  local _ <close> = lock:lock()
  local state = state_of(record)
  while state.applied_generation ~= state.generation and record.box and not record:ended() do
    local generation = state.generation
    record.box:set_network(policy_of(record.spec))
    state.applied_generation = generation
  end
end

-- The sandbox boots with the policy before, perhaps: it is replaced once it runs.
local function apply_later(fleet, record)
  while not record.box and not record:ended() do
    task.sleep(LOOK_SECONDS)
  end
  local ok, failure = pcall(apply, record)
  if ok then return fleet:save(record) end
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
  record.logs:add("network policy was not applied: " .. tostring(failure))
end

-- The driver would not have it: what was in force before still is, and is told.
local function take_back(record, generation, before)
  local state = state_of(record)
  if state.generation == generation then
    set_policy(record, before)
    state.generation = generation - 1
  end
end

local function replace(server, record, policy)
  local state, before = state_of(record), policy_of(record.spec)
  set_policy(record, policy)
  state.generation = state.generation + 1
  local generation = state.generation
  if not record.box then
    server.fleet.scope:pspawn(apply_later, server.fleet, record)
    return
  end
  local ok, failure = pcall(apply, record)
  if ok then return end
  take_back(record, generation, before)
  if not errors.is_error(failure) or failure.kind == "cancelled" then error(failure, 0) end
  reply.refuse(422, "the policy could not be applied: " .. failure.message)
end

-- ------------------------------------------------------------------------ the handlers

local function known(server, params)
  local record = server.fleet.store:get(params.id)
  if not record then reply.refuse(404, "Sandbox not found") end
  return record
end

function egress.get(server, _, params)
  return 200, view(known(server, params))
end

function egress.put(server, request, params)
  local record = known(server, params)
  local policy, changeable = wanted(record, reply.json_body(request), server.fleet.driver)
  if record:ended() then
    reply.refuse(409, "Sandbox is not running: its status is " .. record.status)
  end
  if changeable then
    replace(server, record, policy)
    server.fleet:save(record)
  end
  return 200, view(record)
end

return egress
