-- A command in a virtual machine whose output goes to the caller as it comes: there
-- the connection carries it, and nothing has to be looked at.

local session = require("sbx.sandbox.rpc.session")
local shell = require("sbx.sandbox.shell")
local signal = require("sbx.signal")
local task = require("sbx.task")

local live = {}

local SIGNAL_SECONDS = 20

-- Takes all of one output.
---@async
local function take(process, name, o, kept)
  local on_bytes = o["on_" .. name]
  local size = 0
  for bytes in function() return process:read(name) end do
    if on_bytes then
      on_bytes(bytes)
    elseif size < o.max_output then
      kept[#kept + 1] = bytes:sub(1, o.max_output - size)
    end
    size = size + #bytes
  end
  return not on_bytes and size > o.max_output
end

-- The wire has TERM and KILL; for others there is a command.
---@async
local function send_signal(client, id, process, value)
  local name = signal.name(signal.number(value, 2))
  if process.result then return false end
  if name == "TERM" or name == "KILL" then return process:signal(name) end
  local line = ("kill -s %s -- -%d 2>/dev/null || kill -s %s %d"):format(name, process.pid, name,
    process.pid)
  return client:execute_command(id, line, { timeout = SIGNAL_SECONDS }).exit_code == 0
end

---Runs a command to its end. It is ended when the caller is cancelled.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param o table  command, limit (seconds), env?, working_dir?, on_stdout?, on_stderr?, on_start?,
---  max_output
---@return table  stdout, stderr, exit_code and what was truncated
function live.run(client, id, o)
  local prefix, env, folder = shell.split(o.env, o.working_dir)
  local process <close> = client:open_process(id, prefix .. shell.portable(o.command), {
    env = env, cwd = folder, stdin = false, deadline = o.limit,
  })
  if o.on_start then
    o.on_start({ signal = function(_, value) return send_signal(client, id, process, value) end })
  end
  local kept = { stdout = {}, stderr = {} }
  local out_cut, err_cut = task.gather({
    function() return take(process, "stdout", o, kept.stdout) end,
    function() return take(process, "stderr", o, kept.stderr) end,
  })
  local ended = process:wait()
  session.check_end({ op = "execute_command", sandbox_id = id }, ended)
  return {
    stdout = table.concat(kept.stdout),
    stderr = table.concat(kept.stderr),
    exit_code = ended.exit_code,
    stdout_truncated = out_cut,
    stderr_truncated = err_cut,
  }
end

return live
