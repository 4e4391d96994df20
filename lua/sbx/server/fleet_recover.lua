-- The start of a fleet on the state of an earlier one: what lives is taken up again where
-- the driver keeps it, the rest is reported as ended, and nothing else is left behind.

local errors = require("sbx.errors")
local exposure = require("sbx.server.exposure")
local life = require("sbx.server.fleet_life")
local rows = require("sbx.server.state_rows")
local task = require("sbx.task")

local recover = {}

local MAX_ADOPTIONS = 32

-- Wakes its waiter however it ends.
local function take_up(fleet, record, settled)
  local _ <close> = setmetatable({}, {
    __close = function()
      settled:wake()
    end,
  })
  life.take_up(fleet, record, settled)
end

local function adopt_all(fleet, records)
  task.map(records, function(record)
    local settled = task.waiter("a sandbox to be taken up again")
    record.life = fleet.scope:pspawn(take_up, fleet, record, settled)
    settled:wait()
  end, { limit = MAX_ADOPTIONS })
end

local function open_again(fleet, record, row)
  local one = exposure.open {
    sandbox = record, scope = fleet.scope, id = row.id, port = row.port, name = row.name,
    protocol = row.protocol, created_at = row.created_at, outer_port = row.outer_port,
    at = fleet.expose_at,
  }
  record.exposures[one.id] = one
  if one.outer_port == row.outer_port then return end
  local line = ("exposed port %d of %s is now at %s: port %d is taken"):format(
    row.port, record.id, one:view().url, row.outer_port)
  record.logs:add(line)
  fleet.notice(line)
  fleet.state:put_exposure(rows.of_exposure(one))
end

local function restore_exposures(fleet, list)
  for _, row in ipairs(list) do
    local record = fleet.store:get(row.sandbox_id)
    if record and record.box then
      open_again(fleet, record, row)
    else
      fleet.state:remove_exposure(row.id)
    end
  end
end

-- What an earlier server had left running and is not among ours.
local function sweep(fleet)
  if not fleet.driver.sweep then return end
  local known = {}
  for record in pairs(fleet.living) do
    if record.box then known[record.id] = true end
  end
  local ok, result = pcall(fleet.driver.sweep, fleet.driver, known)
  if ok then return end
  if errors.is_error(result) and result.kind == "cancelled" then error(result, 0) end
  fleet.notice("what an earlier server left behind could not be removed: " .. tostring(result))
end

-- Takes in the records. Returns those that ran, and those that had not got so far.
local function restore_records(fleet, list)
  local ran, waited = {}, {}
  for _, row in ipairs(list) do
    local record = rows.to_sandbox(row)
    fleet.store:add(record)
    if not record:ended() then
      fleet:take_in(record)
      local group = record.status == "RUNNING" and ran or waited
      group[#group + 1] = record
    end
  end
  return ran, waited
end

---Does all of it, before the first boot and the first request.
---@async
---@param fleet sbx.server.Fleet
function recover.run(fleet)
  local loaded = fleet.state:load()
  fleet.events:restore(loaded.events)
  fleet.events:add("started")
  local ran, waited = restore_records(fleet, loaded.sandboxes)
  fleet.store:expire()
  fleet.keys:restore(loaded.idempotency)
  adopt_all(fleet, ran)
  restore_exposures(fleet, loaded.exposures)
  sweep(fleet)
  for _, record in ipairs(waited) do
    if fleet.keep then
      record:set_status("PENDING")
      fleet:enqueue(record)
    else
      fleet:finish(record, "TERMINATED", "server restarted")
    end
  end
  fleet.state:sync()
end

return recover
