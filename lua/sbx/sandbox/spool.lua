-- A command that runs on its own in the sandbox while short requests look at it now
-- and then, so that nothing between here and there can cut it off, its output comes
-- as it is written, byte for byte, and all that it started can be ended.
--
-- The one thing to keep in mind: a start whose answer is lost is not repeated but
-- found out about; see spool_scripts.lua for the folder that decides it.

local core = require("sbx.core.task")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local exec = require("sbx.sandbox.exec")
local failure = require("sbx.sandbox.failure")
local hash = require("sbx.hash")
local json = require("sbx.json")
local profile = require("sbx.sandbox.profile")
local scripts = require("sbx.sandbox.spool_scripts")
local shell = require("sbx.sandbox.shell")
local task = require("sbx.task")

local spool = {}

local WAIT = 20 -- seconds that one look waits in the sandbox
local MOST = 1024 * 1024 -- bytes of each output that one look brings
local LEAST = 16 * 1024
local SLACK = 20 -- seconds that a script may take besides its waiting
local PATIENCE = 120 -- seconds without any look that works
local STARTS = 3
local GRACE = 2 -- seconds between TERM and KILL
local PAUSE, MAX_PAUSE = 0.1, 2 -- seconds between looks at a slow trickle

---@class sbx.sandbox.Spool
---@field client sbx.sandbox.Client
---@field id string
---@field op string
---@field place sbx.sandbox.SpoolPlace
---@field user string|nil
---@field asked boolean     a start was sent, and not refused
---@field lost boolean      a start may still be under way
---@field ended boolean     the command has, and is not to be killed
---@field uploading boolean its input may still be under way
---@field most integer     bytes that one look may bring
local Spool = {}
Spool.__index = Spool

---@param client sbx.sandbox.Client
---@param id string
---@param op string
---@param place sbx.sandbox.SpoolPlace
---@param user? string
---@return sbx.sandbox.Spool
function spool.at(client, id, op, place, user)
  return setmetatable({
    client = client, id = id, op = op, place = place, user = user, asked = false, lost = false,
    ended = false, uploading = false, most = MOST,
  }, Spool)
end

---A place of its own for one command.
---@param input? string  path of its standard input
---@return sbx.sandbox.SpoolPlace
function spool.fresh_place(input)
  local name = hash.random_hex(16)
  local lock = "/tmp/.sbx-" .. name
  return { lock = lock, prefix = lock .. "/", mark = name .. ".", input = input }
end

function Spool:describe()
  return ("%s %s"):format(self.op, failure.clean(self.id, nil, 100))
end

---@async
function Spool:script(text, seconds)
  return exec.run(self.client, self.id, {
    op = self.op, command = text, env = json.object({}), user = self.user,
    timeout = math.ceil(seconds), repeatable = true,
  })
end

-- ----------------------------------------------------------------------- looks

---@class sbx.sandbox.SpoolState
---@field state "run"|"gone"|"lost"|"ended"
---@field exit_code integer|nil  once ended
---@field stdout string          new bytes
---@field stderr string
---@field stdout_size integer    bytes of the whole file
---@field stderr_size integer

local function decode(text, coding, most)
  local ok, bytes = pcall(coding == "od" and encoding.hex_decode or encoding.base64_decode, text)
  return ok and #bytes <= most and bytes or nil
end

-- What a look says, or nil.
local function parse(text, most)
  local state, a, b, coding, at = text:match("^(%w+) (%d+) (%d+) (%w+)\n()")
  if not state or #a > 15 or #b > 15 or #state > 10 then return nil end
  local out, err = text:match("^([^.]*)%.\n([^.]*)%.\n$", at)
  if not out then return nil end
  out, err = decode(out, coding, most), decode(err, coding, most)
  if not out or not err then return nil end
  local code = math.tointeger(tonumber(state))
  if not code and state ~= "run" and state ~= "gone" and state ~= "lost" then return nil end
  return {
    state = code and "ended" or state, exit_code = code, stdout = out, stderr = err,
    stdout_size = math.tointeger(tonumber(a)), stderr_size = math.tointeger(tonumber(b)),
  }
end

local function bad_look(self)
  local err = failure.bad_answer({ op = self.op, sandbox_id = self.id }, nil,
    "expected the state of a spooled command")
  err.code = "BAD_STATE"
  err.outcome = "unknown"
  return err
end

-- A look's answer; nil where the server cut it, after which less is asked for.
local function understood(self, answer)
  local seen = parse(answer.stdout, self.most)
  if seen then return seen end
  if self.most <= LEAST then error(bad_look(self), 0) end
  self.most = math.max(LEAST, self.most // 8)
  return nil
end

-- Errors after which another look may work.
local function may_pass(err)
  if not errors.is_error(err) or err.kind == "cancelled" or err:is("not_running") then
    return false
  end
  if err.code == "BAD_STATE" then return false end
  if err.outcome == "unknown" or err.retryable then return true end
  local status = err.status
  return err.kind == "command_timeout" or err.kind == "api_timeout"
    or status == 408 or status == 429 or (status ~= nil and status >= 500)
end

-- Calls `fn`, which changes nothing that twice would harm, until it works.
---@async
local function patiently(self, fn)
  local give_up, pause = task.now() + PATIENCE, 0.25
  while true do
    local ok, result = pcall(fn)
    if ok and result ~= nil then return result end
    if not ok then
      if not may_pass(result) or task.now() + pause > give_up then
        if errors.is_error(result) and result.kind ~= "cancelled" and self.asked then
          result.outcome = "unknown"
        end
        error(result, 0)
      end
      task.sleep(pause)
      pause = math.min(pause * 2, 10)
    end
  end
end

---What is new of the command: waits for its end, or for output with `stream`.
---@async
---@param want { stdout: integer, stderr: integer, stream: boolean, wait: number }
---@return sbx.sandbox.SpoolState
function Spool:look(want)
  return patiently(self, function()
    local text = scripts.look(self.place, {
      stdout = want.stdout, stderr = want.stderr, stream = want.stream, wait = want.wait,
      most = self.most,
    })
    return understood(self, self:script(text, want.wait + SLACK))
  end)
end

-- ------------------------------------------------------------------- beginning

local function refused(self, answer)
  local detail = failure.clean((answer.stderr:gsub("%s+$", "")))
  if detail == "" then detail = ("its script ended with status %d"):format(answer.exit_code) end
  errors.raise({
    kind = "api",
    code = "NOT_STARTED",
    op = self.op,
    sandbox_id = self.id,
    outcome = "not_started",
    detail = detail,
    message = ("%s: the command could not be started: %s"):format(self:describe(), detail),
  })
end

-- Whether a failed start may have reached the sandbox.
local function may_have_started(err)
  if err.kind == "cancelled" then return true end
  if err.outcome == "unknown" or err.kind == "command_timeout" then return true end
  return err.status ~= nil and err.status >= 500 and not err:is("not_running")
end

-- Whether the command has been started; if not, it never will be.
---@async
local function find_out(self)
  local answer = patiently(self, function()
    return self:script(scripts.claim(self.place), SLACK)
  end)
  local word = answer.stdout:match("^(%w+)\n$")
  if word == "exists" then return true end
  if word == "claimed" then return false end
  error(bad_look(self), 0)
end

---Raises that the command did not run and never will.
---@param cause any
function Spool:not_started(cause)
  errors.raise({
    kind = "api",
    code = "NOT_STARTED",
    op = self.op,
    sandbox_id = self.id,
    outcome = "not_started",
    retryable = true,
    cause = cause,
    message = self:describe() .. ": the command did not reach the sandbox: " .. tostring(cause),
  })
end

-- Variables that change what the scripts themselves do are set for the command alone.
local function divide(env)
  local own, words = nil, {}
  for name, value in pairs(env or {}) do
    if name == "PATH" or name == "ENV" or name == "BASH_ENV" or name == "IFS"
      or name:find("^LD_") then
      words[#words + 1] = name .. "=" .. value
    else
      own = own or {}
      own[name] = value
    end
  end
  table.sort(words)
  return own and json.object(own) or json.object({}), words
end

---Starts a command, at most once. Returns the first look at it, or nil where the
---answer was lost but it runs; false where it does not run and never will.
---@async
---@param o { command: string, env?: table, working_dir?: string }
---@param want { stream: boolean, wait: number }
---@return sbx.sandbox.SpoolState|nil|false, sbx.Error|nil
function Spool:start(o, want)
  local prefix, env, folder = shell.split(o.env, o.working_dir)
  local own, words = divide(env)
  local name = profile.is_vm(self.client, self.id, self.op) and "bash" or "sh"
  local text = scripts.start(self.place, {
    prefix = prefix, command = o.command, shell = name, words = words,
  }) .. scripts.look(self.place, {
    stdout = 0, stderr = 0, most = self.most, stream = want.stream, wait = want.wait,
  })
  self.asked = true
  local ok, answer = pcall(exec.run, self.client, self.id, {
    op = self.op, command = text, env = own, working_dir = folder, user = self.user,
    timeout = math.ceil(want.wait + SLACK),
  })
  if ok and answer.exit_code == 0 then return understood(self, answer) end
  if ok and answer.exit_code == scripts.DUPLICATE then return nil end
  if ok then
    self.asked = false
    refused(self, answer)
  end
  local err = answer
  if not errors.is_error(err) or not may_have_started(err) then
    self.asked = false
    if errors.is_error(err) then err.outcome = err.outcome or "not_started" end
    error(err, 0)
  end
  self.lost = true
  if err.kind == "cancelled" then error(err, 0) end
  if find_out(self) then return nil end
  self.asked = false
  return false, err
end

-- ---------------------------------------------------------------------- ending

---Ends all that the command started, if it has not ended. Says claimed or none (it
---never ran), ended, nopid (nothing to kill it by), killed, alive.
---@async
---@param grace number  seconds between TERM and KILL
---@param claim boolean  a start may be under way
---@return string
function Spool:kill(grace, claim)
  local answer = self:script(scripts.kill(self.place, grace, claim), grace + SLACK)
  return answer.stdout:match("^(%w+)\n") or "unknown"
end

-- Kills what runs, and removes the files, whatever has happened.
---@async
local function clean_up(self, grace)
  local text = scripts.clean(self.place, self.lost, self.uploading)
  if self.asked and not self.ended then
    text = ("(\n%s)\n%s"):format(scripts.kill(self.place, grace, self.lost), text)
  end
  self:script(text, grace + SLACK)
end

function Spool:__close(err)
  if errors.is_error(err) and err:is("not_running") then return end
  if not self.asked and not self.lost and not self.place.input then return end
  local budget = core.cleanup_seconds()
  if self.ended then budget = math.min(budget, 5) end
  pcall(task.shield, budget, clean_up, self, math.min(GRACE, budget / 4))
end

-- --------------------------------------------------------------------- running

-- One output on its way to the caller.
local Sink = {}
Sink.__index = Sink

local function new_sink(fn, most)
  return setmetatable({ fn = fn, most = most, parts = {}, kept = 0, at = 0 }, Sink)
end

---@async
function Sink:put(bytes)
  if bytes == "" then return end
  self.at = self.at + #bytes
  local room = self.most - self.kept
  if room > 0 then
    local piece = #bytes <= room and bytes or bytes:sub(1, room)
    self.parts[#self.parts + 1] = piece
    self.kept = self.kept + #piece
  end
  if self.fn then self.fn(bytes) end
end

-- Whether there is more that anyone wants.
function Sink:wants(size)
  return self.at < size and (self.fn ~= nil or self.kept < self.most)
end

-- Where to read on: what nobody wants is not brought.
function Sink:offset()
  return (self.fn or self.kept < self.most) and self.at or (1 << 50)
end

local function too_late(self, seconds, outcome, o)
  return errors.new({
    kind = "command_timeout",
    op = self.op,
    sandbox_id = self.id,
    timeout = seconds,
    outcome = outcome,
    stdout = table.concat(o.stdout.parts),
    stderr = table.concat(o.stderr.parts),
    message = ("%s: not done within %g s"):format(self:describe(), seconds),
  })
end

local function ended_badly(self, state)
  errors.raise({
    kind = "api",
    code = "LOST",
    op = self.op,
    sandbox_id = self.id,
    outcome = "unknown",
    message = ("%s: the command's end is not known: %s"):format(self:describe(),
      state == "gone" and "its files in /tmp are gone" or "what waited for it was killed"),
  })
end

-- Gives the new bytes to their sinks, in order, and none beyond the end.
---@async
local function deliver(seen, sinks)
  for _, name in ipairs({ "stdout", "stderr" }) do
    sinks[name]:put(seen[name])
  end
end

-- Follows the command to its end; nil when `limit` has come.
---@async
local function follow(self, seen, sinks, stream, limit)
  local pause = PAUSE
  while true do
    if seen then
      deliver(seen, sinks)
      if seen.state == "gone" or seen.state == "lost" then ended_badly(self, seen.state) end
      if seen.state == "ended" then
        self.ended = true
        if not sinks.stdout:wants(seen.stdout_size) and not sinks.stderr:wants(seen.stderr_size)
        then
          return seen
        end
      end
    end
    local left = limit - task.now()
    local running = not (seen and seen.state == "ended")
    if running and left <= 0 then return nil end
    local much = seen and #seen.stdout + #seen.stderr >= LEAST
    if seen and running and stream and not much then
      task.sleep(math.min(pause, math.max(left, 0)))
      pause = math.min(pause * 1.5, MAX_PAUSE)
    end
    seen = self:look({
      stdout = sinks.stdout:offset(), stderr = sinks.stderr:offset(), stream = stream,
      wait = running and math.max(0, math.min(WAIT, limit - task.now())) or 0,
    })
  end
end

-- After the time is up: kills, and returns the last look if it had ended after all.
---@async
local function expire(self, sinks, stream, seconds)
  local word = self:kill(GRACE, false)
  if word == "ended" then return follow(self, nil, sinks, stream, math.huge) end
  local dead = word == "killed"
  self.ended = dead
  if dead then
    -- What it wrote to the last belongs to the one who listens.
    pcall(deliver, self:look({
      stdout = sinks.stdout:offset(), stderr = sinks.stderr:offset(), stream = true, wait = 0,
    }), sinks)
  end
  error(too_late(self, seconds, dead and "exited" or "unknown", sinks), 0)
end

---@async
local function attempt(client, id, o, limit)
  local place = spool.fresh_place()
  local self <close> = spool.at(client, id, "execute_command", place, o.user)
  if o.put_input then
    place.input = place.lock .. ".in"
    self.uploading = true
    o.put_input(place.input)
    self.uploading = false
  end
  local stream = o.on_stdout ~= nil or o.on_stderr ~= nil
  local sinks = {
    stdout = new_sink(o.on_stdout, o.on_stdout and 0 or o.max_output),
    stderr = new_sink(o.on_stderr, o.on_stderr and 0 or o.max_output),
  }
  if limit == math.huge then limit = task.now() + o.limit end
  local wait = math.max(0, math.min(WAIT, limit - task.now()))
  local first, cause = self:start(o, { stream = stream, wait = wait })
  if first == false then return nil, cause, self end
  local seen = follow(self, first, sinks, stream, limit)
    or expire(self, sinks, stream, o.limit)
  return {
    stdout = table.concat(sinks.stdout.parts),
    stderr = table.concat(sinks.stderr.parts),
    exit_code = seen.exit_code,
    stdout_truncated = not o.on_stdout and sinks.stdout.kept < seen.stdout_size,
    stderr_truncated = not o.on_stderr and sinks.stderr.kept < seen.stderr_size,
  }
end

---Runs a command to its end.
---@async
---@param client sbx.sandbox.Client
---@param id string
---@param o table  command, limit (seconds), env?, working_dir?, user?, on_stdout?,
---  on_stderr?, max_output, put_input? (async fun(path), which may be called again)
---@return sbx.sandbox.Result
function spool.run(client, id, o)
  for n = 1, STARTS do
    local result, cause, self = attempt(client, id, o, math.huge)
    if result then return result end
    -- A source of input that is used up cannot be sent again.
    if n == STARTS or o.input_once then self:not_started(cause) end
  end
end

return spool
