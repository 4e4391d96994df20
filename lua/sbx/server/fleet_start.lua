-- The start command of a sandbox: run once, its output in the sandbox's log while it
-- runs, its exit code kept.

local sandbox = require("sbx.server.sandbox")
local start_failure = require("sbx.server.start_failure")
local task = require("sbx.task")
local validate = require("sbx.server.validate")

local start = {}

---What is noted of it with the agent, for a server that takes the sandbox up again.
start.NOTE = '{"kind":"start"}'

-- What one line of a log may hold back until its end.
local MAX_PART = 8192
-- A command that writes without end gets so much of our attention, and no more.
local BURST, PAUSE_SECONDS = 262144, 0.1

local function argv_of(command)
  if type(command) == "string" then return { "/bin/sh", "-c", command } end
  return { command.executable, table.unpack(command.args) }
end

-- Gives whole lines to `logs`, and the rest when there is much of it or no more to come.
local function line_writer(logs)
  local part = ""
  return function(bytes)
    part = part .. (bytes or "")
    local whole = part:match("^.*\n")
    if not bytes or #part > MAX_PART then whole = part end
    if not whole then return end
    part = part:sub(#whole + 1)
    logs:add(whole)
  end
end

local function log_output(session, logs)
  local writers = { stdout = line_writer(logs), stderr = line_writer(logs) }
  local burst = 0
  while true do
    local channel, bytes = session:read()
    if not channel then break end
    writers[channel](bytes)
    burst = burst + #bytes
    if burst >= BURST then
      burst = 0
      task.sleep(PAUSE_SECONDS)
    end
  end
  writers.stdout(nil)
  writers.stderr(nil)
end

---Runs the start command of a sandbox to its end, where it has one. `save()` is called
---when there is something to remember.
---@async
---@param record sbx.server.Sandbox  with its box
---@param save fun()
---@param running? sbx.server.Session  the command, begun by an earlier server
function start.run(record, save, running)
  local command = record.spec.start_command
  if not command or command == validate.IDLE_COMMAND then return end
  if record.start_begun and not running then return end
  local agent = record.box.agent
  if not record.start_begun then
    record.start_begun = true
    save()
  end
  local ok, result = pcall(function()
    local session = running or agent:start {
      argv = argv_of(command), cwd = sandbox.MOUNT_PATH, env = record:environment(),
      note = agent.holds and start.NOTE or nil,
    }
    log_output(session, record.logs)
    return session.exit_code
  end)
  if record:ended() or not record.box then return end
  if ok then
    record.exit_code = result
    record.logs:add("start command ended with exit code " .. tostring(result))
  else
    local why = start_failure.explain(agent, result, argv_of(command)[1], record.spec.docker_image)
    record.logs:add("start command failed: " .. (why or tostring(result)))
  end
  save()
end

return start
