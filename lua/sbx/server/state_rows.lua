-- Sandboxes and exposures as rows of the state, and back.

local sandbox = require("sbx.server.sandbox")
local time = require("sbx.core.time")

local rows = {}

-- The clocks that only go forward begin anew with each start of the machine.
local function to_wall(monotonic)
  return monotonic and time.wall() + monotonic - time.now()
end

local function from_wall(wall)
  return wall and time.now() + wall - time.wall()
end

-- The same, and nothing secret in it.
local function without_secrets(spec)
  if not spec.secrets then return spec end
  local copy, masked = {}, {}
  for name, value in pairs(spec) do
    copy[name] = value
  end
  for name in pairs(spec.secrets) do
    masked[name] = "***"
  end
  copy.secrets = masked
  return copy
end

---@param record sbx.server.Sandbox
---@param with_secrets boolean  the next server will have to start its commands
---@return sbx.server.state.SandboxRow
function rows.of_sandbox(record, with_secrets)
  return {
    id = record.id,
    status = record.status,
    created_at = record.created_at,
    updated_at = record.updated_at,
    started_at = record.started_at,
    terminated_at = record.terminated_at,
    deadline = to_wall(record.deadline),
    last_used = to_wall(record.last_used),
    record = {
      spec = with_secrets and record.spec or without_secrets(record.spec),
      facts = record.facts,
      saved = record.saved,
      error_type = record.error_type,
      error_message = record.error_message,
      termination_reason = record.termination_reason,
      exit_code = record.exit_code,
      start_begun = record.start_begun,
      egress = record.egress,
    },
  }
end

---@param row sbx.server.state.SandboxRow
---@return sbx.server.Sandbox
function rows.to_sandbox(row)
  local from = row.record
  local made = sandbox.new(from.spec)
  made.id = row.id
  made.job_id = row.id:gsub("^sbx%-", "job-", 1)
  for _, name in ipairs { "status", "created_at", "updated_at", "started_at", "terminated_at" } do
    made[name] = row[name]
  end
  made.deadline = from_wall(row.deadline)
  made.last_used = from_wall(row.last_used) or made.last_used
  made.facts = from.facts or {}
  made.start_begun = from.start_begun == true
  for _, name in ipairs {
    "saved", "error_type", "error_message", "termination_reason", "exit_code", "egress",
  } do
    made[name] = from[name]
  end
  return made
end

---@param exposure sbx.server.Exposure
---@return sbx.server.state.ExposureRow
function rows.of_exposure(exposure)
  return {
    id = exposure.id,
    sandbox_id = exposure.sandbox.id,
    port = exposure.port,
    outer_port = exposure.outer_port,
    name = exposure.name,
    protocol = exposure.protocol,
    created_at = exposure.created_at,
  }
end

return rows
