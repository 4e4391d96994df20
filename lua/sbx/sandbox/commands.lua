-- Running commands. A command is never sent twice unless the first one provably
-- never left this process, and a lost answer is never taken for a result.

local check = require("sbx.check")
local failure = require("sbx.sandbox.failure")
local gateway = require("sbx.sandbox.gateway")
local json = require("sbx.json")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local run_in_vm = require("sbx.sandbox.rpc.exec")
local wire = require("sbx.sandbox.wire")

local commands = {}

---@class sbx.sandbox.Client
local methods = {}

local MARGIN = 5 -- seconds that the server's own 408 has to arrive
local MAX_ANSWER = 256 * 1024 * 1024 -- two streams, with room for JSON's escapes
local PROBE = { command = "echo ready", timeout = 10 }

---@class sbx.sandbox.ExecOptions
---@field working_dir? string
---@field env? table<string, string>
---@field timeout? number  seconds the command may run, rounded up (default 300)
---@field user? string  a name or number, perhaps with `:group`

---@class sbx.sandbox.Result
---@field stdout string
---@field stderr string
---@field exit_code integer
---@field stdout_truncated boolean  the server kept only a part
---@field stderr_truncated boolean

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

---@async
local function run(client, id, options, once)
  local op = once and "probe" or "execute_command"
  if profile.is_vm(client, id, op) then
    if options.user then profile.require(client, id, "user", op) end
    return run_in_vm(client, id, options, once)
  end
  local call = {
    op = op,
    operation = "exec",
    method = "POST",
    sandbox_id = id,
    request = {
      headers = { ["content-type"] = "application/json" },
      body = json.encode({
        command = options.command,
        working_dir = options.working_dir or json.null,
        env = options.env or json.object({}),
        sandbox_id = id,
        timeout = options.timeout,
        user = options.user,
      }),
      max_body = MAX_ANSWER,
    },
    timeout = options.timeout + MARGIN,
    limit = options.timeout,
    timeout_kind = "command_timeout",
    repeatable = false,
    once = once,
  }
  local response = gateway.call(client, call)
  if once then return nil end
  local ok, result = pcall(result_from, call, response)
  if ok then return result end
  result.outcome = "unknown"
  error(result, 0)
end

local function checked_options(command, given)
  local options = check.options(given, {
    working_dir = check.none,
    env = check.none,
    timeout = 300,
    user = check.none,
  }, -1)
  options.command = check.string(command, "command")
  if command:find("\0", 1, true) then error("command: has a NUL byte", 0) end
  for _, name in ipairs({ "working_dir", "user" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  options.env = request.string_map(options.env, "env")
  -- The wire has whole seconds.
  options.timeout = math.ceil(check.number(options.timeout, "timeout", 0.001, 1e9))
  return options
end

---Runs a shell command in a sandbox and returns what it wrote and its exit code;
---a code other than 0 is an answer, not an error. Raises `command_timeout` when
---it takes longer than `timeout`, `not_running` (or `oom`, `sandbox_timeout`,
---`image_pull`) when the sandbox cannot run it, `unsupported` for `user` in a virtual
---machine, `api` for the rest. Where the answer was lost the error says `outcome =
---"unknown"`: the command may have run.
---@async
---@param target string|sbx.sandbox.Box
---@param command string  for `sh -c` in a container, `bash -c` in a virtual machine
---@param options? sbx.sandbox.ExecOptions
---@return sbx.sandbox.Result
function methods:execute_command(target, command, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_options, command, options)
  local result = run(self, id, opts, false)
  self.reached[id] = true
  return result
end

---Raises unless a command gets through to the sandbox. One try; what the command
---answers does not matter.
---@async
---@param client sbx.sandbox.Client
---@param id string
function commands.probe(client, id)
  run(client, id, PROBE, true)
end

commands.methods = methods

return commands
