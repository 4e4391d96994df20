-- Background jobs in many sandboxes: they are started, and go on while nobody looks.
-- A file has what is needed to look at them later, from any machine.
--
--   sbxlua scripts/jobs.lua start --label team-research -- python train.py > jobs.jsonl
--   sbxlua scripts/jobs.lua status jobs.jsonl
--   sbxlua scripts/jobs.lua wait jobs.jsonl > results.jsonl
--   sbxlua scripts/jobs.lua cancel jobs.jsonl
--
-- stdout has a line of JSON for each job, stderr the progress. The status is 1 if a
-- job could not be started or looked at, failed, or was lost.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local json = require("sbx.json")
local progress = require("sbx.progress")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local file = { { name = "file", type = "file", help = "what `start` wrote" } }
local tail = { name = "tail", type = "size", default = 200, min = 0, max = "1MiB",
  help = "bytes of each output that are shown, the last ones" }

local given = cli.parse(arg, {
  name = "jobs",
  summary = "Background jobs in many sandboxes.",
  example = {
    "sbxlua scripts/jobs.lua start --label team-research -- python train.py > jobs.jsonl",
    "sbxlua scripts/jobs.lua wait jobs.jsonl > results.jsonl",
  },
  commands = {
    {
      name = "start", summary = "Starts a command in each sandbox.",
      options = {
        { name = "sandbox", short = "s", type = "list", metavar = "ID", help = "in this one" },
        { name = "label", short = "l", type = "list",
          help = "in those that run and carry this label; all labels, if several" },
        { name = "folder", help = "where the command runs" },
        { name = "env", short = "e", type = "map", help = "variables for the command" },
      },
      arguments = {
        { name = "words", metavar = "COMMAND", many = true, raw = true,
          help = "a program and its arguments; for a shell, sh -c '...'" },
      },
    },
    { name = "status", summary = "Shows how each stands.", options = { tail }, arguments = file },
    {
      name = "wait", summary = "Shows each when it has ended.", arguments = file,
      options = {
        tail,
        { name = "every", type = "duration", default = "5s", min = "50ms",
          help = "the pause between two looks" },
        { name = "patience", type = "duration", default = "10m",
          help = "how long the looks at a job may fail" },
      },
    },
    { name = "cancel", summary = "Ends them.", arguments = file },
  },
})

local failed = 0

local function put(line)
  print(json.encode(line, { sort_keys = true }))
  io.stdout:flush()
end

local function fail(line, err)
  if not errors.is_error(err) then error(err, 0) end
  line.state, line.error = "unknown", tostring(err)
  failed = failed + 1
  put(line)
end

---@async
local function read_jobs()
  local source <close> = io.open(given.file)
  local jobs = {}
  for job in json.lines(source) do
    if job.id then table.insert(jobs, job) end -- the others could not be started
  end
  return jobs
end

---@async
local function start(client)
  local ids = given.sandbox
  for _, box in ipairs(#given.label > 0
      and client:list({ labels = given.label, status = "RUNNING" }) or {}) do
    table.insert(ids, box.id)
  end
  if #ids == 0 then
    io.stderr:write("jobs: no sandbox. Give --sandbox, or a --label that a running one has\n")
    os.exit(2)
  end
  local options = { working_dir = given.folder, env = given.env }
  -- Written one by one: what was started is known, whatever happens to the others.
  for i, job, err in task.imap(ids, function(id)
    return client:start_background_job(id, given.words, options)
  end, { on_error = "collect", progress = "started" }) do
    if err then
      fail({ sandbox_id = ids[i] }, err)
    else
      put(job)
    end
  end
end

local function ending(text) return encoding.utf8_clean(text:sub(-given.tail), "") end

-- What there is to say of a job.
---@async
local function line_of(client, job, status)
  local line = { id = job.id, sandbox_id = job.sandbox_id }
  if status.completed then
    line.state, line.exit_code = "done", status.exit_code
    line.stdout, line.stderr = ending(status.stdout), ending(status.stderr)
  elseif status.lost then
    line.state = "lost"
  else
    line.state = "running"
    -- The last bytes of what is still being written; nobody has to have it all.
    local text, err = errors.try(client.read_file, client, job.sandbox_id, job.stdout_log_file,
      { offset = -math.max(given.tail, 1), length = given.tail })
    line.stdout, line.error = text, err and tostring(err)
  end
  if line.state == "lost" or (line.exit_code or 0) ~= 0 then failed = failed + 1 end
  return line
end

---@async
local function status(client)
  local jobs = read_jobs()
  local statuses, failures = client:get_background_jobs(jobs)
  local lines = task.map(jobs, function(job, i)
    return statuses[i] and line_of(client, job, statuses[i])
  end)
  for i, job in ipairs(jobs) do
    if lines[i] then
      put(lines[i])
    else
      fail({ id = job.id, sandbox_id = job.sandbox_id }, failures[i])
    end
  end
end

-- Of a sandbox that is gone no look will ever tell; anything else may pass.
local function is_hopeless(err)
  return err:is("not_running") or err:is("unauthorized") or err.code == "NOT_FOUND"
    or err.code == "FORBIDDEN"
end

-- What fails for all of them fails for each.
---@async
local function look(client, jobs)
  local statuses, failures = errors.try(client.get_background_jobs, client, jobs)
  if statuses then return statuses, failures end
  local each = {}
  for i = 1, #jobs do
    each[i] = failures
  end
  return {}, each
end

---@async
local function wait(client)
  local open = read_jobs()
  local failing = {} -- job → since when
  local bar <close> = progress.bar({ label = "jobs", total = #open })
  while #open > 0 do
    local statuses, failures = look(client, open)
    local left = {}
    for i, job in ipairs(open) do
      local err, seen = failures[i], statuses[i]
      if err and not errors.is_error(err) then error(err, 0) end
      failing[job] = err and (failing[job] or task.now()) or nil
      if err and (is_hopeless(err) or task.now() - failing[job] > given.patience) then
        fail({ id = job.id, sandbox_id = job.sandbox_id }, err)
      elseif err then
        io.stderr:write("jobs: looks again for ", job.id, ": ", tostring(err), "\n")
        table.insert(left, job)
      elseif seen.completed or seen.lost then
        put(line_of(client, job, seen))
      else
        table.insert(left, job)
      end
    end
    bar:advance(#open - #left)
    open = left
    if #open > 0 then task.sleep(given.every) end
  end
end

---@async
local function cancel(client)
  local jobs = read_jobs()
  for i, ended, err in task.imap(jobs, function(job)
    return client:cancel_background_job(job)
  end, { on_error = "collect", progress = "ended" }) do
    local line = { id = jobs[i].id, sandbox_id = jobs[i].sandbox_id }
    if err then
      fail(line, err)
    else
      line.state = ended and "cancelled" or "over before"
      put(line)
    end
  end
end

local client <close> = sandbox.client();
({ start = start, status = status, wait = wait, cancel = cancel })[given.command](client)
if failed > 0 then os.exit(1) end
