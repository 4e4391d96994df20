-- What the server can have done inside a sandbox: commands, files, connections.
-- The other end is `runtime/agent.c`.

local check = require("sbx.check")
local connection = require("sbx.server.connection")
local errors = require("sbx.errors")
local fields = require("sbx.server.fields")
local link = require("sbx.server.link")
local net = require("sbx.net")
local session = require("sbx.server.session")
local task = require("sbx.task")

local pack, unpack = string.pack, string.unpack

---@class sbx.server.agent
local agent = {}

---@class sbx.server.Agent
---@field closed boolean   true once the socket has ended
---@field reason? string   why
---@field environment? table<string, string>  what every command has, unless its own says else
---@field holds boolean    it keeps programs with a note for the next connection
---@field private link sbx.server.Link
local Agent = {}
Agent.__index = Agent

local HELLO_SECONDS = 60
local MAX_OUTPUT = 10 * 1024 * 1024
-- How long after a command's time the agent may take to end it. It gives up on
-- what cannot be killed after 5 s.
local KILL_SECONDS = 20

-- What the agent says of a command's end, as bits.
local OUT_TRUNCATED, ERR_TRUNCATED, TIMED_OUT = 1, 2, 4

local FILE_TYPES = { [0] = "other", "file", "directory" }

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

local function exec_payload(opts, base)
  local milliseconds = 0
  if opts.timeout then
    check.number(opts.timeout, "timeout", 0, 4e6)
    milliseconds = math.max(1, math.ceil(opts.timeout * 1000))
  end
  check.integer(opts.max_output, "max_output", 0)
  -- One user is all that such a sandbox has: another id is not mapped into it.
  if opts.user and opts.user ~= "root" and opts.user ~= "0" and opts.user ~= "" then
    fields.refuse("EINVAL", "user: only root exists in this sandbox")
  end
  return pack(">I4I8", milliseconds, opts.max_output)
    .. fields.cwd(opts.cwd)
    .. fields.command(opts.command)
    .. fields.environment(fields.merge(base, opts.env))
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
  if not exit then self.link:fail("exec") end
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
  local text = fields.path(path)

  local call <close> = self.link:call("write " .. path, {})
  call:send(link.PUT, pack(">I4", opts.mode) .. text)
  while not call.over do
    local bytes = source()
    if bytes == nil or not call:send_data(bytes) then break end
  end
  if not call.over then call:send(link.EOF) end
  call:await("an upload")
  if not call.moved then self.link:fail("put") end
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
  local text = fields.path(path)

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
  if not total then self.link:fail("get") end
  return size, total
end

---Looks at a file, through links. `type` is "file", "directory" or "other".
---@async
---@param path string
---@return {type: string, size: integer, mode: integer, mtime: number}
function Agent:stat(path)
  local text = fields.path(path)
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
  if not result then self.link:fail("stat") end
  return result
end

-- ----------------------------------------------- connections and live programs

---Connects to a port on the sandbox's loopback, IPv4 first. Raises `connect`
---errors such as ECONNREFUSED.
---@async
---@param port integer
---@return sbx.server.Connection
function Agent:dial(port)
  return connection.open(self.link, port)
end

---Starts a program that lives on beside the calls. Raises `io` errors when it cannot
---be started.
---@async
---@param options sbx.server.StartOptions
---@return sbx.server.Session
function Agent:start(options)
  return session.start(self.link, options, self.environment)
end

---The programs with a note that an earlier connection has left.
---@async
---@return sbx.server.HeldProgram[]
function Agent:held()
  return self.holds and session.held(self.link) or {}
end

---Takes up one of those. Raises `io` ESRCH when there is no such program.
---@async
---@param one sbx.server.HeldProgram
---@return sbx.server.Session
function Agent:attach(one)
  return session.attach(self.link, one)
end

-- ------------------------------------------------------------------- the end

---Tells the agent to end, and with it everything inside: also one that listens,
---which `close` only takes leave of. Its socket ends when it has. Never waits.
function Agent:shutdown()
  self.link:send(link.SHUTDOWN, 0, "")
end

---Ends the connection, and by that everything inside; but an agent that listens
---goes on, commands under way with it, until another connection comes. Never
---waits; harmless when it has ended.
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
  self.holds = false
  local call = self.link:call("wait for the agent", {
    [link.HELLO] = function(call, frame)
      version = unpack(">I4", frame)
      -- Sandboxes that are kept have the agents of earlier days.
      if #frame >= 12 then self.holds = unpack(">I4", frame, 9) & link.FEATURE_HELD ~= 0 end
      call:finish()
    end,
  })
  local ok, failure = pcall(task.timeout, HELLO_SECONDS, call.await, call, "a sandbox's agent")
  if ok and version == link.VERSION then return self end
  self:close()
  if not ok then error(failure, 0) end
  errors.raise { kind = "not_running", message = "the sandbox's agent is of another version" }
end

---Takes up an agent again that listens at `path`, as `attach` does. The connection
---that it had before, if any, ends. Raises `connect` errors when nobody listens.
---@async
---@param path string
---@param on_end? fun(reason: string)
---@return sbx.server.Agent
function agent.connect(path, on_end)
  return agent.attach(net.connect_unix(path), on_end)
end

return agent
