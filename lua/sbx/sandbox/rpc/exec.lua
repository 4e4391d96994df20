-- A command in a virtual machine, from its start to its end: as in a container, but
-- for bytes that arrive as they were written.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local log = require("sbx.log")
local session = require("sbx.sandbox.rpc.session")

local MAX_OUTPUT = 256 * 1024 * 1024 -- bytes of both streams
local PIECE_COST = 64 -- bytes that a piece costs besides its own
local DRAIN_SECONDS = 0.25 -- for the connection to be used again
local KILL_SECONDS = 5

local function too_much(call)
  return errors.new({
    kind = "limit",
    op = call.op,
    sandbox_id = call.sandbox_id,
    outcome = "unknown",
    message = ("%s %s: more than %d MiB of output; write it to a file in the sandbox"):format(
      call.op, failure.clean(call.sandbox_id, nil, 100), MAX_OUTPUT >> 20),
  })
end

-- `seen` gets the pid as soon as it is known.
---@async
local function collect(stream, call, seen)
  local parts, size = { stdout = {}, stderr = {} }, 0
  for message in stream.next, stream do
    local kind, value = session.event(message)
    if kind == "start" then
      seen.pid = value
    elseif kind == "end" then
      session.check_end(call, value)
      return {
        stdout = table.concat(parts.stdout),
        stderr = table.concat(parts.stderr),
        exit_code = value.exit_code or 0,
        stdout_truncated = false,
        stderr_truncated = false,
      }
    elseif kind then
      local list = parts[kind == "pty" and "stdout" or kind]
      list[#list + 1] = value
      size = size + #value + PIECE_COST
      if size > MAX_OUTPUT then error(too_much(call), 0) end
    end
  end
  error(session.no_end(call), 0)
end

-- What nobody waits for any more must not run on.
---@async
local function kill(client, call, seen)
  if not seen.pid or seen.pid == 0 then return end
  local ok, err = session.kill(client, call.sandbox_id, { pid = seen.pid }, KILL_SECONDS)
  local over = ok or errors.is_error(err) and (err.code == "not_found" or err:is("not_running"))
  if over then return end
  log.warn(("%s %s: process %d could not be ended, and may run on: %s"):format(
    call.op, failure.clean(call.sandbox_id, nil, 100), seen.pid, tostring(err)))
end

---Runs a command as `execute_command` does. One that takes too long, writes too much,
---or whose caller is cancelled, is killed.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param options table  command, working_dir?, env?, timeout
---@param once boolean  one try, as a probe
---@return sbx.sandbox.Result
return function(client, id, options, once)
  local call = {
    rpc = "Start",
    op = once and "probe" or "execute_command",
    sandbox_id = id,
    message = {
      command = {
        cmd = "/bin/bash",
        args = { "-c", options.command },
        envs = options.env,
        cwd = options.working_dir,
      },
      stdin = false,
    },
    seconds = options.timeout,
    hidden = options.env,
    once = once,
  }
  local stream <close> = session.call(client, call)
  local seen = {}
  local ok, result = pcall(collect, stream, call, seen)
  if ok then
    stream:drain(DRAIN_SECONDS)
    return result
  end
  local err = result
  if errors.is_error(err) and err.kind == "cancelled" then
    kill(client, call, seen)
  elseif not (errors.is_error(err) and err.outcome == "unknown") then
    err = session.broken(client, call, err)
  end
  if err.kind == "command_timeout" or err.kind == "limit" then kill(client, call, seen) end
  error(err, 0)
end
