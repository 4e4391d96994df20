-- A program inside the sandbox that one talks to while it runs.

local check = require("sbx.check")
local fields = require("sbx.server.fields")
local link = require("sbx.server.link")

local pack, unpack = string.pack, string.unpack

---@class sbx.server.session
local session = {}

-- The same in agent_protocol.h.
local START_INPUT, START_TERMINAL, START_HELD = 1, 2, 4
local MAX_NOTE = 32 * 1024
local MAX_HELD = 256 -- SESSION_LIMIT
local EXIT_SIGNALLED = 16
-- What terminals that know nothing better are taken for.
local TERMINAL_TYPE = "xterm-256color"

-- What has arrived of a program. Apart from its session, so that one that nobody
-- holds any more is collected and its program ended.
---@class sbx.server.SessionInbox
---@field pieces string[]    [first, last] are there
---@field channels string[]  and where each came from
---@field first integer
---@field last integer
---@field pid? integer

---@class sbx.server.Session
---@field private call sbx.server.Call
---@field private inbox sbx.server.SessionInbox
---@field input boolean     it has a standard input that may be written
---@field terminal boolean
---@field private held boolean   it outlives the link; only `close` ends it
local Session = {}
Session.__index = Session

---What it has written since.
---@async
---@return "stdout"|"stderr"|"pty"|nil channel  nil once it has ended and all is read
---@return string|nil bytes
function Session:read()
  local call, inbox = self.call, self.inbox
  while inbox.first > inbox.last do
    if call.abandoned then return nil end
    if call.failure then error(call.failure, 0) end
    if call.over then return nil end
    call:pause("a program's output")
  end
  local at = inbox.first
  local channel, bytes = inbox.channels[at], inbox.pieces[at]
  inbox.channels[at], inbox.pieces[at] = nil, nil
  inbox.first = at + 1
  call:allow(#bytes)
  return channel, bytes
end

---Waits while the program is slow to read. Raises `io` EPIPE when it reads no more.
---@async
---@param bytes string
function Session:write(bytes)
  check.string(bytes, "bytes")
  if self.input and not self.call.over and self.call:send_data(bytes) then return end
  if self.call.failure then error(self.call.failure, 0) end
  fields.refuse("EPIPE", "write: the program reads no more")
end

-- Whether there is a program to be told something.
local function runs(self)
  return not (self.call.over or self.call.abandoned)
end

---Ends its standard input; of a terminal, as Ctrl-D does. Never waits.
function Session:close_stdin()
  if self.input and runs(self) then self.call:send(link.EOF) end
  self.input = false
end

---Sends a signal to its whole process group; nothing once it has ended.
---@param number integer
function Session:kill(number)
  check.integer(number, "number", 1, 64)
  if runs(self) then self.call:send(link.SIGNAL, pack(">B", number)) end
end

---Changes the size of its terminal; nothing without one.
---@param cols integer
---@param rows integer
function Session:resize(cols, rows)
  check.integer(cols, "cols", 0, 65535)
  check.integer(rows, "rows", 0, 65535)
  if self.terminal and runs(self) then self.call:send(link.RESIZE, pack(">I2I2", cols, rows)) end
end

---Ends it with everything that it has started. Never waits; harmless when it has ended.
function Session:close()
  self.call:abandon()
end

Session.__close = Session.close

function Session:__gc()
  -- The next server takes up what is held.
  if not self.held then self:close() end
end

-- `holder` holds the session weakly.
local function handlers(inbox, holder, names)
  local function keep(name)
    return function(call, bytes)
      call:arrived(bytes)
      if call.abandoned then return end
      inbox.last = inbox.last + 1
      inbox.pieces[inbox.last], inbox.channels[inbox.last] = bytes, name
      call:wake()
    end
  end
  return {
    [link.STARTED] = function(call, frame)
      if inbox.pid then error("a program was started twice", 0) end
      inbox.pid = unpack(">I4", frame)
      call:wake()
    end,
    [link.OUT] = keep(names.out),
    [link.ERR] = keep(names.err),
    [link.DEAF] = function(call)
      call.deaf = true
      call:wake()
    end,
    [link.EXIT] = function(call, frame)
      local code, flags = unpack(">i4B", frame)
      local self = holder[1]
      if self then
        self.exit_code = code
        if flags & EXIT_SIGNALLED ~= 0 then self.signal = code - 128 end
      end
      call:finish()
    end,
  }
end

local function await_start(self)
  local call, inbox = self.call, self.inbox
  while not inbox.pid and not call.over do
    call:pause("the start of a program")
  end
  if call.failure then error(call.failure, 0) end
  -- What else runs in the sandbox may end whatever it likes there.
  if not inbox.pid then fields.refuse("ESRCH", "start a program: it was killed at once") end
  self.pid = inbox.pid
end

-- The size of the terminal that is asked for; nil without one.
local function terminal_size(pty)
  if pty == nil then return nil end
  check.table(pty, "pty")
  local cols = check.integer(pty.cols, "pty.cols", 0, 65535)
  return cols, check.integer(pty.rows, "pty.rows", 0, 65535)
end

local function payload_of(opts, base)
  local cols, rows = terminal_size(opts.pty)
  local flags = (opts.stdin and START_INPUT or 0) | (cols and START_TERMINAL or 0)
    | (opts.note and START_HELD or 0)
  local env = fields.merge(base, opts.env)
  if cols and not env.TERM then env.TERM = TERMINAL_TYPE end
  return pack(">BI2I2", flags, cols or 0, rows or 0)
    .. fields.cwd(opts.cwd)
    .. fields.arguments(opts.argv)
    .. fields.environment(env)
    .. (opts.note and fields.text(opts.note, "note", MAX_NOTE, "E2BIG") or "")
end

-- A session of `to` that asks for nothing yet.
local function new(to, what, terminal, input)
  local inbox = { pieces = {}, channels = {}, first = 1, last = 0 }
  local holder = setmetatable({}, { __mode = "v" })
  local names = { out = terminal and "pty" or "stdout", err = "stderr" }
  local call = to:call(what, handlers(inbox, holder, names))
  local self = setmetatable({
    call = call, inbox = inbox, input = input, terminal = terminal, held = false,
  }, Session)
  holder[1] = self
  return self
end

-- Sends what makes it a program's, and waits until that runs.
local function begin(self, type, payload)
  self.call:send(type, payload)
  local ok, failure = pcall(await_start, self)
  if ok then return self end
  -- What was only to be taken up is not ours to end.
  if type == link.START then self:close() end
  error(failure, 0)
end

---Starts a program and waits until it runs.
---@async
---@param to sbx.server.Link
---@param options sbx.server.StartOptions
---@param base? table<string, string>  environment that the options' own is put over
---@return sbx.server.Session
function session.start(to, options, base)
  local opts = check.options(options, {
    argv = check.none, cwd = "", env = {}, stdin = false, pty = check.none, note = check.none,
  })
  local payload = payload_of(opts, base)
  local what = "start " .. opts.argv[1]:sub(1, 200)
  if opts.cwd ~= "" then what = what .. " in " .. opts.cwd end

  local self = new(to, what, opts.pty ~= nil, opts.pty ~= nil or opts.stdin)
  self.held = opts.note ~= nil
  return begin(self, link.START, payload)
end

---@class sbx.server.HeldProgram
---@field key integer
---@field note string       that it was started with; whoever is inside may have changed it
---@field terminal boolean
---@field input boolean

---The programs with a note that an earlier connection has left, in the order of their start.
---@async
---@param to sbx.server.Link
---@return sbx.server.HeldProgram[]
function session.held(to)
  local list = {}
  local call <close> = to:call("look for programs", {
    [link.HOLDS] = function(_, frame)
      local key, _, flags, note = unpack(">I4I4Bs4", frame)
      if #list >= MAX_HELD or #note > MAX_NOTE then error("more programs than there can be", 0) end
      local terminal = flags & START_TERMINAL ~= 0
      list[#list + 1] = {
        key = key, note = note, terminal = terminal, input = terminal or flags & START_INPUT ~= 0,
      }
    end,
  })
  call:send(link.HELD)
  call:await("programs of an earlier server")
  table.sort(list, function(a, b)
    return a.key < b.key
  end)
  return list
end

---Takes up one of them. What it has written meanwhile is lost; where it has ended, that is
---what comes next.
---@async
---@param to sbx.server.Link
---@param one sbx.server.HeldProgram
---@return sbx.server.Session
function session.attach(to, one)
  local self = new(to, "take up a program", one.terminal, one.input)
  self.held = true
  self.call.window = 0 -- until we are told how much it takes
  return begin(self, link.ATTACH, pack(">I4", one.key))
end

return session
