-- What `doctor` finds: one thing each, how it stands, and what to do about it.

local errors = require("sbx.errors")
local log = require("sbx.log")
local task = require("sbx.task")

local finding = {}

local AT_ONCE = 4
local MOST_TEXT = 500 -- bytes

---@class sbx.cli.Finding
---@field what string
---@field part "machine"|"cloud"
---@field state "ok"|"weak"|"missing"|"skipped"  skipped: it was not tried
---@field by string     what does it, or how far
---@field todo? string  what would make it better
---@field needed? boolean  without it nothing of its part works

---@class sbx.cli.DoctorStep
---@field [1] string  what is tried
---@field [2] async fun(): sbx.cli.Finding
---@field needed? boolean

---A failure, or what a peer said, in one clean line.
---@param failure any
---@return string
function finding.line(failure)
  local text = errors.is_error(failure) and failure.message or tostring(failure)
  return log.clean((text:gsub("%s+", " ")), 200)
end

---@return sbx.cli.Finding
function finding.ok(by)
  return { state = "ok", by = by }
end

---@return sbx.cli.Finding
function finding.weak(by, todo)
  return { state = "weak", by = by, todo = todo }
end

---@return sbx.cli.Finding
function finding.missing(by, todo)
  return { state = "missing", by = by, todo = todo }
end

---@return sbx.cli.Finding
function finding.skipped(because, todo)
  return { state = "skipped", by = because, todo = todo }
end

-- One step, whatever becomes of it; a cancellation is not for here.
---@async
local function try(step, part, seconds)
  local ok, found = pcall(task.timeout, seconds, step[2])
  if not ok then
    if errors.is_error(found) and found.kind == "cancelled" then error(found, 0) end
    found = finding.missing(finding.line(found), "see the message, and try again")
  end
  -- Names of files and of contexts may hold anything.
  found.by = log.clean(found.by, MOST_TEXT)
  found.todo = found.todo and log.clean(found.todo, MOST_TEXT)
  found.what, found.part = step[1], part
  found.needed = found.needed or step.needed
  return found
end

---Takes the steps, some at once; in their order.
---@async
---@param steps sbx.cli.DoctorStep[]
---@param part "machine"|"cloud"
---@param seconds number  for each of them
---@param limit? integer  at once (default 4)
---@return sbx.cli.Finding[]
function finding.take(steps, part, seconds, limit)
  return task.map(steps, function(step)
    return try(step, part, seconds)
  end, { limit = limit or AT_ONCE })
end

---Whether nothing that is needed is missing.
---@param findings sbx.cli.Finding[]
---@return boolean
function finding.works(findings)
  for _, found in ipairs(findings) do
    if found.needed and found.state == "missing" then return false end
  end
  return true
end

return finding
