-- Waiting until sandboxes can be used: the API says RUNNING, and a command gets
-- through. One by GET; many by the list endpoint, with the state kept per id.

local box = require("sbx.sandbox.box")
local check = require("sbx.check")
local commands = require("sbx.sandbox.commands")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local listing = require("sbx.sandbox.listing")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local DEFAULT_TIMEOUT = 300 -- seconds
local FIRST_PAUSE = 0.1 -- between two looks
local LONGEST_PAUSE = 5
local GROWTH = 1.5
local FEW = 1 -- ids up to which asking for each is cheaper than listing
local PROBES = 32 -- at once
local LOOKUPS = 16 -- at once
local MAX_PAGES = 1000

local terminal = { ERROR = true, TERMINATED = true, TIMEOUT = true }

-- Statuses of a probe that only mean "not yet".
local not_yet = {
  [408] = true, [409] = true, [429] = true,
  [500] = true, [502] = true, [503] = true, [504] = true, [524] = true,
}

-- The same in the words of a virtual machine's command session.
local passing_code = { aborted = true, unavailable = true }

local passing_cause = { connect = true, dns = true, http = true, timeout = true }

---@class sbx.sandbox.WaitOptions
---@field timeout? number  seconds in all (default 300)

local function pause(round)
  return throttle.jitter(math.min(LONGEST_PAUSE, FIRST_PAUSE * GROWTH ^ math.min(round, 20)))
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

-- Whether a command gets through. False says "not yet", with the reason; what
-- time will not mend is raised.
---@async
local function is_reachable(client, id)
  local ok, err = pcall(commands.probe, client, id)
  if ok then return true end
  if may_pass(err) then return false, err end
  error(err, 0)
end

local function ended(op, found)
  return failure.not_running({
    op = op,
    sandbox_id = found.id,
    status = found.status,
    error_type = type(found.error_type) == "string" and found.error_type or nil,
    error_message = type(found.error_message) == "string" and found.error_message or nil,
  })
end

local function out_of_time(op, id, seconds, seen)
  local err = failure.not_running({
    op = op,
    sandbox_id = id,
    status = seen.status or "unknown",
    error_type = seen.status == "RUNNING" and "GATEWAY_REACHABILITY_TIMEOUT" or nil,
    error_message = ("not usable within %g s"):format(seconds),
    cause = seen.cause,
  })
  err.timeout = seconds
  return err
end

-- Throttling is waited out for as long as the deadline around all this allows.
---@async
local function look_at(client, id)
  local call = {
    op = "get",
    method = "GET",
    path = wire.sandbox_path(id),
    sandbox_id = id,
    patience = math.huge,
  }
  return box.from(client, call, (wire.call(client, call)))
end

local function checked_options(given)
  local options = check.options(given, { timeout = DEFAULT_TIMEOUT }, -1)
  check.number(options.timeout, "timeout", 0)
  return options
end

-- ------------------------------------------------------------------ one sandbox

---@async
local function wait_for_one(client, id, seen)
  for round = 0, math.huge do
    local found = look_at(client, id)
    seen.status = found.status
    if terminal[found.status] then error(ended("wait_for_creation", found), 0) end
    if found.status == "RUNNING" then
      local reachable, cause = is_reachable(client, id)
      if reachable then return found end
      seen.cause = cause
    end
    task.sleep(math.max(pause(round), seen.cause and seen.cause.retry_after or 0))
  end
end

---Waits until commands can run in a sandbox, and returns its present state.
---Raises `not_running` (or `oom`, `sandbox_timeout`, `image_pull`) when it ends
---instead or does not get there in time, and what `get` raises.
---@async
---@param target string|sbx.sandbox.Box
---@param options? sbx.sandbox.WaitOptions
---@return sbx.sandbox.Box
function methods:wait_for_creation(target, options)
  local id = wire.id_of(target)
  local seconds = request.blame(checked_options, options).timeout
  local seen = {}
  local in_time, found = task.move_on(seconds, wait_for_one, self, id, seen)
  if not in_time then error(out_of_time("wait_for_creation", id, seconds, seen), 0) end
  return found
end

-- ------------------------------------------------------------------------- many

-- What is known of each wanted sandbox, over all rounds.
local function new_fleet(ids)
  local fleet = { ids = ids, states = {}, open = #ids, hold = 0 }
  for _, id in ipairs(ids) do
    if fleet.states[id] then error(("bulk_wait_for_creation: %s is named twice"):format(id), 0) end
    fleet.states[id] = { id = id, status = "unknown", ready = false }
  end
  return fleet
end

local function record(fleet, found, round)
  local state = fleet.states[found.id]
  if not state or state.ready then return false end
  local news = state.round ~= round
  state.status, state.round = found.status, round
  if terminal[found.status] then state.failure = ended("bulk_wait_for_creation", found) end
  return news
end

local function not_seen(fleet, round)
  local ids = {}
  for _, id in ipairs(fleet.ids) do
    local state = fleet.states[id]
    if not state.ready and state.round ~= round then ids[#ids + 1] = id end
  end
  return ids
end

-- Reads pages until every open id has shown up. Throttling is waited out for as
-- long as the deadline around all this allows, and the same page asked again.
---@async
local function read_list(client, fleet, round)
  local missing = fleet.open
  local options = { per_page = 100, exclude_terminated = true, user_id = "" }
  for page = 1, MAX_PAGES do
    local found = listing.page(client, options, page, math.huge)
    for _, item in ipairs(found) do
      if record(fleet, item, round) then missing = missing - 1 end
    end
    if missing <= 0 or not found.has_next then return end
  end
end

-- Asks for single ids: those that the list did not show, because it hides ended
-- ones or because its pages moved meanwhile.
---@async
local function look_up(client, fleet, ids, round)
  task.map(ids, function(id)
    local found, err = errors.try(look_at, client, id)
    if found then
      record(fleet, found, round)
    elseif errors.is_error(err) and err.status == 404 then
      local gone = { id = id, status = "TERMINATED", error_type = "SANDBOX_NOT_FOUND" }
      record(fleet, gone, round)
    else
      error(err, 0)
    end
  end, { limit = LOOKUPS })
end

local function raise_failures(fleet, seconds)
  local failed, list, parts = {}, {}, {}
  for _, id in ipairs(fleet.ids) do
    local state = fleet.states[id]
    if seconds and not state.ready and not state.failure then
      state.failure = out_of_time("bulk_wait_for_creation", id, seconds, state)
    end
    if state.failure then
      failed[id] = state.status
      list[#list + 1] = state.failure
      if #parts < 10 then parts[#parts + 1] = ("%s is %s"):format(id, state.status) end
    end
  end
  if #list == 0 then return end
  if #list > #parts then parts[#parts + 1] = ("and %d more"):format(#list - #parts) end
  local text = table.concat(parts, ", ")
  errors.raise({
    kind = #list == 1 and list[1].kind or "not_running",
    op = "bulk_wait_for_creation",
    sandbox_id = #list == 1 and list[1].sandbox_id or nil,
    failed = failed,
    errors = list,
    cause = list[1],
    message = ("bulk_wait_for_creation: %d of %d not usable%s: %s"):format(
      #list, #fleet.ids, seconds and (" within %g s"):format(seconds) or "", failure.clean(text)),
  })
end

---@async
local function prove(client, fleet, on_ready)
  local candidates = {}
  for _, id in ipairs(fleet.ids) do
    local state = fleet.states[id]
    if state.status == "RUNNING" and not state.ready then candidates[#candidates + 1] = state end
  end
  task.map(candidates, function(state)
    local reachable, cause = is_reachable(client, state.id)
    state.cause = cause
    if not reachable then
      fleet.hold = math.max(fleet.hold, cause.retry_after or 0)
      return
    end
    state.ready = true
    fleet.open = fleet.open - 1
    if on_ready then on_ready(state.id, #fleet.ids - fleet.open, #fleet.ids) end
  end, { limit = PROBES })
end

---@async
local function wait_for_many(client, fleet, on_ready)
  for round = 0, math.huge do
    if fleet.open > FEW then read_list(client, fleet, round) end
    look_up(client, fleet, not_seen(fleet, round), round)
    raise_failures(fleet)
    fleet.hold = 0
    prove(client, fleet, on_ready)
    if fleet.open == 0 then return end
    task.sleep(math.max(pause(round), fleet.hold))
  end
end

---@class sbx.sandbox.BulkWaitOptions
---@field timeout? number  seconds in all (default 300)
---@field on_ready? fun(id: string, ready: integer, total: integer)  as each gets usable

local function checked_bulk(targets, given)
  local options = check.options(given, {
    timeout = DEFAULT_TIMEOUT,
    on_ready = check.none,
  }, -1)
  check.number(options.timeout, "timeout", 0)
  if options.on_ready ~= nil then check.fn(options.on_ready, "on_ready") end
  local ids = {}
  for i, target in ipairs(check.table(targets, "sandboxes")) do
    ids[i] = wire.id_of(target)
  end
  return new_fleet(ids), options
end

---Waits until commands can run in all of the sandboxes, with a few requests a
---round however many there are, and slows down while the API throttles. Raises
---`not_running` as soon as some have ended, or at the deadline: `failed` has the
---status by id, `errors` an error for each.
---@async
---@param targets (string|sbx.sandbox.Box)[]
---@param options? sbx.sandbox.BulkWaitOptions
---@return table<string, string> statuses  by id: all RUNNING
function methods:bulk_wait_for_creation(targets, options)
  local fleet, opts = request.blame(checked_bulk, targets, options)
  if not task.move_on(opts.timeout, wait_for_many, self, fleet, opts.on_ready) then
    raise_failures(fleet, opts.timeout)
  end
  local statuses = {}
  for _, id in ipairs(fleet.ids) do
    statuses[id] = fleet.states[id].status
  end
  return statuses
end

return { methods = methods }
