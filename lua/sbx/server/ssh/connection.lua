-- One SSH connection: the peer's bytes go through a program of their own, which speaks the
-- protocol, and what is asked for comes from there as frames.

local access = require("sbx.server.access")
local channel = require("sbx.server.ssh.channel")
local key = require("sbx.server.ssh.key")
local link = require("sbx.server.ssh.link")
local task = require("sbx.task")

local connection = {}

---@class sbx.server.ssh.Connection
---@field task sbx.Task
---@field link sbx.server.ssh.Link
---@field scope sbx.Scope
---@field outer sbx.Scope
---@field channels table<integer, {task: sbx.Task, channel: sbx.server.ssh.Channel}>
---@field tries integer  keys that were shown
---@field session? sbx.server.ssh.Session  once the key has been proved

local function copy(from, to)
  pcall(function()
    for bytes in function() return from:read() end do
      to:write(bytes)
    end
  end)
  task.checkpoint()
  pcall(to.shutdown, to)
end

-- Whether the peer may enter; `sessions` is asked twice, first before the proof.
local function answer(self, sessions, bytes)
  self.tries = self.tries + 1
  if self.session or self.tries > link.TRIES then error("one SSH key too many", 0) end
  local verified, user, blob = bytes:byte() == 1, bytes:match("^.([^\0]*)\0(.*)$")
  local session = user and sessions:find(user, blob)
  if session and verified then
    session = sessions:enter(session, self.task)
    self.session = session
  end
  self.link:send("a", 0, session and "\1" or "\0")
end

local function start(self, number, how, bytes)
  if number >= link.CHANNELS or self.link:is_taken(number) then
    error("an SSH channel that cannot be", 0)
  end
  local record = self.session.record
  local made = channel.new(self.link, number, record, self.outer)
  local entry = { channel = made }
  self.channels[number] = entry
  entry.task = self.scope:pspawn(function()
    if not access.is_running(record) then
      self.link:send("x", number, ("\255"):rep(4))
      return
    end
    made[how](made, bytes)
  end)
end

local function finish(self, number, entry)
  entry.task:cancel("the SSH channel has ended")
  self.channels[number] = nil
  self.link:forget(number)
end

local HOW = { S = "run", D = "dial" }

local function receive_all(self, sessions)
  while true do
    local type, number, bytes = self.link:receive()
    if not type then return end
    local entry = self.channels[number]
    if type == "A" then
      answer(self, sessions, bytes)
    elseif HOW[type] and self.session and not entry then
      start(self, number, HOW[type], bytes)
    elseif type == "C" and entry then
      finish(self, number, entry)
    elseif entry then
      entry.channel:receive(type, bytes)
    end
  end
end

---Carries the connection to its end; closes it when cancelled.
---@async
---@param sessions sbx.server.ssh.Sessions
---@param outside sbx.Stream
---@param host_key string
---@param outer sbx.Scope  the server's
function connection.serve(sessions, outside, host_key, outer)
  local _ <close> = outside
  local child, inside, at = key.program(host_key)
  local _ <close> = child
  local self = { task = task.current(), link = link.new(at), outer = outer, channels = {},
    tries = 0 }
  task.scope(function(scope)
    self.scope = scope
    scope:daemon(copy, outside, inside)
    scope:daemon(pcall, self.link.write_all, self.link)
    scope:daemon(function()
      local ok = pcall(receive_all, self, sessions)
      task.checkpoint()
      if not ok then scope:cancel("the SSH program makes no sense") end
    end)
    -- Last, so that all that the program has written goes out.
    copy(inside, outside)
    scope:cancel("the SSH connection has ended")
  end)
end

return connection
