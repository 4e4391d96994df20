-- Runs a command that takes longer than a request may: it is started in the
-- background, its output is fetched now and then, and a look that fails ends
-- nothing.
--
--   sbxlua --local scripts/long_job.lua 'for i in 1 2 3; do date; sleep 1; done'
--   sbxlua scripts/long_job.lua --sandbox ID 'python train.py'
--
-- stdout has the output of the command, stderr what happens. The status is 1 if
-- the command failed. Ctrl-C ends the command, too.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local retry = require("sbx.retry")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local time = require("sbx.time")

local given = cli.parse(arg, {
  name = "long_job",
  summary = "Runs a long command in a sandbox and shows its output as it comes.",
  example = "sbxlua --local scripts/long_job.lua 'for i in 1 2 3; do date; sleep 1; done'",
  options = {
    { name = "sandbox", short = "s", metavar = "ID",
      help = "one that runs already (default: a new one, deleted in the end)" },
    { name = "image", default = "python:3.11-slim", help = "of a new one" },
    { name = "folder", default = "/tmp", help = "where the command runs" },
    { name = "every", type = "duration", default = "10s", min = "100ms",
      help = "the longest pause between two looks" },
    { name = "patience", type = "duration", default = "5m",
      help = "how long looks may fail before this gives up" },
    { name = "lifetime", type = "duration", default = "12h", min = "1m", max = "1d",
      help = "of a new sandbox" },
  },
  arguments = { { name = "job", metavar = "COMMAND", help = "for the sandbox's shell" } },
})

-- The job has a folder of its own with four files: pid, out, exit, and what is
-- becoming exit. The command is passed as a variable: no quotes, no surprises.
-- A session of its own makes that all of it can be ended together.
local START = [[
mkdir -p "$JOB"
setsid sh -c '
  sh -c "$COMMAND"
  echo $? > "$JOB/exit.new" && mv "$JOB/exit.new" "$JOB/exit"
' > "$JOB/out" 2>&1 < /dev/null &
echo $! > "$JOB/pid"
]]

-- One line with the state, then new bytes of the output. In base64, because a
-- command's output arrives as text, and a look may cut a character in two.
local LOOK = [[
cd "$JOB" || exit
state=lost
kill -0 "$(cat pid)" 2> /dev/null && state=running
[ -f exit ] && state=$(cat exit)
echo "$state"
tail -c "+$FROM" out | head -c "$MOST" | base64
]]

local STOP = [[
cd "$JOB" && [ ! -f exit ] || exit 0
group=-$(cat pid)
kill -s TERM -- "$group"
for _ in 1 2 3 4 5; do
  kill -s 0 -- "$group" 2> /dev/null || exit 0
  sleep 0.2
done
kill -s KILL -- "$group"
]]

local MOST = 256 * 1024 -- bytes of one look
local folder = "/tmp/job-" .. hash.random_hex(4)

-- Returns the state and the bytes behind the first `seen`. It changes nothing, so
-- that it may be tried again whatever went wrong, unless the sandbox is gone.
---@async
local function look(box, seen)
  local env = { JOB = folder, FROM = tostring(seen + 1), MOST = tostring(MOST) }
  return retry.call(function()
    local result = box:exec(LOOK, { env = env, timeout = 30 })
    local state, text = result.stdout:match("^(%w+)\n(.*)$")
    assert(state, "the job's folder is gone")
    return state, encoding.base64_decode((text:gsub("%s", "")))
  end, {
    attempts = 1000, pause = 0.5, timeout = given.patience,
    when = function(err) return errors.is_error(err) and not err:is("not_running") end,
    on_retry = function(err, _, pause)
      io.stderr:write(("a look failed, the next one is in %s: %s\n"):format(
        time.format_duration(pause), tostring(err)))
    end,
  })
end

local client <close> = sandbox.client()
local box <close> = given.sandbox and client:get(given.sandbox) or client:create({
  name = "long-job", docker_image = given.image,
  timeout_minutes = math.ceil(given.lifetime / 60),
})
box:wait()

-- Runs in the end, also after a Ctrl-C; of a job that is over nothing is left to do.
local scope <close> = task.open_scope()
scope:defer(function() box:exec(STOP, { env = { JOB = folder }, timeout = 8 }) end)
box:exec(START, { env = { JOB = folder, COMMAND = given.job }, working_dir = given.folder })
io.stderr:write("started in ", box.id, ", folder ", folder, "\n")

local seen, pause = 0, 0.1
local state, bytes
repeat
  state, bytes = look(box, seen)
  seen = seen + #bytes
  io.stdout:write(bytes)
  io.stdout:flush()
  if #bytes > 0 then
    pause = 0.1 -- where something happens, more may
  elseif state == "running" then
    task.sleep(pause)
    pause = math.min(pause * 1.5, given.every)
  end
until state ~= "running" and #bytes == 0

io.stderr:write(state == "lost" and "ended without an exit code\n" or "exit code " .. state .. "\n")
if state ~= "0" then os.exit(1) end
