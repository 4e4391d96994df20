-- Whether commands get through to a sandbox. It is found out once: what has run a
-- command needs no probe, and of many who want to know one tries.

local commands = require("sbx.sandbox.commands")
local errors = require("sbx.errors")
local observe = require("sbx.observe")
local sync = require("sbx.sync")
local task = require("sbx.task")

local probe = {}

local AT_ONCE = 64

-- Statuses of a probe that only mean "not yet".
local not_yet = {
  [408] = true, [409] = true, [429] = true,
  [500] = true, [502] = true, [503] = true, [504] = true, [524] = true,
}

-- The same in the words of a virtual machine's command session.
local passing_code = { aborted = true, unavailable = true }

local passing_cause = { connect = true, dns = true, http = true, timeout = true }

-- Client → what its probes share: `permits`, and by id the `waiters` for one.
local of_client = setmetatable({}, { __mode = "k" })

local function shared_by(client)
  local shared = of_client[client]
  if not shared then
    shared = { permits = sync.semaphore(AT_ONCE, "probes of sandboxes"), waiters = {} }
    of_client[client] = shared
  end
  return shared
end

-- True when a failed probe may succeed later: the gateway may learn of a new
-- sandbox after the API has called it RUNNING.
local function may_pass(err)
  if not errors.is_error(err) then return false end
  if err.error_type == "SANDBOX_NOT_FOUND" then return true end
  if err.kind == "command_timeout" or err.kind == "api_timeout" then return true end
  if passing_code[err.code] then return true end
  if err.status then return not_yet[err.status] or false end
  return errors.is_error(err.cause) and passing_cause[err.cause.kind] or false
end

---@async
local function try(client, id, permits)
  local _ <close> = permits:acquire()
  if not client.reached[id] then commands.probe(client, id) end
end

-- Tries on behalf of all who want to know meanwhile. True and the error if it failed;
-- false when that is still not known.
---@async
local function try_once(client, id, shared)
  local waiters = shared.waiters[id]
  if waiters then
    local waiter = task.waiter("probe of a sandbox")
    waiters[#waiters + 1] = waiter
    return waiter:wait()
  end
  waiters = {}
  shared.waiters[id] = waiters
  local ok, err = pcall(try, client, id, shared.permits)
  shared.waiters[id] = nil
  if ok then
    client.reached[id] = true
    if observe.phase then observe.phase(id, "exec") end
    err = nil
  end
  -- The others were not cancelled with us: one of them tries instead.
  local cancelled = not ok and errors.is_error(err) and err.kind == "cancelled"
  for _, waiter in ipairs(waiters) do
    waiter:wake(not cancelled, err)
  end
  return true, err
end

---Whether a command gets through. False says "not yet", with the reason; what time
---will not mend is raised.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@return boolean reached, sbx.Error|nil cause
function probe.reaches(client, id)
  local shared = shared_by(client)
  while not client.reached[id] do
    local settled, err = try_once(client, id, shared)
    if settled and err ~= nil then
      if may_pass(err) then return false, err end
      error(err, 0)
    end
  end
  return true
end

return probe
