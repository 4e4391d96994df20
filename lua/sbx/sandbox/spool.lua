-- A command that runs on its own in the sandbox while short requests look at it now
-- and then, so that nothing between here and there can cut it off, its output comes
-- as it is written, byte for byte, and all that it started can be ended.
--
-- The one thing to keep in mind: a start whose answer is lost is not repeated but
-- found out about; see spool_scripts.lua for the folder that decides it.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local exec = require("sbx.sandbox.exec")
local failure = require("sbx.sandbox.failure")
local hash = require("sbx.hash")
local json = require("sbx.json")
local log = require("sbx.log")
local profile = require("sbx.sandbox.profile")
local scripts = require("sbx.sandbox.spool_scripts")
local shell = require("sbx.sandbox.shell")
local signal = require("sbx.signal")
local spool_state = require("sbx.sandbox.spool_state")
local task = require("sbx.task")

local spool = {}

local MOST = 1024 * 1024 -- bytes of each output that one look brings
local LEAST = 16 * 1024
local SLACK = 20 -- seconds that a script may take besides its waiting
local PATIENCE = 120 -- seconds without any look that works
local OVERTIME = 10 -- the same, once the command's own time is up
local GRACE = 2 -- seconds between TERM and KILL
local UPLOAD_SECONDS = 300

---@class sbx.sandbox.Spool
---@field client sbx.sandbox.Client
---@field id string
---@field op string
---@field place sbx.sandbox.SpoolPlace
---@field user string|nil
---@field asked boolean     a start was sent, and not refused
---@field lost boolean      a start may still be under way
---@field ended boolean     the command has, and is not to be killed
---@field uploading boolean what it needs may still be under way
---@field touched boolean  something of it may be in the sandbox
---@field limit number|nil when the command's time is up, by task.now()
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
    ended = false, uploading = false, touched = false, most = MOST,
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

local function bad_look(self)
  local err = failure.bad_answer({ op = self.op, sandbox_id = self.id }, nil,
    "expected the state of a spooled command")
  err.code = "BAD_STATE"
  err.outcome = "unknown"
  return err
end

-- A look's answer; nil where the server cut it, after which less is asked for.
local function understood(self, answer)
  local seen = spool_state.parse(answer.stdout, self.most)
  if seen then return seen end
  if self.most <= LEAST then error(bad_look(self), 0) end
  self.most = math.max(LEAST, self.most // 8)
  return nil
end

---Whether another look may work after this error.
---@param err any
---@return boolean
function spool.may_pass(err)
  if not errors.is_error(err) or err.kind == "cancelled" or err:is("not_running") then
    return false
  end
  if err.code == "BAD_STATE" then return false end
  if err.outcome == "unknown" or err.retryable then return true end
  local status = err.status -- of a sandbox that does not run a word
  return err.kind == "command_timeout" or err.kind == "api_timeout"
    or status == 408 or status == 429 or (math.type(status) ~= nil and status >= 500)
end

local function detail_of(answer)
  local detail = failure.clean((answer.stderr:gsub("%s+$", "")))
  if detail ~= "" then return detail end
  return ("its script ended with status %d"):format(answer.exit_code)
end

local function lacks_tool(self, answer, outcome)
  local detail = detail_of(answer)
  errors.raise({
    kind = "unsupported",
    code = "NO_TOOL",
    op = self.op,
    sandbox_id = self.id,
    outcome = outcome,
    detail = detail,
    message = ("%s: the image does not have what a command needs that runs on its own: %s; take "
      .. "an image that has it, or, for a short command, execute_command with spool = false")
      :format(self:describe(), detail),
  })
end

-- A look that did not come to its end, because the sandbox has no processes left for
-- it, or somebody killed it.
local function failed_look(self, answer)
  return errors.new({
    kind = "api",
    code = "LOOK_FAILED",
    op = self.op,
    sandbox_id = self.id,
    retryable = true,
    detail = detail_of(answer),
    message = ("%s: cannot look at the command: %s"):format(self:describe(), detail_of(answer)),
  })
end

---Raises that the command's output cannot be read.
function Spool:raise_stuck()
  errors.raise({
    kind = "api",
    code = "BAD_STATE",
    op = self.op,
    sandbox_id = self.id,
    outcome = "unknown",
    message = self:describe() .. ": the command has written something that cannot be read: "
      .. "`tail -c` and `head -c` of the image bring nothing",
  })
end

-- Calls `fn`, which changes nothing that twice would harm, until it works.
---@async
local function patiently(self, fn)
  local give_up, pause = task.now() + PATIENCE, 0.25
  if self.limit then
    give_up = math.min(give_up, math.max(self.limit, task.now()) + OVERTIME)
  end
  while true do
    local ok, result = pcall(fn)
    if ok and result ~= nil then return result end
    if not ok then
      if not spool.may_pass(result) or task.now() + pause > give_up then
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
    local answer = self:script(text, want.wait + SLACK)
    if answer.exit_code == scripts.NO_TOOL then lacks_tool(self, answer) end
    if answer.exit_code ~= 0 then error(failed_look(self, answer), 0) end
    return understood(self, answer)
  end)
end

-- ------------------------------------------------------------------- beginning

local function refused(self, answer)
  self.asked = false
  if answer.exit_code == scripts.NO_TOOL then lacks_tool(self, answer, "not_started") end
  local detail = detail_of(answer)
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
  -- That of a sandbox that does not run is a word.
  return math.type(err.status) ~= nil and err.status >= 500
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

-- What a start means that ended with a status: nil where the command runs.
---@async
local function after_status(self, answer)
  local status = answer.exit_code
  self.touched = true
  if status == scripts.DUPLICATE then return nil end
  if status == scripts.NO_TOOL or status == scripts.NO_LOCK then refused(self, answer) end
  -- Something ended it halfway: perhaps the command itself, which may have begun.
  local known, started = pcall(find_out, self)
  if known and started then return nil end
  if known or status == 126 or status == 127 then refused(self, answer) end
  error(started, 0)
end

---Sends something that the command needs ahead: `put(path)`.
---@async
---@param put async fun(path: string)
---@param path string
function Spool:upload(put, path)
  self.uploading = true
  local ok, err = pcall(put, path)
  if ok then
    self.uploading = false
    return
  end
  -- An error of the caller's own source stays as it is.
  if errors.is_error(err) and err.sandbox_id == self.id then err.outcome = "not_started" end
  error(err, 0)
end

-- The script that starts a command; a long one goes ahead as a file, for the kernel
-- takes only so much as one word.
---@async
local function start_script(self, o, look)
  local ready = shell.fits(o.command) and scripts.start(self.place, o) .. look
  if ready and shell.fits(ready) then return ready end
  self.place.script = self.place.lock .. ".sh"
  self:upload(function(path)
    self.client:upload_bytes(self.id, path, o.command,
      { timeout = UPLOAD_SECONDS, split = true })
  end, self.place.script)
  ready = scripts.start(self.place, o) .. look
  if not shell.fits(ready) then shell.raise_too_long(self.op, self.id, "its variables", #ready) end
  return ready
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
---answer was lost but it runs; false where it does not run and never will. What it
---started is ended `deadline` seconds later, also when nobody looks any more.
---@async
---@param o { command: string, env?: table, working_dir?: string, deadline?: number }
---@param want { stream: boolean, wait: number }
---@return sbx.sandbox.SpoolState|nil|false, sbx.Error|nil
function Spool:start(o, want)
  local prefix, env, folder = shell.split(o.env, o.working_dir)
  local own, words = divide(env)
  local text = start_script(self, {
    prefix = prefix, command = o.command, words = words, deadline = o.deadline,
    shell = profile.is_vm(self.client, self.id, self.op) and "bash" or "sh",
  }, scripts.look(self.place, {
    stdout = 0, stderr = 0, most = self.most, stream = want.stream, wait = want.wait,
  }))
  self.asked = true
  local ok, answer = pcall(exec.run, self.client, self.id, {
    op = self.op, command = text, env = own, working_dir = folder, user = self.user,
    timeout = math.ceil(want.wait + SLACK),
  })
  if ok and answer.exit_code == 0 then return understood(self, answer) end
  if ok then return after_status(self, answer) end
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

---Sends a signal to the command and what belongs to its process group, once it runs.
---@async
---@param value string|integer  "INT", "TERM" or a number
---@return boolean  false where there is nothing to send it to
function Spool:signal(value)
  local number = signal.number(value, 2)
  return self:script(scripts.signal(self.place, number), SLACK).stdout:match("^sent") ~= nil
end

---Says in the log that something may run on which nobody knows of any more.
---@param why any  an error, or a word of `kill`
function Spool:warn_alive(why)
  log.warn(("%s: what it started could not be ended, and may run on: %s"):format(
    self:describe(), tostring(why)))
end

-- Kills what runs, and removes the files, whatever has happened.
---@async
local function clean_up(self, grace)
  local text = scripts.clean(self.place, self.lost, self.uploading)
  local kills = self.asked and not self.ended
  if kills then text = ("(\n%s)\n%s"):format(scripts.kill(self.place, grace, self.lost), text) end
  local answer = self:script(text, grace + SLACK)
  local word = answer.stdout:match("^(%w+)\n")
  if kills and word == "alive" then self:warn_alive(word) end
end

function Spool:__close(err)
  if errors.is_error(err) and err:is("not_running") then return end
  if not (self.asked or self.lost or self.touched or self.uploading)
    and not self.place.input and not self.place.script then
    return
  end
  local budget = core.cleanup_seconds()
  if self.ended then budget = math.min(budget, 5) end
  local ok, why = pcall(task.shield, budget, clean_up, self, math.min(GRACE, budget / 4))
  if not ok and self.asked and not self.ended then self:warn_alive(why) end
end

---Removes what was sent ahead of a start that did not happen. Failures are nobody's
---concern.
---@async
function Spool:forget_uploads()
  if not self.place.input and not self.place.script then return end
  pcall(task.shield, math.min(core.cleanup_seconds(), 5), self.script, self,
    scripts.clean_uploads(self.place, self.uploading), SLACK)
end

return spool
