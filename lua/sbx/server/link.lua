-- The frames between the server and the agent inside a sandbox: sends them whole
-- and in order, and deals those that arrive out to the calls they belong to.
--
-- Whatever runs in the sandbox may have taken the agent over, so every byte from
-- it is checked: lengths, known calls, and no more data than was allowed. The
-- first breach ends the sandbox. The numbers are those of agent_protocol.h.

local core_errors = require("sbx.core.errors")
local errors = require("sbx.errors")
local task = require("sbx.task")

local pack, unpack = string.pack, string.unpack

---@class sbx.server.link
local link = {}

link.EXEC, link.PUT, link.GET, link.STAT, link.DIAL, link.KILL = 1, 2, 3, 4, 5, 6
link.SHUTDOWN, link.START, link.RESIZE, link.SIGNAL = 7, 8, 9, 10
link.HELD, link.ATTACH = 11, 12
link.DATA, link.EOF, link.CREDIT = 16, 17, 18
link.HELLO, link.OUT, link.ERR, link.EXIT, link.OPENED = 32, 33, 34, 35, 36
link.STATED, link.DONE, link.FAIL, link.STARTED, link.DEAF = 37, 38, 39, 40, 41
link.HOLDS = 42

link.VERSION = 2
link.FEATURE_HELD = 1
link.FRAME_LIMIT = 1024 * 1024
link.CHUNK = 64 * 1024
link.WINDOW = 256 * 1024
local CREDIT_LIMIT = 16 * link.WINDOW
-- The agent sends no longer frames: output comes in chunks and texts are short.
local RECEIVE_LIMIT = 5 + link.CHUNK
-- Credit goes back in portions of this size, not byte by byte.
local CREDIT_PORTION = link.WINDOW // 4
local MAX_NAME = 4096 + 64

---@class sbx.server.Link
---@field stream table
---@field ended? string   why there is no link any more
---@field calls table<integer, sbx.server.Call>
---@field private last_id integer
---@field private queue string[]  frames that wait for the socket
---@field private writer? table   the waiter of the idle writer
---@field private on_end fun(reason: string)
local Link = {}
Link.__index = Link

---One request to the agent, from its first frame to the one that ends it. A
---`<close>` value: left early, it tells the agent to stop.
---@class sbx.server.Call
---@field id integer
---@field over boolean          the agent has ended it, or the link is gone
---@field failure? sbx.Error    why it failed
---@field moved? integer        bytes, as the agent counted them
---@field window integer        bytes that we may send now
---@field package allowed integer  bytes that the agent may send now
---@field package used integer     bytes taken in but not allowed anew yet
---@field package what string      for errors: "write /tmp/x"
---@field package link sbx.server.Link
---@field package handlers table<integer, fun(call: sbx.server.Call, payload: string)>
---@field package waiters table[]
---@field abandoned boolean     nobody waits for its outcome any more
---@field deaf boolean          the other side takes no more data
local Call = {}
Call.__index = Call

local function gone(reason)
  return errors.new { kind = "not_running", message = "the sandbox is not running: " .. reason }
end

-- Raises inside the reader, which ends the link. Strings are breaches: what the
-- stream raises are error objects.
local function breach(text)
  error(text, 0)
end

-- --------------------------------------------------------------------- calls

-- Lets every task that waits on the call look again.
local function wake(call)
  local waiters = call.waiters
  call.waiters = {}
  for _, waiter in ipairs(waiters) do
    waiter:wake()
  end
end

---Ends the call, as the agent does with its last frame for it. For handlers.
---@param failure? sbx.Error
function Call:finish(failure)
  self.over = true
  self.failure = failure
  self.link.calls[self.id] = nil
  wake(self)
end

---Sends a frame of this call.
---@param type integer
---@param payload? string
function Call:send(type, payload)
  self.link:send(type, self.id, payload or "")
end

---Suspends until something has happened to the call; look again afterwards.
---@async
---@param what string
function Call:pause(what)
  local waiter = task.waiter(what)
  self.waiters[#self.waiters + 1] = waiter
  waiter:wait()
end

---Wakes the tasks that wait on the call. For handlers.
function Call:wake()
  wake(self)
end

---Waits until the agent has ended the call; raises its failure.
---@async
---@param what string
function Call:await(what)
  while not self.over do
    self:pause(what)
  end
  if self.failure then error(self.failure, 0) end
end

---Allows the agent to send `count` more bytes: those that were taken in.
---@param count integer
function Call:allow(count)
  self.used = self.used + count
  if self.used < CREDIT_PORTION or self.over then return end
  self.allowed = self.allowed + self.used
  self:send(link.CREDIT, pack(">I4", self.used))
  self.used = 0
end

---Counts bytes that have arrived against what was allowed. For handlers.
---@param payload string
function Call:arrived(payload)
  -- It costs no credit, so that a flood of it would have no end.
  if payload == "" then breach("a frame of no data") end
  self.allowed = self.allowed - #payload
  if self.allowed < 0 then breach("more data than it may send") end
end

-- Whether there is somebody to send data to.
local function heard(call)
  return not (call.over or call.abandoned or call.deaf)
end

---Sends bytes as DATA at the pace that the agent allows. Returns false when the
---call was over, or deaf, first.
---@async
---@param bytes string
---@return boolean
function Call:send_data(bytes)
  local at = 1
  while at <= #bytes do
    while self.window == 0 and heard(self) do
      self:pause("the sandbox to take data")
    end
    if not heard(self) then return false end
    local count = math.min(self.window, link.CHUNK, #bytes - at + 1)
    self.window = self.window - count
    self:send(link.DATA, bytes:sub(at, at + count - 1))
    at = at + count
  end
  return true
end

---Tells the agent to stop, when it has not ended. Never waits.
function Call:abandon()
  if self.over or self.abandoned then return end
  self.abandoned = true
  self:send(link.KILL)
  wake(self)
end

Call.__close = Call.abandon

-- ------------------------------------------------------------------ incoming

-- What any call may be sent.
local common = {
  [link.CREDIT] = function(call, payload)
    call.window = call.window + unpack(">I4", payload)
    if call.window > CREDIT_LIMIT then breach("too much credit") end
    wake(call)
  end,
  [link.DONE] = function(call, payload)
    call.moved = unpack(">I8", payload)
    call:finish()
  end,
  [link.FAIL] = function(call, payload)
    local number = unpack(">I4", payload)
    if #payload > MAX_NAME + 9 or number == 0 or number > 4095 then breach("bad failure") end
    -- The agent's own words may hold anything; what we asked for says as much.
    local code, meaning = core_errors.code_text(-number)
    call:finish(errors.new {
      kind = "io",
      code = code,
      message = call.what .. ": " .. meaning,
    })
  end,
}

local function dispatch(self, type, id, payload)
  local call = self.calls[id]
  if not call then breach("an answer that nobody waits for") end
  local handler = call.handlers[type] or common[type]
  if not handler then breach("unexpected frame " .. type) end
  handler(call, payload)
end

-- Reads until the end; returns the reason for it.
local function read_frames(self)
  local buffer, at = "", 1
  while true do
    local bytes = self.stream:read(link.CHUNK)
    if not bytes then return "it has ended" end
    buffer = at > #buffer and bytes or buffer:sub(at) .. bytes
    at = 1
    while #buffer - at >= 3 do
      local length = unpack(">I4", buffer, at)
      if length < 5 or length > RECEIVE_LIMIT then breach("bad frame length") end
      if #buffer - at + 1 < 4 + length then break end
      local type, id = unpack(">BI4", buffer, at + 4)
      dispatch(self, type, id, buffer:sub(at + 9, at + 3 + length))
      at = at + 4 + length
    end
  end
end

local function is_cancel(failure)
  return errors.is_error(failure) and failure.kind == "cancelled"
end

-- A daemon's failure would end its scope, and one sandbox is not the others'
-- concern: it becomes the reason why the link ended.
local function run_reader(self)
  local ok, outcome = pcall(read_frames, self)
  local cancelled = not ok and is_cancel(outcome)
  local reason = cancelled and "its server has ended" or tostring(outcome)
  if not ok and not errors.is_error(outcome) then
    reason = "its agent broke the protocol: " .. reason
  end
  self:close(reason)
  if cancelled then error(outcome, 0) end
end

-- ------------------------------------------------------------------ outgoing

local function write_frames(self)
  while not self.ended do
    if #self.queue == 0 then
      self.writer = task.waiter("frames for a sandbox")
      self.writer:wait()
    else
      local bytes = table.concat(self.queue)
      self.queue = {}
      self.stream:write(bytes)
    end
  end
end

-- All writing happens here, so that a task that is cancelled while it waits
-- never leaves half a frame behind.
local function run_writer(self)
  local ok, failure = pcall(write_frames, self)
  if ok then return end
  local cancelled = is_cancel(failure)
  self:close(cancelled and "its server has ended" or tostring(failure))
  if cancelled then error(failure, 0) end
end

---Queues a frame. Never waits; frames for an ended link are dropped.
---@param type integer
---@param id integer
---@param payload string
function Link:send(type, id, payload)
  if self.ended then return end
  self.queue[#self.queue + 1] = pack(">I4BI4", #payload + 5, type, id) .. payload
  local writer = self.writer
  self.writer = nil
  if writer then writer:wake() end
end

---Begins a call. Raises `not_running` when the link has ended.
---@param what string  for errors: what is being done to what
---@param handlers table<integer, fun(call: sbx.server.Call, payload: string)>
---@return sbx.server.Call
function Link:call(what, handlers)
  if self.ended then error(gone(self.ended), 0) end
  local id = self.last_id + 1
  self.last_id = id
  local call = setmetatable({
    id = id,
    over = false,
    abandoned = false,
    deaf = false,
    window = link.WINDOW,
    allowed = link.WINDOW,
    used = 0,
    what = what,
    link = self,
    handlers = handlers,
    waiters = {},
  }, Call)
  self.calls[id] = call
  return call
end

---Ends the link, and with it all that runs in the sandbox: open calls fail with
---`not_running`. Never waits; harmless when it has ended.
---@param reason string
function Link:close(reason)
  if self.ended then return end
  self.ended = reason
  self.queue = {}
  self.stream:close()
  local calls = self.calls
  self.calls = {}
  for _, call in pairs(calls) do
    call.over, call.failure = true, gone(reason)
    wake(call)
  end
  if self.writer then self.writer:wake() end
  self.on_end(reason)
end

---Ends the link since the agent answered, but not what was asked.
---@param what string
function Link:fail(what)
  self:close("its agent broke the protocol: wrong answer to " .. what)
  error(gone(self.ended), 0)
end

---Starts to speak over `stream`, which the link owns from here on. Its two
---tasks are daemons of the current task or scope and end with it.
---@param stream table
---@param on_end fun(reason: string)  called once; must not wait
---@return sbx.server.Link
function link.open(stream, on_end)
  -- Ids start at 0, which is the agent's greeting.
  local self = setmetatable({
    stream = stream, calls = {}, last_id = -1, queue = {}, on_end = on_end,
  }, Link)
  task.daemon(run_reader, self)
  task.daemon(run_writer, self)
  return self
end

return link
