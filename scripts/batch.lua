-- Runs many jobs, each in a sandbox of its own, and writes a row of CSV for each
-- as it finishes.
--
--   sbxlua --local scripts/batch.lua jobs.csv > results.csv
--
-- jobs.csv has the columns name and command, and perhaps image:
--
--   name,command
--   six,python -c 'print(6 * 7)'
--   broken,exit 3
--
-- stdout carries the results, stderr the progress. The status is 1 if a job failed.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local retry = require("sbx.retry")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "batch",
  summary = "Runs each job of a CSV file in a sandbox of its own.",
  example = "sbxlua --local scripts/batch.lua jobs.csv > results.csv",
  options = {
    { name = "out", short = "o", metavar = "FILE", help = "where the results go (default stdout)" },
    { name = "image", default = "python:3.11-slim", help = "of jobs that name none" },
    { name = "limit", short = "n", type = "integer", default = 8, min = 1,
      help = "jobs at once" },
    { name = "timeout", type = "duration", default = "5m", min = "1s", max = "12h",
      help = "for the command of each job" },
    { name = "retry", type = "integer", default = 0, min = 0,
      help = "further tries of a job that failed, each in a new sandbox" },
    { name = "tail", type = "size", default = 200, min = 1,
      help = "bytes of stdout kept, the last ones" },
  },
  arguments = {
    { name = "jobs", metavar = "FILE", help = "the jobs; - is stdin" },
  },
})

-- All of them before the first starts: a mistake in the last row costs nothing.
---@async
local function read_jobs(path)
  local text = path == "-" and io.read("a") or fs.read(path)
  local jobs = {}
  for row in encoding.csv_rows(text, { header = true }) do
    jobs[#jobs + 1] = row
    if (row.name or "") == "" or (row.command or "") == "" then
      io.stderr:write(("batch: job %d has no name or no command\n"):format(#jobs))
      os.exit(2)
    end
  end
  return jobs
end

-- One try: raises when the sandbox, or the command in it, fails.
---@async
local function try_job(client, job)
  -- Deleted at the end of this function, however it ends.
  local box <close> = client:create({
    name = job.name,
    docker_image = (job.image or "") ~= "" and job.image or given.image,
    timeout_minutes = math.ceil(given.timeout / 60) + 10, -- should all else fail
  })
  box:wait()
  local result = box:exec(job.command, { timeout = math.ceil(given.timeout) })
  if result.exit_code ~= 0 then
    errors.raise({ kind = "process", message = "exit code " .. result.exit_code, result = result })
  end
  return result
end

-- A row of the results. What went wrong with a job is a fact about it and must
-- not end the others; errors.try still lets a Ctrl-C through.
---@async
local function run_job(client, job)
  local started, tries = task.now(), 0
  local result, err = errors.try(retry.call, function()
    tries = tries + 1
    return try_job(client, job)
  end, {
    attempts = given.retry + 1,
    when = errors.is_error, -- anything else is a bug of this script
  })
  if not result and not errors.is_error(err) then error(err, 0) end
  result = result or err.result or {}
  local tail = (result.stdout or ""):gsub("%s+$", ""):sub(-given.tail)
  return table.pack(job.name, result.exit_code, ("%.2f"):format(task.now() - started), tries,
    encoding.utf8_clean(tail, ""), err and tostring(err))
end

local jobs = read_jobs(given.jobs)
local client <close> = sandbox.client()
local out <close> = given.out and fs.open(given.out, "w")

local function write(row)
  local line = encoding.csv_row(row)
  if out then out:write(line .. "\n") else print(line) end
end

write({ "name", "exit_code", "seconds", "tries", "stdout", "error" })
local failed = 0
local function work(job) return run_job(client, job) end
for _, row in task.imap(jobs, work, { limit = given.limit, progress = "jobs" }) do
  write(row)
  if row[6] then failed = failed + 1 end
end
io.stderr:write(("%d jobs, %d failed\n"):format(#jobs, failed))
if failed > 0 then os.exit(1) end
