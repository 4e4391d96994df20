-- What the server can have done inside a sandbox: commands, files, connections.
-- The other end is `runtime/agent.c`.

local check = require("sbx.check")
local errors = require("sbx.errors")
local link = require("sbx.server.link")
local task = require("sbx.task")

local pack, unpack = string.pack, string.unpack

---@class sbx.server.agent
local agent = {}

---@class sbx.server.Agent
---@field closed boolean   true once the socket has ended
---@field reason? string   why
---@field environment? table<string, string>  what every command has, unless its own says else
---@field private link sbx.server.Link
local Agent = {}
Agent.__index = Agent

local HELLO_SECONDS = 10
local MAX_PATH = 4095
local MAX_OUTPUT = 10 * 1024 * 1024
local MAX_COMMAND = 512 * 1024
local MAX_ENVIRONMENT = 256 * 1024
-- How long after a command's time the agent may take to end it. It gives up on
-- what cannot be killed after 5 s.
local KILL_SECONDS = 20

-- What the agent says of a command's end, as bits.
local OUT_TRUNCATED, ERR_TRUNCATED, TIMED_OUT = 1, 2, 4

local FILE_TYPES = { [0] = "other", "file", "directory" }

local function io_error(code, message)
  errors.raise { kind = "io", code = code, message = message }
end

local function path_text(path)
  check.string(path, "path", 3)
  return link.text(path, "path", MAX_PATH, "ENAMETOOLONG")
end

-- The agent answered, but not what was asked.
local function broken(self, what)
  self.link:close("its agent broke the protocol: wrong answer to " .. what)
  errors.raise { kind = "not_running", message = "the sandbox is not running: " .. self.reason }
end

-- ------------------------------------------------------------------ commands

-- Keeps what a command writes to one of its two outputs.
local function collector(parts, limit)
  local size = 0
  return function(call, payload)
    call:arrived(payload)
    size = size + #payload
    if size > limit then error("more output than was asked for", 0) end
    if call.abandoned then return end
    parts[#parts + 1] = payload
    call:allow(#payload)
  end
end

local function environment_text(base, own)
  local entries, size, env = {}, 0, {}
  for name, value in pairs(base or {}) do
    env[name] = value
  end
  for name, value in pairs(own) do
    env[name] = value
  end
  for name, value in pairs(env) do
    if type(name) ~= "string" or type(value) ~= "string" then
      error("env: expected strings for names and values", 4)
    end
    if name == "" or name:find("=", 1, true) then
      io_error("EINVAL", "environment: a name is empty or contains '='")
    end
    local entry = link.text(name .. "=" .. value, "environment", MAX_ENVIRONMENT, "E2BIG")
    size = size + #entry
    if size > MAX_ENVIRONMENT then io_error("E2BIG", "environment: too large") end
    entries[#entries + 1] = entry
  end
  return pack(">I4", #entries) .. table.concat(entries)
end

local function exec_payload(opts, base)
  local milliseconds = 0
  if opts.timeout then
    check.number(opts.timeout, "timeout", 0, 4e6)
    milliseconds = math.max(1, math.ceil(opts.timeout * 1000))
  end
  check.integer(opts.max_output, "max_output", 0)
  check.string(opts.command, "command")
  check.string(opts.cwd, "cwd")
  check.table(opts.env, "env")
  -- One user is all that such a sandbox has: another id is not mapped into it.
  if opts.user and opts.user ~= "root" and opts.user ~= "0" and opts.user ~= "" then
    io_error("EINVAL", "user: only root exists in this sandbox")
  end
  return pack(">I4I8", milliseconds, opts.max_output)
    .. link.text(opts.cwd, "working directory", MAX_PATH, "ENAMETOOLONG")
    .. link.text(opts.command, "command", MAX_COMMAND, "E2BIG")
    .. environment_text(base, opts.env)
end

local function await_exit(self, call, opts)
  if not opts.timeout then
    call:await("a command")
  elseif not task.move_on(opts.timeout + KILL_SECONDS, call.await, call, "a command") then
    self.link:close("its agent does not end a command whose time is over")
    call:await("a command")
  end
end

---@class sbx.server.ExecOptions
---@field command string
---@field cwd? string           default: the image's working directory
---@field env? table<string, string>  put over the sandbox's own
---@field user? string          only "root" exists
---@field timeout? number       seconds until the command's whole tree is killed
---@field max_output? integer   bytes kept of each output (default 10 MiB)

---@class sbx.server.ExecResult
---@field exit_code integer     128 + signal when a signal ended it
---@field stdout string
---@field stderr string
---@field stdout_truncated boolean
---@field stderr_truncated boolean
---@field timed_out boolean

---Runs `command` by `/bin/sh -c` and waits for its end, not for that of what it
---left in the background. Cancelled, it ends the command with all its children.
---Raises `io` errors when it cannot be started, `not_running` when the sandbox
---ends meanwhile.
---@async
---@param options sbx.server.ExecOptions
---@return sbx.server.ExecResult
function Agent:exec(options)
  local opts = check.options(options, {
    command = check.none, cwd = "", env = {}, user = check.none, timeout = check.none,
    max_output = MAX_OUTPUT,
  })
  local payload = exec_payload(opts, self.environment)
  local out, err, exit, flags = {}, {}, nil, 0
  local what = "run a command"
  if opts.cwd ~= "" then what = what .. " in " .. opts.cwd end
  local call <close> = self.link:call(what, {
    [link.OUT] = collector(out, opts.max_output),
    [link.ERR] = collector(err, opts.max_output),
    [link.EXIT] = function(call, frame)
      exit, flags = unpack(">i4B", frame)
      call:finish()
    end,
  })
  call:send(link.EXEC, payload)
  await_exit(self, call, opts)
  if not exit then broken(self, "exec") end
  return {
    exit_code = exit,
    stdout = table.concat(out),
    stderr = table.concat(err),
    stdout_truncated = flags & OUT_TRUNCATED ~= 0,
    stderr_truncated = flags & ERR_TRUNCATED ~= 0,
    timed_out = flags & TIMED_OUT ~= 0,
  }
end

-- --------------------------------------------------------------------- files

---Writes a file from what `source()` gives until it gives nil; it may wait. The
---file appears whole once all of it has arrived, or not at all; directories
---above it are made. Returns its size.
---@async
---@param path string
---@param source async fun(): string|nil
---@param options? {mode?: integer}  mode: default that of the file before, or 0644
---@return integer
function Agent:put(path, source, options)
  local opts = check.options(options, { mode = 0 })
  check.integer(opts.mode, "mode", 0, 4095)
  check.fn(source, "source")
  local text = path_text(path)

  local call <close> = self.link:call("write " .. path, {})
  call:send(link.PUT, pack(">I4", opts.mode) .. text)
  while not call.over do
    local bytes = source()
    if bytes == nil or not call:send_data(bytes) then break end
  end
  if not call.over then call:send(link.EOF) end
  call:await("an upload")
  if not call.moved then broken(self, "put") end
  return call.moved
end

-- Hands the queued pieces to `sink` until the call is over.
local function drain(call, queue, sink)
  local first = 1
  while true do
    local bytes = queue[first]
    if bytes then
      queue[first] = nil
      first = first + 1
      sink(bytes)
      call:allow(#bytes)
    elseif call.over then
      return
    else
      call:pause("a download")
    end
  end
end

---Reads a file, giving its bytes to `sink`, which may wait and by that sets the
---pace. A negative offset counts from the end. Returns the bytes read and the
---size of the whole file (0 for files made up as they are read, as in /proc).
---@async
---@param path string
---@param sink async fun(bytes: string)
---@param options? {offset?: integer, length?: integer}
---@return integer, integer
function Agent:get(path, sink, options)
  local opts = check.options(options, { offset = 0, length = -1 })
  check.integer(opts.offset, "offset")
  check.integer(opts.length, "length")
  check.fn(sink, "sink")
  local text = path_text(path)

  local queue, last, total, size = {}, 0, nil, 0
  local call <close> = self.link:call("read " .. path, {
    [link.OPENED] = function(_, frame)
      total = unpack(">I8", frame)
      if total < 0 then error("a file of impossible size", 0) end
    end,
    [link.DATA] = function(call, bytes)
      call:arrived(bytes)
      last = last + 1
      queue[last] = bytes
      call:wake()
    end,
  })
  call:send(link.GET, pack(">i8i8", opts.offset, opts.length) .. text)
  drain(call, queue, function(bytes)
    size = size + #bytes
    sink(bytes)
  end)
  call:await("a download")
  if not total then broken(self, "get") end
  return size, total
end

---Looks at a file, through links. `type` is "file", "directory" or "other".
---@async
---@param path string
---@return {type: string, size: integer, mode: integer, mtime: number}
function Agent:stat(path)
  local text = path_text(path)
  local result
  local call <close> = self.link:call("look at " .. path, {
    [link.STATED] = function(call, frame)
      local type, mode, size, mtime = unpack(">BI4I8i8", frame)
      if size < 0 then error("a file of impossible size", 0) end
      result = { type = FILE_TYPES[type] or "other", size = size, mode = mode }
      result.mtime = mtime / 1e9
      call:finish()
    end,
  })
  call:send(link.STAT, text)
  call:await("a look at a file")
  if not result then broken(self, "stat") end
  return result
end

-- --------------------------------------------------------------- connections

-- What has arrived on a connection. Apart from it, so that a connection that
-- nobody holds any more is collected and closed.
---@class sbx.server.Inbox
---@field pieces string[]   [first, last] are there
---@field first integer
---@field last integer
---@field opened boolean
---@field eof boolean       the peer sends no more

---A connection to a server inside the sandbox. A `<close>` value; one task may
---read while another writes.
---@class sbx.server.Connection
---@field private call sbx.server.Call
---@field private inbox sbx.server.Inbox
---@field private shut boolean   we send no more
local Connection = {}
Connection.__index = Connection

local function take(inbox, max)
  local bytes = inbox.pieces[inbox.first]
  if max and #bytes > max then
    inbox.pieces[inbox.first] = bytes:sub(max + 1)
    return bytes:sub(1, max)
  end
  inbox.pieces[inbox.first] = nil
  inbox.first = inbox.first + 1
  return bytes
end

---What has arrived, 1 to `max` bytes, or nil at the end.
---@async
---@param max? integer
---@return string|nil
function Connection:read(max)
  if max then check.integer(max, "max", 1) end
  local call, inbox = self.call, self.inbox
  while inbox.first > inbox.last do
    if inbox.eof or call.abandoned then return nil end
    if call.failure then error(call.failure, 0) end
    if call.over then return nil end
    call:pause("data from a sandbox")
  end
  local bytes = take(inbox, max)
  call:allow(#bytes)
  return bytes
end

---Sends all of `bytes`; waits while the server inside is slow to take them.
---@async
---@param bytes string
function Connection:write(bytes)
  check.string(bytes, "bytes")
  if self.shut then io_error("EPIPE", "write: after the end") end
  if self.call:send_data(bytes) then return end
  if self.call.failure then error(self.call.failure, 0) end
  io_error("EPIPE", "write: the connection is closed")
end

---Says that no more will be written. Never waits.
function Connection:shutdown()
  if self.shut or self.call.over or self.call.abandoned then return end
  self.shut = true
  self.call:send(link.EOF)
end

---Closes the connection in both directions. Never waits.
function Connection:close()
  self.call:abandon()
end

Connection.__close = Connection.close
Connection.__gc = Connection.close

local function inbox_handlers(inbox)
  return {
    [link.OPENED] = function(call)
      inbox.opened = true
      call:wake()
    end,
    [link.DATA] = function(call, bytes)
      call:arrived(bytes)
      if call.abandoned then return end
      inbox.last = inbox.last + 1
      inbox.pieces[inbox.last] = bytes
      call:wake()
    end,
    [link.EOF] = function(call)
      inbox.eof = true
      call:wake()
    end,
  }
end

---Connects to a port on the sandbox's loopback, IPv4 first. Raises `connect`
---errors such as ECONNREFUSED.
---@async
---@param port integer
---@return sbx.server.Connection
function Agent:dial(port)
  check.integer(port, "port", 1, 65535)
  local inbox = { pieces = {}, first = 1, last = 0, opened = false, eof = false }
  local call = self.link:call("connect to port " .. port, inbox_handlers(inbox))
  local connection = setmetatable({ call = call, inbox = inbox, shut = false }, Connection)
  call:send(link.DIAL, pack(">I2", port))

  local ok, failure = pcall(function()
    while not inbox.opened and not call.over do
      call:pause("a connection into a sandbox")
    end
    if inbox.opened then return end
    if not call.failure then broken(self, "dial") end
    if call.failure.kind == "io" then call.failure.kind = "connect" end
    error(call.failure, 0)
  end)
  if ok then return connection end
  connection:close()
  error(failure, 0)
end

-- ------------------------------------------------------------------- the end

---Ends everything inside. Never waits; harmless when it has ended.
function Agent:close()
  self.link:close("it was closed")
end

---Speaks to the agent at the other end of `stream`, which it owns from here on;
---waits for its greeting. It lives in the current task or scope and ends with it.
---@async
---@param stream table
---@param on_end? fun(reason: string)  called once when the link ends; must not wait
---@return sbx.server.Agent
function agent.attach(stream, on_end)
  local self = setmetatable({ closed = false }, Agent)
  self.link = link.open(stream, function(reason)
    self.closed, self.reason = true, reason
    if on_end then on_end(reason) end
  end)

  local version
  local call = self.link:call("wait for the agent", {
    [link.HELLO] = function(call, frame)
      version = unpack(">I4", frame)
      call:finish()
    end,
  })
  local ok, failure = pcall(task.timeout, HELLO_SECONDS, call.await, call, "a sandbox's agent")
  if ok and version == link.VERSION then return self end
  self:close()
  if not ok then error(failure, 0) end
  errors.raise { kind = "not_running", message = "the sandbox's agent is of another version" }
end

return agent
