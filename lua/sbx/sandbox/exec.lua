-- One request that runs a command. A command is never sent twice unless the first
-- one provably never left this process, or may be repeated without harm; and a lost
-- answer is never taken for a result.

local failure = require("sbx.sandbox.failure")
local gateway = require("sbx.sandbox.gateway")
local json = require("sbx.json")
local profile = require("sbx.sandbox.profile")
local run_in_vm = require("sbx.sandbox.rpc.exec")

local exec = {}

local MARGIN = 5 -- seconds that the server's own 408 has to arrive
local MAX_ANSWER = 256 * 1024 * 1024 -- two streams, with room for JSON's escapes

---@class sbx.sandbox.ExecRequest
---@field command string  UTF-8
---@field working_dir? string
---@field env? table<string, string>
---@field timeout integer  seconds
---@field user? string
---@field op? string  on whose behalf, for messages (default "execute_command")
---@field once? boolean  one try, and nobody looks at the answer
---@field repeatable? boolean  running it twice does no harm

local function result_from(call, response)
  local answer = failure.object(response.body)
  if not answer then
    error(failure.bad_answer(call, response, "expected a JSON object"), 0)
  end
  return {
    stdout = failure.field(call, answer, "stdout", "string"),
    stderr = failure.field(call, answer, "stderr", "string"),
    exit_code = failure.field(call, answer, "exit_code", "integer"),
    stdout_truncated = answer.stdout_truncated == true,
    stderr_truncated = answer.stderr_truncated == true,
  }
end

---Runs a command and returns what it wrote; nothing with `once`.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param wanted sbx.sandbox.ExecRequest
---@return { stdout: string, stderr: string, exit_code: integer, stdout_truncated: boolean,
---  stderr_truncated: boolean }
function exec.run(client, id, wanted)
  local op = wanted.op or "execute_command"
  if profile.is_vm(client, id, op) then
    if wanted.user then profile.require(client, id, "user", op) end
    return run_in_vm(client, id, wanted, wanted.once or false)
  end
  local call = {
    op = op,
    operation = "exec",
    method = "POST",
    sandbox_id = id,
    request = {
      headers = { ["content-type"] = "application/json" },
      body = json.encode({
        command = wanted.command,
        working_dir = wanted.working_dir or json.null,
        env = wanted.env or json.object({}),
        sandbox_id = id,
        timeout = wanted.timeout,
        user = wanted.user,
      }),
      max_body = MAX_ANSWER,
    },
    timeout = wanted.timeout + MARGIN,
    limit = wanted.timeout,
    timeout_kind = "command_timeout",
    repeatable = wanted.repeatable or false,
    once = wanted.once,
  }
  local response = gateway.call(client, call)
  if wanted.once then return nil end
  local ok, result = pcall(result_from, call, response)
  if ok then return result end
  result.outcome = "unknown"
  error(result, 0)
end

return exec
