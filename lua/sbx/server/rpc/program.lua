-- A program that was started in a virtual machine: its output goes to all who watch it,
-- its end too, and it is there for whoever names it until then. It does not belong to the
-- connection that it was started by; what nobody watches is thrown away.

local channel = require("sbx.channel")
local connect = require("sbx.server.rpc.connect")
local errors = require("sbx.errors")
local sync = require("sbx.sync")
local task = require("sbx.task")

---@class sbx.server.rpc.Program
---@field pid integer
---@field tag string|nil
---@field command table         as it was asked for
---@field terminal boolean
---@field stdin boolean
---@field uuid string|nil        made up by the client, to find it again
---@field over boolean
---@field item table|nil         how it ended, for who comes late
---@field ended_at number|nil    monotonic seconds
---@field session sbx.server.Session
---@field private watchers table<sbx.Channel, boolean>
---@field private writing sbx.sync.Mutex
---@field private done table<string, sbx.Task>  what was asked for under an id
---@field private done_ids string[]             the oldest first
local Program = {}
Program.__index = Program

local program = {}

local HELD = 8 -- events that wait for one watcher
local MAX_WATCHERS = 16
-- One of several that takes nothing for so long is sent away: the others are held up.
local PATIENCE = 30
local PIECE = 64 * 1024 -- bytes of output in one event
local KILL_SECONDS = 5
local MAX_REMEMBERED = 1024 -- ids of requests that may be sent again
local KILLED = 137 -- by signal 9, also one that a shell tells of

local SIGNALS = {
  [1] = "hangup", [2] = "interrupt", [3] = "quit", [4] = "illegal instruction", [6] = "aborted",
  [8] = "floating point exception", [9] = "killed", [11] = "segmentation fault",
  [13] = "broken pipe", [14] = "alarm clock", [15] = "terminated",
}

local function is_cancelled(failure)
  return errors.is_error(failure) and failure.kind == "cancelled"
end

-- ------------------------------------------------------------------------ watchers

---A channel of what happens from now on: `event` is one of the wire, `failure` the end
---of all. To be given back.
---@return sbx.Channel
function Program:watch()
  local count = 0
  for _ in pairs(self.watchers) do
    count = count + 1
  end
  if count >= MAX_WATCHERS then
    connect.fail("resource_exhausted", ("process %d: %d connections follow it already"):format(
      self.pid, count))
  end
  local watcher = channel.new(HELD, "a process's events")
  self.watchers[watcher] = true
  return watcher
end

---@param watcher sbx.Channel
function Program:unwatch(watcher)
  self.watchers[watcher] = nil
  watcher:close() -- a send that waits for it goes on
end

-- Waits for a watcher to take it: so a program is as slow as who reads it.
---@async
local function give(self, watcher, item)
  local is_alone = next(self.watchers, next(self.watchers)) == nil
  local seconds = is_alone and 1e9 or PATIENCE
  local ok, in_time = pcall(task.move_on, seconds, watcher.send, watcher, item)
  if not ok and is_cancelled(in_time) then error(in_time, 0) end
  if ok and in_time then return end
  self.watchers[watcher] = nil
  if ok then
    watcher:close(errors.new { kind = "rpc", code = "resource_exhausted", status = 429,
      message = "nothing was read for too long, while others wait" })
  end
end

---@async
local function tell(self, item)
  local all = {}
  for watcher in pairs(self.watchers) do
    all[#all + 1] = watcher
  end
  for _, watcher in ipairs(all) do
    give(self, watcher, item)
  end
end

-- ---------------------------------------------------------------------- its course

-- Every byte that it writes, to its end.
---@async
local function relay(self)
  while true do
    local name, bytes = self.session:read()
    if not name then return end
    for at = 1, #bytes, PIECE do
      local piece = #bytes <= PIECE and bytes or bytes:sub(at, at + PIECE - 1)
      if next(self.watchers) then tell(self, { event = { data = { [name] = piece } } }) end
    end
  end
end

local function end_event(session)
  local signal = session.signal
  if signal then
    local name = SIGNALS[signal] or tostring(signal)
    return { exit_code = -1, exited = false, status = "signal: " .. name }
  end
  local code = session.exit_code or 0
  return { exit_code = code, exited = true, status = "exit status " .. code }
end

-- Ends it with all that it has started; returns when that is known to have happened.
---@async
local function end_tree(session)
  session:close()
  task.move_on(KILL_SECONDS, function()
    while session.exit_code == nil do
      task.sleep(0.005)
    end
  end)
end

local function failure_of(code, message, status)
  return errors.new { kind = "rpc", code = code, message = message, status = status }
end

-- How it ended: an item for those who watch it.
---@async
local function outcome(self, seconds, options)
  local in_time = true
  local ok, failure = pcall(function()
    if not seconds then return relay(self) end
    in_time = task.move_on(seconds, relay, self)
  end)
  if not ok then
    if is_cancelled(failure) or not errors.is_error(failure) then error(failure, 0) end
    return { failure = options.lost(failure) }
  elseif not in_time then
    end_tree(self.session)
    return { failure = failure_of("deadline_exceeded", ("process %d: its time of %g s is up")
      :format(self.pid, seconds), 504) }
  end
  if self.session.exit_code == KILLED and options.out_of_memory() then
    return { failure = options.lost() }
  end
  return { event = { ["end"] = end_event(self.session) } }
end

---Follows the program to its end, and tells it. To be run in a task that outlives
---requests.
---@async
---@param seconds number|nil  that it may run; then it is ended with all that it started
---@param options { lost: (async fun(failure?: sbx.Error): sbx.Error), out_of_memory:
---  (async fun(): boolean), on_end: fun(item: table|nil) }
function Program:follow(seconds, options)
  local ok, item = pcall(outcome, self, seconds, options)
  self.over, self.item = true, ok and item or nil
  options.on_end(ok and item or nil)
  if not ok then
    -- The server ends: whoever still listens hears of it.
    for watcher in pairs(self.watchers) do
      watcher:close(failure_of("unavailable", "the server is stopping", 503))
    end
    error(item, 0)
  end
  tell(self, item)
end

-- ------------------------------------------------------------------------- control

local function refuse_input(self, why)
  connect.fail("failed_precondition", ("process %d %s"):format(self.pid, why))
end

---Gives it input, after what others give it now. Raises `rpc`.
---@async
---@param input { stdin?: string, pty?: string }
function Program:write(input)
  local bytes = input.stdin or input.pty
  if not bytes then connect.fail("invalid_argument", "input: has neither stdin nor pty") end
  if input.pty and not self.terminal then refuse_input(self, "has no terminal") end
  if input.stdin and self.terminal then refuse_input(self, "has a terminal: send pty") end
  if input.stdin and not self.stdin then refuse_input(self, "was started without stdin") end
  local _ <close> = self.writing:lock()
  local ok, failure = pcall(self.session.write, self.session, bytes)
  if ok then return end
  if errors.is_error(failure) and failure.code == "EPIPE" then
    if self.over then connect.fail("not_found", ("process %d has ended"):format(self.pid)) end
    refuse_input(self, "reads its input no more")
  end
  error(failure, 0)
end

---Does what a request with an id asks for, once, however often it comes: to its end, also
---when nobody waits for that any more.
---@async
---@param uuid string|nil
---@param scope sbx.Scope  where it is done
---@param fn async fun()
function Program:once(uuid, scope, fn)
  if not uuid or uuid == "" then return fn() end
  local job = self.done[uuid]
  if not job then
    job = scope:pspawn(fn)
    self.done[uuid] = job
    self.done_ids[#self.done_ids + 1] = uuid
    if #self.done_ids > MAX_REMEMBERED then self.done[table.remove(self.done_ids, 1)] = nil end
  end
  job:join()
end

---@param number integer
function Program:signal(number)
  self.session:kill(number)
end

---@param cols integer
---@param rows integer
function Program:resize(cols, rows)
  if not self.terminal then refuse_input(self, "has no terminal") end
  self.session:resize(cols, rows)
end

---@param session sbx.server.Session
---@param options { tag?: string, uuid?: string, command: table, terminal: boolean, stdin: boolean }
---@return sbx.server.rpc.Program
function program.new(session, options)
  return setmetatable({
    session = session,
    pid = session.pid,
    tag = options.tag,
    uuid = options.uuid,
    command = options.command,
    terminal = options.terminal,
    stdin = options.stdin,
    over = false,
    watchers = {},
    writing = sync.mutex("a process's input"),
    done = {},
    done_ids = {},
  }, Program)
end

return program
