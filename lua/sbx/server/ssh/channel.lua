-- One channel of an SSH connection: a program that runs in the sandbox, or a connection to
-- a port in there. Bytes go both ways no faster than the other end takes them.

local access = require("sbx.server.access")
local errors = require("sbx.errors")
local link = require("sbx.server.ssh.link")
local sandbox = require("sbx.server.sandbox")
local signal = require("sbx.signal")
local start_failure = require("sbx.server.start_failure")
local task = require("sbx.task")

local pack, unpack = string.pack, string.unpack

local channel = {}

-- How long a program may take to end after the hang-up.
local HANG_UP_SECONDS = 2
local HANG_UP = 1
local FAILED, NOT_FOUND = 255, 127
local SHELL, COMMAND, SFTP, TERMINAL = 0, 1, 2, 16

-- bash where there is one; a login shell finds /etc/profile either way.
local LOGIN = "[ -x /bin/bash ] && exec /bin/bash -l; exec /bin/sh -l"
local FILES = [[for at in /usr/lib/openssh /usr/lib/ssh /usr/libexec/openssh /usr/libexec; do
[ -x "$at/sftp-server" ] && exec "$at/sftp-server"; done
echo "this sandbox has no sftp-server; scp -O does without, and so does: ssh … cat" >&2; exit 127]]

local SIGNALS = {}
for _, name in ipairs { "ABRT", "ALRM", "HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2" } do
  SIGNALS[name] = signal.number(name)
end

---@class sbx.server.ssh.Channel
---@field private link sbx.server.ssh.Link
---@field private number integer
---@field private record sbx.server.Sandbox
---@field private scope sbx.Scope   of the server: what is hung up may outlive its connection
---@field private input string[]
---@field private waiting integer   bytes of them
---@field private input_ended boolean
---@field private room integer      bytes of output that may be sent
---@field private program? sbx.server.Session
local Channel = {}
Channel.__index = Channel

---@param to sbx.server.ssh.Link
---@param number integer
---@param record sbx.server.Sandbox
---@param scope sbx.Scope
---@return sbx.server.ssh.Channel
function channel.new(to, number, record, scope)
  return setmetatable({
    link = to, number = number, record = record, scope = scope,
    input = {}, waiting = 0, input_ended = false, room = link.WINDOW,
  }, Channel)
end

-- ------------------------------------------------------------ what has arrived

local function wake(self, which)
  if self[which] then self[which]:wake() end
end

local function pause(self, which, what)
  self[which] = task.waiter(what)
  self[which]:wait()
  self[which] = nil
end

---Takes a frame of the peer. Never waits.
---@param type string
---@param bytes string
function Channel:receive(type, bytes)
  if type == "I" then
    self.waiting = self.waiting + #bytes
    if self.waiting > link.WINDOW then error("more SSH input than was asked for", 0) end
    table.insert(self.input, bytes)
    wake(self, "has_input")
  elseif type == "E" then
    self.input_ended = true
    wake(self, "has_input")
  elseif type == "W" then
    self.room = self.room + unpack(">I4", bytes)
    if self.room > link.WINDOW then error("more SSH output taken than was sent", 0) end
    wake(self, "has_room")
  elseif type == "R" and self.program then
    self.program:resize(unpack(">I2I2", bytes))
  elseif type == "K" and self.program and SIGNALS[bytes] then
    self.program:kill(SIGNALS[bytes])
  end
end

-- ------------------------------------------------------------------- both ways

-- What can no longer be written is thrown away, and the peer goes on.
local function pump_input(self, write, finish)
  while true do
    local bytes = table.remove(self.input, 1)
    if bytes then
      if write and not pcall(write, bytes) then
        task.checkpoint()
        write = nil
      end
      self.waiting = self.waiting - #bytes
      self.link:credit(self.number, #bytes)
    elseif self.input_ended then
      if write then finish() end
      return
    else
      pause(self, "has_input", "input from an SSH peer")
    end
  end
end

local function send(self, type, bytes)
  local at = 1
  while at <= #bytes do
    while self.room == 0 do
      pause(self, "has_room", "an SSH peer to take output")
    end
    local size = math.min(#bytes - at + 1, self.room, link.PIECE)
    self.room = self.room - size
    self.link:send(type, self.number, bytes:sub(at, at + size - 1))
    at = at + size
  end
end

local function exit(self, code)
  self.link:send("x", self.number, pack(">I4", code & 0xffffffff))
end

-- ------------------------------------------------------------------- programs

-- Ends what the peer has left running: as a terminal's hang-up does, and then for good.
local function hang_up(self)
  local program = self.program
  if program.exit_code then return end
  program:kill(HANG_UP)
  self.scope:pspawn(function()
    local _ <close> = program
    task.sleep(HANG_UP_SECONDS)
  end)
end

local function carry(self)
  local program = self.program
  local _ <close> = setmetatable({}, { __close = function() hang_up(self) end })
  local scope <close> = task.open_scope()
  scope:daemon(pump_input, self, function(bytes) program:write(bytes) end, function()
    program:close_stdin()
  end)
  for from, bytes in function() return program:read() end do
    send(self, from == "stderr" and "e" or "o", bytes)
  end
end

-- What does not even start says so as a shell would.
local function run(self, options)
  local agent = self.record.box.agent
  local ok, result = pcall(agent.start, agent, options)
  if not ok then
    task.checkpoint()
    if not errors.is_error(result) then error(result, 0) end
    local why = start_failure.explain(agent, result, "/bin/sh", self.record.spec.docker_image)
    send(self, "e", (why or tostring(result)) .. "\n")
    return exit(self, NOT_FOUND)
  end
  self.program = result
  ok, result = pcall(carry, self)
  task.checkpoint()
  if not ok then
    send(self, "e", "the sandbox has ended: " .. tostring(result) .. "\n")
  end
  exit(self, self.program.exit_code or FAILED)
end

-- The frame is that of `start` in runtime/ssh_channel.c.
local function wanted(record, bytes)
  local kind, cols, rows, term, command, at = unpack(">BI2I2zz", bytes)
  local variables = {}
  while at <= #bytes do
    local text
    text, at = unpack("z", bytes, at)
    local name, value = text:match("^([%a_][%w_]*)=(.*)$")
    if name then variables[name] = value end
  end
  local on_terminal = kind & TERMINAL ~= 0
  if on_terminal and term ~= "" then variables.TERM = term end
  local lines = { [SHELL] = LOGIN, [COMMAND] = command, [SFTP] = FILES }
  if not lines[kind & ~TERMINAL] then error("no SSH request of kind " .. kind, 0) end
  return {
    argv = { "/bin/sh", "-c", lines[kind & ~TERMINAL] },
    cwd = sandbox.MOUNT_PATH,
    env = record:environment(variables),
    stdin = true,
    pty = on_terminal and { cols = cols, rows = rows } or nil,
  }
end

---Runs what the frame `bytes` asks for to its end. Cancelled, it ends that.
---@async
---@param bytes string
function Channel:run(bytes)
  access.using(self.record, run, self, wanted(self.record, bytes))
end

-- ----------------------------------------------------------------- connections

local function relay(self, port)
  local ok, inside = pcall(function() return self.record.box.agent:dial(port) end)
  if not ok then
    task.checkpoint()
    return exit(self, FAILED)
  end
  local _ <close> = setmetatable({}, { __close = function() inside:close() end })
  pcall(function()
    local scope <close> = task.open_scope()
    scope:spawn(pump_input, self, function(bytes) inside:write(bytes) end, function()
      inside:shutdown()
    end)
    for bytes in function() return inside:read(link.PIECE) end do
      send(self, "o", bytes)
    end
    self.link:send("f", self.number)
  end)
  task.checkpoint()
  exit(self, 0)
end

---Carries a connection to the port in the frame `bytes` to its end.
---@async
---@param bytes string
function Channel:dial(bytes)
  access.using(self.record, relay, self, (unpack(">I4", bytes)))
end

return channel
