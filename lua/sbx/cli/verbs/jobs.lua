-- The verb `jobs`.

local boxes = require("sbx.cli.boxes")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local new_box = require("sbx.cli.new_box")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local time = require("sbx.time")

local verb = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5 -- seconds between looks
local LIST_SECONDS = 30

local job_argument = { name = "job", metavar = "JOB", help = "its id, as `jobs start` printed it" }

-- What the list of a sandbox's folder says of its jobs; those of other clients, too.
local LIST = [[
for f in /tmp/job_*.stdout.log; do
  [ -e "$f" ] || continue
  s=${f%.stdout.log}; x=; { read -r x < "$s.exit"; } 2>/dev/null
  echo "${s#/tmp/job_} ${x:--}"
done]]

---@type sbx.cli.Column[]
local columns = {
  { "JOB", "id" }, { "STATE", "state" }, { "EXIT", "exit_code" }, { "SANDBOX", "sandbox_id" },
}

local function checked(id)
  if id:find("^%x%x%x%x%x%x%x%x$") then return id end
  errors.raise({ kind = "usage", message = "JOB: expected an id of 8 hexadecimal digits" })
end

-- An output as JSON can carry it: text, or base64 under another name.
local function put_output(row, name, bytes)
  if bytes == nil then return end
  if encoding.utf8_valid(bytes) then
    row[name] = bytes
  else
    row[name .. "_base64"] = encoding.base64(bytes)
  end
end

local function row_of(status, with_output)
  local row = {
    id = status.job_id, sandbox_id = status.sandbox_id, exit_code = status.exit_code,
    state = status.completed and "ended" or status.lost and "lost" or "running",
  }
  if with_output then
    put_output(row, "stdout", status.stdout)
    put_output(row, "stderr", status.stderr)
    row.stdout_truncated, row.stderr_truncated = status.stdout_truncated, status.stderr_truncated
  end
  return row
end

---@async
local function look(client, box, id)
  local status = client:get_background_job(box, checked(id))
  if status.lost then
    -- Lost, or never there: the latter has no files at all.
    local list = box:exec(("test -e /tmp/job_%s.stdout.log"):format(id), { timeout = LIST_SECONDS })
    if list.exit_code ~= 0 then
      errors.raise({
        kind = "not_found",
        message = ("%s has no job %s; `sbxlua jobs ls %s` shows what there is"):format(box.id, id,
          box.id),
      })
    end
  end
  return status
end

---@async
local function start(given, out)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  local job = client:start_background_job(box, given.argv, {
    env = new_box.env(given), working_dir = given.workdir, user = given.user,
  })
  out:one({ id = job.id, sandbox_id = box.id, state = "running",
    stdout_log_file = job.stdout_log_file, stderr_log_file = job.stderr_log_file }, job.id, "id")
end

---@async
local function list(given, out)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  local answer = box:exec(LIST, { timeout = LIST_SECONDS })
  local rows = {}
  for id, code in answer.stdout:gmatch("(%x+) (%S+)\n") do
    if id:find("^%x%x%x%x%x%x%x%x$") then
      local exit_code = math.tointeger(tonumber(code))
      rows[#rows + 1] = {
        id = id, sandbox_id = box.id, exit_code = exit_code,
        state = exit_code and "ended" or "running",
      }
    end
  end
  out:rows(rows, columns)
  if #rows == 0 then out:note("no jobs") end
end

---@async
local function get(given, out)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  local row = row_of(look(client, box, given.job), out:is_json())
  if out:is_json() then
    out:one(row, row.id)
  else
    out:rows({ row }, columns)
  end
end

---@async
local function wait(given, out)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  local deadline = given.timeout and time.after(given.timeout)
  local status, pause = look(client, box, given.job), FIRST_PAUSE
  while not status.completed do
    if status.lost then
      errors.raise({ kind = "api", code = "LOST", sandbox_id = box.id,
        message = ("job %s: what waited for its end was killed"):format(given.job) })
    elseif deadline and deadline:passed() then
      errors.raise({ kind = "timeout", message = ("job %s has not ended within %s"):format(
        given.job, time.format_duration(given.timeout)) })
    end
    task.sleep(deadline and math.min(pause, deadline:left()) or pause)
    pause = math.min(pause * 1.6, LONGEST_PAUSE)
    status = client:get_background_job(box, given.job)
  end
  if out:is_json() then
    out:one(row_of(status, true), given.job)
  elseif not out.quiet then
    host.write(1, status.stdout)
    host.write(2, status.stderr)
    if status.stdout_truncated or status.stderr_truncated then
      out:note("this is the end of the output; all of it is in /tmp/job_%s.*.log", given.job)
    end
  end
  return status.exit_code
end

---@async
local function cancel(given, out)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  look(client, box, given.job)
  local ended = client:cancel_background_job({ id = given.job, sandbox_id = box.id })
  if not ended then out:note("job %s had ended before", given.job) end
  out:one({ id = given.job, sandbox_id = box.id, cancelled = ended }, given.job, "id")
end

verb.spec = {
  example = {
    "job=$(sbxlua jobs start web -- make -j8)",
    "sbxlua jobs wait web $job --timeout 1h",
  },
  notes = "Jobs go on until they end, whatever becomes of this program, and are those of"
    .. " `start_background_job` in scripts.",
  commands = {
    {
      name = "start", run = start, summary = "Starts a command and prints the job's id.",
      arguments = {
        boxes.argument,
        { name = "argv", metavar = "ARGV", many = true, raw = true,
          help = "the program and its arguments, which no shell looks into" },
      },
      options = {
        { name = "workdir", short = "w", metavar = "DIR", help = "the folder that it runs in" },
        { name = "env", short = "e", type = "map", help = "set a variable" },
        { name = "env-file", type = "file", metavar = "FILE", help = "lines NAME=VALUE" },
        { name = "user", short = "u", help = "run as this user; in containers" },
      },
    },
    { name = "ls", run = list, summary = "Shows the jobs of a sandbox.",
      arguments = { boxes.argument } },
    { name = "get", run = get, summary = "Shows a job; with -o json also what it wrote.",
      arguments = { boxes.argument, job_argument } },
    {
      name = "wait", run = wait,
      summary = "Waits for a job's end, and gives what it wrote and its exit status.",
      arguments = { boxes.argument, job_argument },
      options = { { name = "timeout", type = "duration", help = "wait no longer; status 124" } },
    },
    { name = "cancel", run = cancel, summary = "Ends a job and all that it started.",
      arguments = { boxes.argument, job_argument } },
  },
}

return verb
