-- A command in a virtual machine whose output goes to the caller as it comes: there
-- the connection carries it, and nothing has to be looked at.

local shell = require("sbx.sandbox.shell")
local task = require("sbx.task")

local live = {}

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

---Runs a command to its end. It is ended when the caller is cancelled.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param o table  command, limit (seconds), env?, working_dir?, on_stdout?, on_stderr?, max_output
---@return table  stdout, stderr, exit_code and what was truncated
function live.run(client, id, o)
  local prefix, env, folder = shell.split(o.env, o.working_dir)
  local process <close> = client:open_process(id, prefix .. shell.portable(o.command), {
    env = env, cwd = folder, stdin = false, deadline = o.limit,
  })
  local kept = { stdout = {}, stderr = {} }
  local out_cut, err_cut = task.gather({
    function() return take(process, "stdout", o, kept.stdout) end,
    function() return take(process, "stderr", o, kept.stderr) end,
  })
  return {
    stdout = table.concat(kept.stdout),
    stderr = table.concat(kept.stderr),
    exit_code = process:wait().exit_code,
    stdout_truncated = out_cut,
    stderr_truncated = err_cut,
  }
end

return live
