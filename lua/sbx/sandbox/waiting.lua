-- Waiting until sandboxes can be used: the API says RUNNING, and a command gets
-- through. All who wait share the looks at the API (poller.lua), however many they are.

local box = require("sbx.sandbox.box")
local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local probe = require("sbx.sandbox.probe")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local DEFAULT_TIMEOUT = 300 -- seconds
local BUILD_TIMEOUT = 3000 -- while the image is built
local MOST_NAMED = 10 -- in the message of a bulk wait

local terminal = { ERROR = true, TERMINATED = true, TIMEOUT = true }

---@class sbx.sandbox.WaitOptions
---@field timeout? number  seconds in all, but for those that its image is built (default 300)

-- How one wait stands: `status` and `building` as seen last, `cause` why a command did
-- not get through, and the seconds that are `left` (`build_left` while building).
local function new_wait(op, id, seconds)
  return {
    op = op, id = id, seconds = seconds, left = seconds, build_left = BUILD_TIMEOUT,
    status = "unknown", building = false,
  }
end

local function ended(op, found)
  return failure.not_running({
    op = op,
    sandbox_id = found.id,
    status = found.status,
    error_type = found.error_type,
    error_message = found.error_message,
  })
end

local function out_of_time(wait)
  local seconds = wait.building and BUILD_TIMEOUT or wait.seconds
  local text = ("%s within %g s"):format(
    wait.building and "its image was not built" or "not usable", seconds)
  local trouble = wait.watch and wait.watch:trouble()
  if trouble then text = text .. "; " .. tostring(trouble) end
  local err = failure.not_running({
    op = wait.op,
    sandbox_id = wait.id,
    status = wait.status,
    error_type = wait.status == "RUNNING" and "GATEWAY_REACHABILITY_TIMEOUT" or nil,
    error_message = text,
    cause = trouble or wait.cause,
  })
  err.timeout = seconds
  wait.late = true
  return err
end

-- Calls `fn(...)` within the time that is left, and counts it off.
---@async
local function within(wait, fn, ...)
  local clock = wait.building and "build_left" or "left"
  local began = task.now()
  local in_time, first, second = task.move_on(math.max(0, wait[clock]), fn, ...)
  wait[clock] = wait[clock] - (task.now() - began)
  if not in_time then error(out_of_time(wait), 0) end
  return first, second
end

-- One that the API does not know has ended, for who waits for it.
---@async
local function look(wait)
  local ok, found = pcall(wait.watch.next, wait.watch)
  if ok then return found end
  local err = found
  if not errors.is_error(err) or err.status ~= 404 or err.sandbox_id ~= wait.id then
    error(err, 0)
  end
  wait.status = "TERMINATED"
  wait.found = { id = wait.id, status = "TERMINATED", error_type = "SANDBOX_NOT_FOUND" }
  error(failure.gone({ op = wait.op, sandbox_id = wait.id }, err), 0)
end

---@async
local function wait_for_one(client, wait)
  local watch <close> = client.poller:watch(wait.id)
  wait.watch = watch
  while true do
    local found = within(wait, look, wait)
    wait.status = found.status
    wait.building = found.status == "PENDING" and found.pending_image_build_id ~= nil
    if terminal[found.status] then
      wait.found = found
      error(ended(wait.op, found), 0)
    end
    if found.status == "RUNNING" then
      local reached, cause = within(wait, probe.reaches, client, wait.id)
      if reached then return found end
      wait.cause = cause
      if cause.retry_after then within(wait, task.sleep, cause.retry_after) end
    end
  end
end

-- ------------------------------------------------------------------ one sandbox

local function checked_options(given)
  local options = check.options(given, { timeout = DEFAULT_TIMEOUT }, -1)
  check.number(options.timeout, "timeout", 0)
  return options
end

-- What a look has shown, as fields of the object.
local function update(target, found)
  if found.box then return box.copy(found.box, target) end
  for _, name in ipairs({ "status", "error_type", "error_message", "pending_image_build_id" }) do
    target[name] = found[name]
  end
end

---Waits until commands can run in a sandbox. Given an object, brings its status up to
---date and returns it; given an id, returns the sandbox. Raises `not_running` (or
---`oom`, `sandbox_timeout`, `image_pull`) when it ends instead, is not known, or does not
---get there in time, with what was in the way last as its `cause`.
---@async
---@param target string|sbx.sandbox.Box
---@param options? sbx.sandbox.WaitOptions
---@return sbx.sandbox.Box
function methods:wait_for_creation(target, options)
  local id = wire.id_of(target)
  local seconds = request.blame(checked_options, options).timeout
  local wait = new_wait("wait_for_creation", id, seconds)
  local ok, found = pcall(wait_for_one, self, wait)
  if box.is_box(target) then
    local last = ok and found or wait.found
    if last then update(target, last) end
    if ok then return target end
  end
  if not ok then error(found, 0) end
  return found.box or self:get(id)
end

-- ------------------------------------------------------------------------- many

---@class sbx.sandbox.BulkWaitOptions
---@field timeout? number  seconds in all, as for one (default 300)
---@field on_ready? fun(id: string, ready: integer, total: integer)  as each gets usable
---@field on_error? "raise"|"collect"  what the first failure does (default "raise")

local function checked_bulk(targets, given)
  local options = check.options(given, {
    timeout = DEFAULT_TIMEOUT,
    on_ready = check.none,
    on_error = "raise",
  }, -1)
  check.number(options.timeout, "timeout", 0)
  if options.on_ready ~= nil then check.fn(options.on_ready, "on_ready") end
  if options.on_error ~= "raise" and options.on_error ~= "collect" then
    error("on_error: expected 'raise' or 'collect'", 0)
  end
  local waits, boxes, seen = {}, {}, {}
  for _, target in ipairs(check.table(targets, "sandboxes")) do
    local id = wire.id_of(target)
    if not seen[id] then
      seen[id] = true
      waits[#waits + 1] = new_wait("bulk_wait_for_creation", id, options.timeout)
    end
    if box.is_box(target) then boxes[#boxes + 1] = target end
  end
  options.boxes = boxes
  return waits, options
end

---@async
local function wait_for_all(client, waits, opts)
  local ready = 0
  task.map(waits, function(wait)
    local ok, found = pcall(wait_for_one, client, wait)
    if ok then
      wait.found = found
      ready = ready + 1
      if opts.on_ready then opts.on_ready(wait.id, ready, #waits) end
      return
    end
    local err = found
    if not errors.is_error(err) or err.kind == "cancelled" then error(err, 0) end
    wait.failure = err
    if opts.on_error == "collect" then return end
    -- What the same answer says of others is to be told with it.
    task.yield()
    error(wait.failure, 0)
  end, { limit = math.max(1, #waits) })
end

-- Whether `err` is what the API said to all of them, whatever their state.
local function is_common(list)
  for _, err in ipairs(list) do
    if err ~= list[1] then return false end
  end
  return #list > 1
end

local function common_kind(list)
  for _, err in ipairs(list) do
    if err.kind ~= list[1].kind then return "not_running" end
  end
  return list[1].kind
end

-- The error of a bulk wait, or nil when none of its sandboxes has failed.
local function bulk_error(waits, seconds)
  local late = false
  for _, wait in ipairs(waits) do
    late = late or wait.late
  end
  local failed, list, parts = {}, {}, {}
  for _, wait in ipairs(waits) do
    -- They all ran out of time, though not at the very same moment.
    if late and not wait.failure and not wait.found and not wait.building then
      wait.failure = out_of_time(wait)
    end
    if wait.failure then
      failed[wait.id] = wait.status
      list[#list + 1] = wait.failure
      if #parts < MOST_NAMED then
        parts[#parts + 1] = ("%s is %s"):format(wait.id, wait.status)
      end
    end
  end
  if #list == 0 then return nil end
  if is_common(list) then return list[1] end
  if #list > #parts then parts[#parts + 1] = ("and %d more"):format(#list - #parts) end
  return errors.new({
    kind = common_kind(list),
    op = "bulk_wait_for_creation",
    sandbox_id = #list == 1 and list[1].sandbox_id or nil,
    failed = failed,
    errors = list,
    cause = list[1],
    message = ("bulk_wait_for_creation: %d of %d not usable%s: %s"):format(#list, #waits,
      late and (" within %g s"):format(seconds) or "",
      failure.clean(table.concat(parts, ", "))),
  })
end

local function report(waits, boxes)
  local statuses, failures, by_id = {}, {}, {}
  for _, wait in ipairs(waits) do
    statuses[wait.id] = wait.status
    failures[wait.id] = wait.failure
    by_id[wait.id] = wait.found
  end
  for _, target in ipairs(boxes) do
    if by_id[target.id] then update(target, by_id[target.id]) end
  end
  return statuses, failures
end

---Waits until commands can run in all of the sandboxes, any number of them, with a few
---requests a round, and slows down while the API throttles. Raises `not_running` as
---soon as some have ended, or at the deadline: `failed` has the status by id, `errors`
---an error for each. With `on_error = "collect"` it waits for the others nevertheless,
---and returns the failures by id.
---@async
---@param targets (string|sbx.sandbox.Box)[]  one that is named twice is waited for once
---@param options? sbx.sandbox.BulkWaitOptions
---@return table<string, string> statuses  by id, as seen last
---@return table<string, sbx.Error>|nil failures  by id, with "collect"
function methods:bulk_wait_for_creation(targets, options)
  local waits, opts = request.blame(checked_bulk, targets, options)
  local ok, err = pcall(wait_for_all, self, waits, opts)
  local statuses, failures = report(waits, opts.boxes)
  if ok then return statuses, opts.on_error == "collect" and failures or nil end
  local known = errors.is_error(err) and err.kind ~= "cancelled" and bulk_error(waits, opts.timeout)
  error(known or err, 0)
end

return { methods = methods }
