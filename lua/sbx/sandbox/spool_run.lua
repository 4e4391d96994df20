-- A spooled command from its start to its end, or to the end of its time.

local errors = require("sbx.errors")
local spool = require("sbx.sandbox.spool")
local task = require("sbx.task")

local spool_run = {}

local WAIT = 20 -- seconds that one look waits in the sandbox
local STARTS = 3
local GRACE = 2 -- seconds between TERM and KILL
local WATCH = 3 -- seconds after our own deadline that the sandbox ends it by itself
local PAUSE, MAX_PAUSE = 0.1, 2 -- seconds between looks at a slow trickle
local MUCH = 16 * 1024 -- bytes after which the next look follows at once
local STUCK = 5 -- looks that bring nothing though there is something

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

local function too_late(self, seconds, outcome, o, cause)
  return errors.new({
    kind = "command_timeout",
    cause = cause,
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

local function wanted(seen, sinks)
  return sinks.stdout:wants(seen.stdout_size) or sinks.stderr:wants(seen.stderr_size)
end

-- Takes in what a look says. True when that is all.
---@async
local function take(self, seen, sinks, stream)
  local before = sinks.stdout.at + sinks.stderr.at
  local should = wanted(seen, sinks)
  deliver(seen, sinks)
  if seen.state == "gone" or seen.state == "lost" then ended_badly(self, seen.state) end
  if seen.state ~= "run" then self.ended = true end
  local got = sinks.stdout.at + sinks.stderr.at > before
  sinks.idle = should and not got and (stream or self.ended) and sinks.idle + 1 or 0
  if sinks.idle > STUCK then self:raise_stuck() end
  return self.ended and not wanted(seen, sinks)
end

-- The next look; nil when that fails after the time is up.
---@async
local function next_look(self, sinks, stream, limit)
  local ok, seen = pcall(self.look, self, {
    stdout = sinks.stdout:offset(), stderr = sinks.stderr:offset(), stream = stream,
    wait = self.ended and 0 or math.max(0, math.min(WAIT, limit - task.now())),
  })
  if ok then return seen end
  if not self.ended and task.now() >= limit and spool.may_pass(seen) then return nil, seen end
  error(seen, 0)
end

-- Follows the command to its end; nil, and perhaps why, when `limit` has come.
---@async
local function follow(self, seen, sinks, stream, limit)
  local pause = PAUSE
  while true do
    if seen and take(self, seen, sinks, stream) then return seen end
    local left = limit - task.now()
    if not self.ended and left <= 0 then return nil end
    local much = seen and #seen.stdout + #seen.stderr >= MUCH
    if seen and not self.ended and stream and not much then
      task.sleep(math.min(pause, math.max(left, 0)))
      pause = math.min(pause * 1.5, MAX_PAUSE)
    end
    local err
    seen, err = next_look(self, sinks, stream, limit)
    if err then return nil, err end
  end
end

-- What it wrote to the last belongs to the one who listens.
---@async
local function deliver_rest(self, sinks)
  repeat
    local seen = self:look({
      stdout = sinks.stdout:offset(), stderr = sinks.stderr:offset(), stream = true, wait = 0,
    })
    deliver(seen, sinks)
  until seen.stdout == "" and seen.stderr == "" or not wanted(seen, sinks)
end

-- After the time is up: kills, and returns the last look if it had ended after all.
---@async
local function expire(self, sinks, stream, seconds, cause)
  local ok, word = pcall(self.kill, self, GRACE, false)
  if not ok and not spool.may_pass(word) then error(word, 0) end
  if ok and word == "ended" then return follow(self, nil, sinks, stream, math.huge) end
  self.ended = ok and word == "killed"
  if self.ended then pcall(deliver_rest, self, sinks) end
  local outcome = self.ended and "exited" or "unknown"
  error(too_late(self, seconds, outcome, sinks, not ok and word or cause), 0)
end

---@async
local function attempt(client, id, o)
  local place = spool.fresh_place()
  local self <close> = spool.at(client, id, "execute_command", place, o.user)
  if o.put_input then
    place.input = place.lock .. ".in"
    self:upload(o.put_input, place.input)
  end
  local stream = o.on_stdout ~= nil or o.on_stderr ~= nil
  local sinks = {
    stdout = new_sink(o.on_stdout, o.on_stdout and 0 or o.max_output),
    stderr = new_sink(o.on_stderr, o.on_stderr and 0 or o.max_output),
    idle = 0, -- looks in a row that brought nothing of what there is
  }
  local limit = task.now() + o.limit
  self.limit = limit
  if o.on_start then o.on_start({ signal = function(_, value) return self:signal(value) end }) end
  local first, cause = self:start({
    command = o.command, env = o.env, working_dir = o.working_dir, deadline = o.limit + WATCH,
  }, { stream = stream, wait = math.max(0, math.min(WAIT, o.limit)) })
  if first == false then return nil, cause, self end
  local seen, err = follow(self, first, sinks, stream, limit)
  seen = seen or expire(self, sinks, stream, o.limit, err)
  if seen.state == "late" then error(too_late(self, o.limit, "exited", sinks), 0) end
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
---  on_stderr?, on_start?, max_output, put_input? (async fun(path), which may be called again)
---@return sbx.sandbox.Result
function spool_run.command(client, id, o)
  for n = 1, STARTS do
    local result, cause, self = attempt(client, id, o)
    if result then return result end
    -- A source of input that is used up cannot be sent again.
    if n == STARTS or o.input_once then self:not_started(cause) end
  end
end

return spool_run
