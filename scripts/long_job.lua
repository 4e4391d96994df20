-- Runs a command that takes longer than a request may, and shows its output as it
-- comes. It ends with this script; for one that outlives it see jobs.lua.
--
--   sbxlua --local scripts/long_job.lua 'for i in 1 2 3; do date; sleep 1; done'
--   sbxlua scripts/long_job.lua --sandbox ID --stdin rows.csv 'python train.py'
--
-- stdout and stderr are those of the command, byte for byte. The status is 1 if the
-- command failed. Ctrl-C ends all that the command started.

local cli = require("sbx.cli")
local errors = require("sbx.errors")
local sandbox = require("sbx.sandbox")

local given = cli.parse(arg, {
  name = "long_job",
  summary = "Runs a long command in a sandbox and shows its output as it comes.",
  example = "sbxlua --local scripts/long_job.lua 'for i in 1 2 3; do date; sleep 1; done'",
  options = {
    { name = "sandbox", short = "s", metavar = "ID",
      help = "one that runs already (default: a new one, deleted in the end)" },
    { name = "image", default = "python:3.11-slim", help = "of a new one" },
    { name = "folder", default = "/tmp", help = "where the command runs" },
    { name = "stdin", metavar = "FILE", help = "what the command reads; - is stdin" },
    { name = "deadline", type = "duration", default = "12h", min = "100ms", max = "1d",
      help = "when the command is killed" },
  },
  arguments = { { name = "job", metavar = "COMMAND", help = "for the sandbox's shell" } },
})

-- A stream that passes on what it gets, before it asks for more.
local function pass_to(file)
  return function(bytes)
    file:write(bytes)
    file:flush()
  end
end

local client <close> = sandbox.client()
local box <close> = given.sandbox and client:get(given.sandbox) or client:create({
  name = "long-job", docker_image = given.image,
  timeout_minutes = math.ceil(given.deadline / 60) + 10,
})
box:wait()

local stdin = given.stdin and (given.stdin == "-" and io.stdin or { path = given.stdin })
local result, err = errors.try(box.exec, box, given.job, {
  working_dir = given.folder, deadline = given.deadline, stdin = stdin,
  on_stdout = pass_to(io.stdout), on_stderr = pass_to(io.stderr),
})
if err then
  if not errors.is_error(err) then error(err, 0) end
  io.stderr:write("long_job: ", tostring(err), "\n")
  os.exit(1)
end
if result.exit_code ~= 0 then
  io.stderr:write("long_job: exit code ", result.exit_code, "\n")
  os.exit(1)
end
