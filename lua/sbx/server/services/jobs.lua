-- What became of many background jobs of virtual machines, in one question. A job is a
-- convention of clients: when it has ended, its exit code stands in a file.

local errors = require("sbx.errors")
local access = require("sbx.server.access")
local json = require("sbx.json")
local keys = require("sbx.server.keys")
local reply = require("sbx.server.reply")
local task = require("sbx.task")
local text = require("sbx.server.text")

local jobs = {}

local MOST = 100
local MAX_FILE = 64 -- bytes of an exit code, with room for blanks
local LOOK_SECONDS = 20
local AT_ONCE = 16
local ABSENT = { ENOENT = true, ENOTDIR = true }

local function wanted(body)
  local list = body.jobs
  if not text.is_list(list) or #list < 1 or #list > MOST then
    reply.invalid("jobs", ("expected a list of 1 to %d jobs"):format(MOST))
  end
  local seen = {}
  for index, job in ipairs(list) do
    local place = ("jobs[%d]"):format(index - 1)
    if type(job) ~= "table" or type(job.sandbox_id) ~= "string" then
      reply.invalid(place, "expected an object with a sandbox_id and a job_id")
    end
    if type(job.job_id) ~= "string"
      or not job.job_id:find("^[%da-f][%da-f][%da-f][%da-f][%da-f][%da-f][%da-f][%da-f]$") then
      reply.invalid(place .. ".job_id", "expected 8 hexadecimal digits")
    end
    local key = job.sandbox_id .. "/" .. job.job_id
    if seen[key] then reply.invalid(place, "a job is there twice") end
    seen[key] = true
  end
  return list
end

-- The exit code in a job's file; nil while there is none.
---@async
local function exit_code(agent, job_id)
  local parts, size = {}, 0
  local path = "/tmp/job_" .. job_id .. ".exit"
  local ok, failure = pcall(function()
    -- A pipe or a device in its place would never end, or never begin.
    if agent:stat(path).type ~= "file" then
      errors.raise { kind = "io", code = "EINVAL", message = path .. ": is no regular file" }
    end
    agent:get(path, function(bytes)
      size = size + #bytes
      if size <= MAX_FILE then parts[#parts + 1] = bytes end
    end, { length = MAX_FILE + 1 })
  end)
  if not ok then
    if errors.is_error(failure) and ABSENT[failure.code] then return nil end
    error(failure, 0)
  end
  if size > MAX_FILE then return nil end
  return math.tointeger(tonumber(table.concat(parts):match("^%s*(%-?%d+)%s*$")))
end

-- What is to be said of a job: a status, or a code and why there is none.
---@async
local function look(server, caller, job)
  local record = server.fleet.store:get(job.sandbox_id)
  if not record or not keys.may_use(caller, record) then
    return nil, "NOT_FOUND", "No such sandbox"
  elseif not record.spec.vm then
    return nil, "NOT_VM", "The sandbox is a container: read the job's files"
  elseif not access.is_running(record) then
    return nil, "NOT_RUNNING", "Status is " .. record.status
  end
  local ok, in_time, code = pcall(access.using, record, function()
    return task.move_on(LOOK_SECONDS, exit_code, record.box.agent, job.job_id)
  end)
  if not ok then
    if not errors.is_error(in_time) or in_time.kind == "cancelled" then error(in_time, 0) end
    if in_time.kind == "not_running" then
      return nil, "NOT_RUNNING", "Status is " .. record.status
    end
    return nil, "RUNTIME_ERROR", text.valid_utf8(in_time.message)
  elseif not in_time then
    return nil, "RUNTIME_ERROR", "the sandbox did not answer in time"
  end
  return { completed = code ~= nil, exit_code = code == nil and json.null or code }
end

---@async
function jobs.batch_status(server, request, _, caller)
  local list = wanted(reply.json_body(request))
  local asked = {}
  for _, job in ipairs(list) do
    -- Each sandbox is asked about once, as far as its limit goes.
    if not asked[job.sandbox_id] then
      asked[job.sandbox_id] = true
      local record = server.fleet.store:get(job.sandbox_id)
      if record and not keys.may_use(caller, record) then record = nil end
      server.limits:check("job_batch_get", caller.name, request.remote, record and record.id)
    end
  end
  local found = task.map(list, function(job)
    local status, code, message = look(server, caller, job)
    local entry = status or { code = code, message = message }
    entry.sandbox_id, entry.job_id = job.sandbox_id, job.job_id
    return { entry = entry, is_status = status ~= nil }
  end, { limit = AT_ONCE })

  local statuses, failures = {}, {}
  for _, one in ipairs(found) do
    local into = one.is_status and statuses or failures
    into[#into + 1] = one.entry
  end
  return 200, { statuses = json.array(statuses), errors = json.array(failures) }
end

return jobs
