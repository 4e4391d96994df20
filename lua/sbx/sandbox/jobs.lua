-- Background jobs: commands that go on in a sandbox while nobody looks, also after
-- the script. Their files in /tmp have the names that the vendor's own client uses,
-- so that either may look at the other's.

local check = require("sbx.check")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local hash = require("sbx.hash")
local json = require("sbx.json")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local shell = require("sbx.sandbox.shell")
local spool = require("sbx.sandbox.spool")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local STARTS = 3
local TAIL = 10 * 1024 * 1024 -- bytes of each log that an answer has
local NOTHING = 1 << 50 -- an offset behind every log
local WAIT = 20 -- seconds that one look waits for the end
local GRACE = 5 -- seconds between TERM and KILL
local UNBORN = 0.5 -- seconds that another client's job may take to begin
local BATCH = 100 -- jobs in one question
local AT_ONCE = 32
local BATCH_PATH = "/sandbox/background-jobs/status:batchGet"

---@class sbx.sandbox.Job
---@field id string  8 hexadecimal digits
---@field sandbox_id string
---@field stdout_log_file string  in the sandbox
---@field stderr_log_file string
---@field exit_file string  has the exit code once the job has ended

---@class sbx.sandbox.JobStatus
---@field job_id string
---@field sandbox_id string
---@field completed boolean
---@field lost boolean            it never completes: what was to note its exit code is dead, or
---  there is nothing of it
---@field exit_code integer|nil   these once it is completed
---@field stdout string|nil       the last 10 MiB
---@field stderr string|nil
---@field stdout_truncated boolean|nil
---@field stderr_truncated boolean|nil

---@class sbx.sandbox.JobOptions
---@field env? table<string, string>
---@field working_dir? string
---@field user? string

-- Clients whose server has no batch status.
local no_batch = setmetatable({}, { __mode = "k" })

local function job_of(id, sandbox_id)
  local stem = "/tmp/job_" .. id
  return {
    id = id,
    sandbox_id = sandbox_id,
    stdout_log_file = stem .. ".stdout.log",
    stderr_log_file = stem .. ".stderr.log",
    exit_file = stem .. ".exit",
  }
end

local function place_of(job)
  local stem = "/tmp/job_" .. job.id
  return { lock = stem .. ".lock", prefix = stem .. ".", mark = "job_" .. job.id .. "." }
end

-- Where to look: a job of another client has no lock.
local function seen_place_of(job)
  local place = place_of(job)
  place.foreign = true
  return place
end

local function checked_job(job, name)
  local id = type(job) == "table" and (job.id or job.job_id) or job
  if type(id) ~= "string" or not id:find("^%x%x%x%x%x%x%x%x$") then
    error(name .. ": expected a job or its id of 8 hexadecimal digits", 0)
  end
  return id
end

-- A job that says where it is.
local function placed_job(job, name)
  local id = checked_job(job, name)
  if type(job) ~= "table" or type(job.sandbox_id) ~= "string" then
    error(name .. ": expected a job, which has a sandbox_id", 0)
  end
  return job_of(id, job.sandbox_id)
end

local function checked_options(command, given, defaults)
  local wanted = { env = check.none, working_dir = check.none, user = check.none }
  for name, value in pairs(defaults or {}) do
    wanted[name] = value
  end
  local options = check.options(given, wanted, -1)
  options.command, options.words = shell.command(command), command
  options.env = request.string_map(options.env, "env")
  for _, name in ipairs({ "working_dir", "user" }) do
    local text = options[name]
    if text ~= nil and check.string(text, name):find("\0", 1, true) then
      error(name .. ": has a NUL byte", 0)
    end
  end
  for _, name in ipairs({ "timeout", "poll" }) do
    if options[name] ~= nil then check.number(options[name], name, 0.001, 1e9) end
  end
  return options
end

-- -------------------------------------------------------------------- starting

-- A job that nobody can know of, because its start was cut short, must not run on.
---@async
local function give_up(at, err)
  if errors.is_error(err) and err:is("not_running") then return end
  if not at.asked then return at:forget_uploads() end
  local budget = core.cleanup_seconds()
  local ok, word = pcall(task.shield, budget, at.kill, at, math.min(2, budget / 4), true)
  if not ok or word == "alive" or word == "nopid" then at:warn_alive(word) end
end

---@async
local function start(client, id, op, options)
  shell.check_sizes(op, id, options.words, options.env)
  if options.user and profile.is_vm(client, id, op) then
    profile.require(client, id, "user", op)
  end
  for n = 1, STARTS do
    local job = job_of(hash.random_hex(4), id)
    local at = spool.at(client, id, op, place_of(job), options.user)
    local ok, first, cause = pcall(at.start, at, options, { stream = false, wait = 0 })
    if not ok then
      give_up(at, first)
      error(first, 0)
    end
    if first ~= false then return job end
    if n == STARTS then at:not_started(cause) end
  end
end

---Starts a command in the background and returns at once; it has no standard input.
---It is started at most once: an error with `outcome = "not_started"` is certain of
---that, `"unknown"` says that it may run.
---@async
---@param target string|sbx.sandbox.Box
---@param command string|string[]  as for `execute_command`
---@param options? sbx.sandbox.JobOptions
---@return sbx.sandbox.Job
function methods:start_background_job(target, command, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_options, command, options)
  return start(self, id, "start_background_job", opts)
end

-- --------------------------------------------------------------------- looking

-- The end of both logs, of which `seen` has the beginning.
---@async
local function tails(at, seen)
  local logs = {}
  for _, name in ipairs({ "stdout", "stderr" }) do
    local size = seen[name .. "_size"]
    local from = math.max(0, size - TAIL)
    local first = from == 0 and seen[name] or ""
    logs[name] = { size = size, from = from, at = from + #first, parts = { first } }
  end
  local function offset(log)
    return log.at < log.size and log.at or NOTHING
  end
  while offset(logs.stdout) ~= NOTHING or offset(logs.stderr) ~= NOTHING do
    local more = at:look({
      stdout = offset(logs.stdout), stderr = offset(logs.stderr), stream = false, wait = 0,
    })
    for name, log in pairs(logs) do
      local bytes = more[name]
      if offset(log) ~= NOTHING and bytes == "" then
        if more[name .. "_size"] > log.at then at:raise_stuck() end
        log.size = log.at -- it was cut meanwhile
      end
      log.parts[#log.parts + 1] = bytes
      log.at = log.at + #bytes
    end
  end
  return logs
end

---@async
local function status_from(at, job, seen)
  local status = {
    job_id = job.id, sandbox_id = job.sandbox_id, completed = seen.state == "ended",
    lost = seen.state == "lost" or seen.state == "gone",
  }
  if not status.completed then return status end
  local logs = tails(at, seen)
  status.exit_code = seen.exit_code
  for name, log in pairs(logs) do
    status[name] = table.concat(log.parts)
    status[name .. "_truncated"] = log.from > 0
  end
  return status
end

-- Nothing is there of a job that does not exist, and of another client's for a moment
-- after its beginning.
---@async
local function look_at(client, job, op, wait)
  local at = spool.at(client, job.sandbox_id, op, seen_place_of(job))
  local want = { stdout = 0, stderr = 0, stream = false, wait = wait }
  local seen = at:look(want)
  if seen.state == "gone" then
    task.sleep(UNBORN)
    seen = at:look(want)
  end
  return at, seen
end

---What became of a job: `completed` with its exit code and the ends of its outputs,
---byte for byte, or not yet. One that does not exist is `lost`.
---@async
---@param target string|sbx.sandbox.Box
---@param job string|sbx.sandbox.Job
---@return sbx.sandbox.JobStatus
function methods:get_background_job(target, job)
  local id = wire.id_of(target)
  local found = job_of(request.blame(checked_job, job, "job"), id)
  local at, seen = look_at(self, found, "get_background_job", 0)
  return status_from(at, found, seen)
end

-- ---------------------------------------------------------------- many at once

local function batch_error(entry)
  local id = failure.clean(tostring(entry.sandbox_id), nil, 100)
  return errors.new({
    kind = "api",
    code = type(entry.code) == "string" and failure.clean(entry.code, nil, 50) or nil,
    op = "get_background_jobs",
    sandbox_id = id,
    detail = failure.clean(tostring(entry.message)),
    message = ("get_background_jobs %s: %s"):format(id, failure.clean(tostring(entry.message))),
  })
end

local function key_of(job)
  return ("%s/%s"):format(job.sandbox_id, job.id)
end

-- What a batch says of each job: "SANDBOX/JOB" → true (completed), false, or an error.
-- Nothing where the server cannot say.
---@async
local function ask_batch(client, jobs)
  local wanted = {}
  for i, job in ipairs(jobs) do
    wanted[i] = { sandbox_id = job.sandbox_id, job_id = job.id }
  end
  local ok, answer = pcall(wire.call, client, {
    op = "get_background_jobs", method = "POST", path = BATCH_PATH, idempotent = true,
    body = { jobs = json.array(wanted) },
  })
  if not ok then
    local status = errors.is_error(answer) and answer.status
    if status ~= 404 and status ~= 405 then error(answer, 0) end
    no_batch[client] = true
    return {}
  end
  local known = {}
  for _, list in ipairs({ answer.statuses, answer.errors }) do
    for _, entry in ipairs(type(list) == "table" and list or {}) do
      if type(entry) == "table" then
        local key = ("%s/%s"):format(tostring(entry.sandbox_id), tostring(entry.job_id))
        if list == answer.statuses then
          known[key] = entry.completed == true
        elseif entry.code ~= "NOT_VM" then
          known[key] = batch_error(entry)
        end
      end
    end
  end
  return known
end

-- What the batch says of a group. A failure is one of all of it.
---@async
local function ask_group(client, group, known)
  if #group == 0 or no_batch[client] then return end
  local ok, answer = pcall(ask_batch, client, group)
  if not ok and (not errors.is_error(answer) or answer.kind == "cancelled") then
    error(answer, 0)
  end
  for _, job in ipairs(group) do
    local key = key_of(job)
    if ok then known[key] = answer[key] else known[key] = answer end
  end
end

-- For the jobs in virtual machines, one question for many.
---@async
local function ask_all(client, jobs)
  local known, group, asked = {}, {}, {}
  if no_batch[client] then return known end
  -- What cannot be told of one job is told when it is looked at.
  local are_vms = task.map(jobs, function(job)
    return errors.try(profile.is_vm, client, job.sandbox_id, "get_background_jobs") == true
  end, { limit = AT_ONCE })
  for i, job in ipairs(jobs) do
    local key = key_of(job)
    if are_vms[i] and not asked[key] then -- a server refuses what comes twice
      asked[key] = true
      group[#group + 1] = job
    end
    if #group == BATCH or i == #jobs then
      ask_group(client, group, known)
      group = {}
    end
  end
  return known
end

---The states of many jobs, which may be in many sandboxes, in the order of the list.
---One that cannot be had does not keep the others back.
---@async
---@param jobs sbx.sandbox.Job[]
---@return table<integer, sbx.sandbox.JobStatus> statuses
---@return table<integer, any> failures  index → error
function methods:get_background_jobs(jobs)
  local list = request.blame(function()
    local checked = {}
    for i, job in ipairs(check.table(jobs, "jobs")) do
      checked[i] = placed_job(job, ("jobs[%d]"):format(i))
    end
    return checked
  end)
  local known = ask_all(self, list)
  return task.map(list, function(job)
    local said = known[key_of(job)]
    if said == false then
      return { job_id = job.id, sandbox_id = job.sandbox_id, completed = false, lost = false }
    end
    if said ~= nil and said ~= true then error(said, 0) end
    local at, seen = look_at(self, job, "get_background_jobs", 0)
    return status_from(at, job, seen)
  end, { limit = AT_ONCE, on_error = "collect" })
end

-- ------------------------------------------------------------ waiting, ending

local function not_done(job, seconds)
  return errors.new({
    kind = "command_timeout",
    op = "run_background_job",
    sandbox_id = job.sandbox_id,
    timeout = seconds,
    outcome = "unknown",
    job = job,
    message = ("run_background_job %s: job %s is not done within %g s; it runs on"):format(
      failure.clean(job.sandbox_id, nil, 100), job.id, seconds),
  })
end

local function is_lost(job)
  return errors.new({
    kind = "api",
    code = "LOST",
    op = "run_background_job",
    sandbox_id = job.sandbox_id,
    outcome = "unknown",
    job = job,
    message = ("run_background_job %s: the end of job %s is not known: what waited for it was "
      .. "killed, or its files removed"):format(failure.clean(job.sandbox_id, nil, 100), job.id),
  })
end

---@async
local function await(client, job, timeout, poll)
  local limit = task.now() + timeout
  while true do
    local wait = math.max(0, math.min(poll, limit - task.now()))
    local at, seen = look_at(client, job, "run_background_job", wait)
    local status = status_from(at, job, seen)
    if status.completed then return status end
    if status.lost then error(is_lost(job), 0) end
    if task.now() >= limit then error(not_done(job, timeout), 0) end
  end
end

---Starts a job and waits for its end. Raises `command_timeout`, whose `job` runs on,
---when that takes too long. One whose caller is cancelled is ended.
---@async
---@param target string|sbx.sandbox.Box
---@param command string|string[]
---@param options? sbx.sandbox.JobOptions  and `timeout`, seconds (default 900); `poll`, seconds
---  that one look waits for the end in the sandbox (default 20)
---@return sbx.sandbox.JobStatus
function methods:run_background_job(target, command, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_options, command, options, { timeout = 900, poll = WAIT })
  local job = start(self, id, "run_background_job", opts)
  local ok, result = pcall(await, self, job, opts.timeout, opts.poll)
  if ok then return result end
  -- Whatever went wrong with the looks: the job runs on, and can be found by this.
  if errors.is_error(result) then
    result.job, result.outcome = job, result.outcome or "unknown"
  end
  if errors.is_error(result) and result.kind == "cancelled" then
    local at = spool.at(self, id, "run_background_job", place_of(job), opts.user)
    at.asked = true
    give_up(at, result)
  end
  error(result, 0)
end

---Ends a job and all that it started: asks, and insists after 5 s. False when it had
---ended before. Raises `unsupported` for a job of a client that notes no pid, `api`,
---code ALIVE, when some of it cannot be killed.
---@async
---@param job sbx.sandbox.Job
---@return boolean ended
function methods:cancel_background_job(job)
  local found = request.blame(placed_job, job, "job")
  local at = spool.at(self, found.sandbox_id, "cancel_background_job", place_of(found))
  local word = at:kill(GRACE, false)
  if word == "killed" then return true end
  if word == "ended" then return false end
  if word == "none" or word == "nopid" then
    local _, seen = look_at(self, found, "cancel_background_job", 0)
    if seen.state == "ended" then return false end
  end
  local unsupported = word == "none" or word == "nopid"
  errors.raise({
    kind = unsupported and "unsupported" or "api",
    code = unsupported and "NO_PID" or "ALIVE",
    op = "cancel_background_job",
    sandbox_id = found.sandbox_id,
    message = ("cancel_background_job %s: job %s: %s"):format(
      failure.clean(found.sandbox_id, nil, 100), found.id,
      unsupported and "nothing there says which process it is" or "some of it is still alive"),
  })
end

return { methods = methods }
