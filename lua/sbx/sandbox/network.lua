-- Where a virtual machine may connect to, read and replaced while it runs.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local egress = require("sbx.sandbox.egress")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5 -- seconds between two looks
local GROWTH = 1.5

---@class sbx.sandbox.Network  new connections follow it once it is applied
---@field allowlist string[]|nil  only there; empty: nowhere
---@field denylist string[]|nil  everywhere but there; empty: everywhere
---@field generation integer  of this policy
---@field applied_generation integer  of the one that is in force, -1: none yet
---@field applied boolean

local shape = {
  policy = "table", generation = "integer", applied_generation = "integer", applied = "boolean",
}

local function list_of(call, policy, name)
  local list = policy[name]
  if list == nil or list == json.null then return nil end
  if not answers.is_list(list) then
    answers.refuse(call, ("'policy.%s' is not a list"):format(name))
  end
  for _, entry in ipairs(list) do
    if type(entry) ~= "string" then
      answers.refuse(call, ("'policy.%s' is not a list of strings"):format(name))
    end
  end
  return list
end

local function network_from(call, answer)
  local found = answers.read(call, answer, shape)
  local policy = found.policy
  found.policy = nil
  found.allowlist = list_of(call, policy, "allowlist")
  found.denylist = list_of(call, policy, "denylist")
  if found.allowlist and found.denylist then
    answers.refuse(call, "'policy' has both lists")
  end
  return found
end

---@async
local function get(client, id, op)
  local call = {
    op = op,
    method = "GET",
    path = wire.sandbox_path(id, "/egress-policy"),
    sandbox_id = id,
  }
  return network_from(call, (wire.call(client, call)))
end

---The egress policy of a virtual machine. Raises `unsupported` for a container.
---@async
---@param target string|sbx.sandbox.Box
---@return sbx.sandbox.Network
function methods:get_network(target)
  local id = wire.id_of(target)
  profile.require(self, id, "egress_policy", "get_network")
  return get(self, id, "get_network")
end

-- What a server has not taken must not pass for it.
local function check_confirmed(op, id, found, wanted)
  if egress.confirms(found, wanted) then return end
  errors.raise({
    kind = "api",
    code = "NETWORK_NOT_SET",
    op = op,
    sandbox_id = id,
    message = ("%s %s: the server's answer has another policy than the one asked for"):format(
      op, failure.clean(id, nil, 100)),
  })
end

-- Whether the policy of this generation is in force, or one that came after it.
local function is_applied(found, generation)
  if found.applied_generation < generation then return false end
  return found.applied or found.generation > generation
end

---@async
local function wait_until_applied(client, id, found)
  local pause = FIRST_PAUSE
  local generation = found.generation
  while not is_applied(found, generation) do
    task.sleep(throttle.jitter(pause))
    pause = math.min(LONGEST_PAUSE, pause * GROWTH)
    found = get(client, id, "set_network")
  end
  return found
end

local function not_applied(id, seconds)
  errors.raise({
    kind = "timeout",
    op = "set_network",
    sandbox_id = id,
    timeout = seconds,
    outcome = "unknown",
    message = ("set_network %s: the policy was accepted, but not applied within %g s"):format(
      failure.clean(id, nil, 100), seconds),
  })
end

---@class sbx.sandbox.NetworkOptions
---@field wait? boolean  returns only once it is applied (default true)
---@field timeout? number  seconds that this may take (default 60)

local function checked(rules, given)
  local options = check.options(given, { wait = true, timeout = 60 }, -1)
  check.boolean(options.wait, "wait")
  check.number(options.timeout, "timeout", 0, 1e9)
  return egress.policy(rules), options
end

---Replaces the egress policy of a virtual machine by `{ allow = list }` or
---`{ deny = list }`, where "*" in place of a list is everything. Entries are IPv4
---addresses, networks in the form of 10.0.0.0/8, host names, and `*.` with a host name.
---Waits until it is applied; connections that stand are not cut. Raises `unsupported`
---for a container, `timeout` when it is not applied in time, and `api`, code
---`NETWORK_NOT_SET`, when the server takes something else than was asked for; with
---`outcome = "unknown"` what went wrong after the server had accepted it.
---@async
---@param target string|sbx.sandbox.Box
---@param rules { allow?: string|string[], deny?: string|string[] }  one of them
---@param options? sbx.sandbox.NetworkOptions
---@return sbx.sandbox.Network
function methods:set_network(target, rules, options)
  local id = wire.id_of(target)
  local policy, opts = request.blame(checked, rules, options)
  profile.require(self, id, "egress_policy", "set_network")
  local call = {
    op = "set_network",
    method = "PUT",
    path = wire.sandbox_path(id, "/egress-policy"),
    body = { allowlist = policy.allowlist or json.null, denylist = policy.denylist or json.null },
    sandbox_id = id,
  }
  local found = network_from(call, (wire.call(self, call)))
  check_confirmed(call.op, id, found, policy)
  if not opts.wait or is_applied(found, found.generation) then return found end
  local ok, in_time, applied = pcall(task.move_on, opts.timeout, wait_until_applied,
    self, id, found)
  if not ok then
    local err = in_time
    if errors.is_error(err) and err.kind ~= "cancelled" then err.outcome = "unknown" end
    error(err, 0)
  end
  if not in_time then not_applied(id, opts.timeout) end
  -- Another one may have been set meanwhile; the same one must be what came of ours.
  if applied.generation == found.generation then
    check_confirmed(call.op, id, applied, policy)
  end
  return applied
end

return { methods = methods }
