-- Whether a sandbox is a virtual machine or a container, and what that rules out.
-- It never changes, so it is asked for at most once, and mostly not at all: the
-- answers to create, get, list and auth tell it in passing.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

local profile = {}

---@class sbx.sandbox.Profiles
---@field known table<string, boolean>  id → whether it is a virtual machine
---@field asking table<string, table>   id → waiters of the running request

-- Client → its profiles.
local of_client = setmetatable({}, { __mode = "k" })

-- Feature → which profile lacks it, what it is, and what to do instead.
local lacks = {
  expose = {
    vm = true, what = "ports that can be exposed",
    instead = "make it with vm = false for that",
  },
  ssh = {
    vm = true, what = "SSH sessions",
    instead = "open_process with a pty gives a terminal; or make it with vm = false",
  },
  user = {
    vm = true, what = "a choice of user for commands",
    instead = "run `su NAME -c COMMAND` in it",
  },
  egress_policy = {
    vm = false, what = "an egress policy",
    instead = "create it with network_access = false, or with vm = true",
  },
  job_status_batch = {
    vm = false, what = "a batch status of background jobs",
    instead = "ask for each job by itself",
  },
  process = {
    vm = false, what = "live processes",
    instead = "use execute_command or a background job, or make it with vm = true",
  },
}

local function profiles_of(client)
  local found = of_client[client]
  if not found then
    found = { known = {}, asking = {} }
    of_client[client] = found
  end
  return found
end

---Notes what an answer said: without a word about it, it is a container.
---@param client sbx.sandbox.Client
---@param id string
---@param vm any  neither true, false nor nil: the server does not know either
function profile.learn(client, id, vm)
  if vm == nil or type(vm) == "boolean" then profiles_of(client).known[id] = vm or false end
end

---Whether a sandbox is a virtual machine, as far as some answer has told.
---@param client sbx.sandbox.Client
---@param id string
---@return boolean|nil
function profile.known(client, id)
  return profiles_of(client).known[id]
end

---Forgets a sandbox that is gone.
---@param client sbx.sandbox.Client
---@param id string
function profile.forget(client, id)
  profiles_of(client).known[id] = nil
end

---@async
local function ask(client, id, op)
  local token = client.tokens:get(id, op)
  if token.is_vm ~= nil then return token.is_vm end
  local answer = wire.call(client, {
    op = op,
    method = "GET",
    path = wire.sandbox_path(id),
    sandbox_id = id,
  })
  client.tokens:learn_vm(id, answer.vm == true)
  return answer.vm == true
end

-- Asks on behalf of all who want to know meanwhile: one answer, or one failure.
---@async
local function lead(client, id, op)
  local profiles, waiters = profiles_of(client), {}
  profiles.asking[id] = waiters
  local ok, result = pcall(ask, client, id, op)
  profiles.asking[id] = nil
  if ok then profiles.known[id] = result end
  -- The others were not cancelled with us: one of them asks instead.
  local cancelled = not ok and errors.is_error(result) and result.kind == "cancelled"
  for _, waiter in ipairs(waiters) do
    waiter:wake(not cancelled, ok, result)
  end
  if not ok then error(result, 0) end
  return result
end

---Whether a sandbox is a virtual machine. Raises what auth and get raise.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param op string  on whose behalf, for messages
---@return boolean
function profile.is_vm(client, id, op)
  local profiles = profiles_of(client)
  while profiles.known[id] == nil do
    local waiters = profiles.asking[id]
    if not waiters then return lead(client, id, op) end
    local waiter = task.waiter("profile of a sandbox")
    waiters[#waiters + 1] = waiter
    local answered, ok, result = waiter:wait()
    if answered and not ok then error(result, 0) end
    if answered then return result end
  end
  return profiles.known[id]
end

---Raises kind `unsupported`, which names what to do instead, when sandboxes of this
---one's profile lack a feature: expose, ssh and user on virtual machines;
---egress_policy, job_status_batch and process on containers.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param feature "expose"|"ssh"|"user"|"egress_policy"|"job_status_batch"|"process"
---@param op string  on whose behalf, for messages
function profile.require(client, id, feature, op)
  local rule = assert(lacks[feature], feature)
  if profile.is_vm(client, id, op) ~= rule.vm then return end
  errors.raise({
    kind = "unsupported",
    op = op,
    code = feature,
    sandbox_id = id,
    message = ("%s %s: this sandbox is a %s, which does not have %s: %s"):format(
      op, failure.clean(id, nil, 100), rule.vm and "virtual machine" or "container",
      rule.what, rule.instead),
  })
end

return profile
