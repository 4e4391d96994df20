-- A virtual machine's command session for tests: the Connect protocol over HTTP, and
-- real processes of this machine behind it. Loaded with dofile by the tests.
--
--   local vm <close> = rpc.start({
--     SendSignal = function(call) call:fail("internal", "broken") return true end,
--   })
--   local server <close> = api.start({ auth = vm:auth() })
--
-- A handler gets the call before the server does: method, message, n (how often this
-- method came), headers, request. One that returns true has answered it.

local http_server = require("sbx.core.server")
local json = require("sbx.json")
local channel = require("sbx.channel")
local errors = require("sbx.errors")
local messages = require("sbx.sandbox.rpc.messages")
local process = require("sbx.process")
local protobuf = require("sbx.sandbox.rpc.protobuf")
local task = require("sbx.task")
local time = require("sbx.core.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local rpc = { PREFIX = "/ns/job/command_session.CommandSession/" }

local MAX_REQUEST = 64 * 1024 * 1024

-- -------------------------------------------------------------------- framing

---A frame of a stream.
---@param flags integer  1: compressed, 2: the last
function rpc.frame(flags, payload)
  return string.pack(">Bs4", flags, payload)
end

---The frame of an event, such as `{ start = { pid = 1 } }`.
function rpc.event(event)
  return rpc.frame(0, protobuf.encode(messages.StartResponse, { event = event }))
end

---The last frame of a stream: well, or with an error.
function rpc.last(code, message)
  return rpc.frame(2, code and json.encode({ error = { code = code, message = message } }) or "{}")
end

---An event of how a process ended.
function rpc.ended(code)
  return rpc.event({
    ["end"] = { exit_code = code, exited = code >= 0, status = "exit status " .. code },
  })
end

-- ------------------------------------------------------------------ processes

local Process = {}
Process.__index = Process

local function environment(envs)
  local result = { PATH = os.getenv("PATH"), LANG = "C.UTF-8" }
  for name, value in pairs(envs or {}) do
    result[name] = value
  end
  return result
end

local function spawn(message)
  local command, pty = message.command, message.pty
  local argv = { command.cmd, table.unpack(command.args or {}) }
  if pty then
    argv = {
      "python3", here .. "rpc_pty.py", tostring(pty.size.cols), tostring(pty.size.rows),
      table.unpack(argv),
    }
  end
  return process.spawn(argv, {
    stdin = (pty or message.stdin) and "pipe" or "null", stdout = "pipe", stderr = "pipe",
    fds = pty and { [3] = "socket" } or nil, clear_env = true, grace = 0,
    env = environment(command.envs), cwd = command.cwd,
  })
end

local function tell(self, event)
  for subscriber in pairs(self.subscribers) do
    -- One that has left is closed.
    pcall(subscriber.send, subscriber, event)
  end
end

local function relay(self, name)
  local stream = self.child[name]
  local as = self.message.pty and "pty" or name
  while true do
    local ok, bytes = pcall(stream.read, stream)
    if not ok or not bytes then return end
    tell(self, { data = { [as] = bytes } })
  end
end

local function follow(self)
  task.scope(function(scope)
    scope:spawn(relay, self, "stdout")
    scope:spawn(relay, self, "stderr")
  end)
  local code, signal = self.child:wait()
  self.over = true
  self.server.processes[self.pid] = nil
  tell(self, {
    ["end"] = {
      exit_code = signal and -1 or code, exited = not signal,
      status = signal and "signal: " .. signal or "exit status " .. code,
    },
  })
end

local function find(server, selector)
  for pid, found in pairs(server.processes) do
    if pid == selector.pid or (selector.tag and found.message.tag == selector.tag) then
      return found
    end
  end
  return nil
end

-- ---------------------------------------------------------------------- calls

local Call = {}
Call.__index = Call

---Answers a stream with these bytes; without `more` that is all.
function Call:write(bytes, more)
  if not self.begun then
    self.begun = true
    self.request:start(200, { ["content-type"] = "application/connect+proto" })
  end
  if bytes ~= "" then self.request:write(bytes) end
  if not more then self.request:finish() end
end

---Refuses: a status with JSON, or the last frame of a stream that has begun.
function Call:fail(code, message, status)
  if self.begun then return self:write(rpc.last(code, message)) end
  self.request:respond(status or 400, { ["content-type"] = "application/json" },
    json.encode({ code = code, message = message }))
end

local function answer(call, schema, message)
  call.request:respond(200, { ["content-type"] = "application/proto" },
    protobuf.encode(schema or messages.Empty, message or {}))
end

-- Sends a process's events until its end, the client's, or the deadline.
local function stream(call, found)
  local events <close> = channel.new(8)
  found.subscribers[events] = true
  if not found.followed then
    found.followed = true
    call.server.started:send(found)
  end
  local seconds = tonumber(call.headers["connect-timeout-ms"]) / 1000
  local deadline = task.now() + seconds
  local ok, err = pcall(function()
    if call.server.on_started and call.server.on_started(found) then return end
    call:write(rpc.event({ start = { pid = found.pid } }), true)
    while true do
      local left = math.max(0, deadline - task.now())
      local keepalive = math.min(left, call.server.keepalive)
      local which, _, event = task.select({ events, keepalive })
      if which == 1 then
        call:write(rpc.event(event), true)
        if event["end"] then return call:write(rpc.last()) end
      elseif left <= call.server.keepalive then
        found.child:kill_group("KILL")
        return call:fail("deadline_exceeded", "the time is up")
      else
        call:write(rpc.event({ keepalive = {} }), true)
      end
    end
  end)
  found.subscribers[events] = nil
  -- A client may leave at any time; its process runs on.
  if not ok and type(err) == "string" then error(err, 0) end
end

local usual = {}

function usual.Start(call, server)
  local made, child = pcall(spawn, call.message)
  if not made then
    call:write("", true)
    return call:fail("internal", tostring(child))
  end
  local found = setmetatable({
    pid = child.pid, child = child, message = call.message, subscribers = {}, server = server,
  }, Process)
  server.processes[found.pid] = found
  server.last_process = found
  stream(call, found)
end

local function with_process(fn)
  return function(call, server)
    local found = find(server, call.message.session or {})
    if not found then return call:fail("not_found", "no such process", 404) end
    return fn(call, found)
  end
end

usual.Connect = with_process(stream)

usual.SendInput = with_process(function(call, found)
  local input = call.message.input
  -- One that has ended may not have been waited for yet.
  local written = pcall(found.child.stdin.write, found.child.stdin, input.stdin or input.pty)
  if not written then return call:fail("not_found", "no such process", 404) end
  answer(call)
end)

usual.SendSignal = with_process(function(call, found)
  found.child:kill_group(call.message.signal)
  answer(call)
end)

usual.Update = with_process(function(call, found)
  local size = call.message.pty.size
  found.child.fds[3]:write(("%d %d\n"):format(size.cols, size.rows))
  answer(call)
end)

function usual.List(call, server)
  local sessions = {}
  for pid, found in pairs(server.processes) do
    sessions[#sessions + 1] = {
      pid = pid, tag = found.message.tag, command = found.message.command,
    }
  end
  answer(call, messages.ListResponse, { sessions = sessions })
end

local requests = {
  Start = messages.StartRequest, Connect = messages.ConnectRequest,
  SendInput = messages.SendInputRequest, SendSignal = messages.SendSignalRequest,
  Update = messages.UpdateRequest, List = messages.Empty,
}

-- The message of a request. Streams frame theirs.
local function decode(call, bytes)
  if call.headers["content-type"] == "application/connect+proto" then
    local flags, payload = string.unpack(">Bs4", bytes)
    assert(flags == 0 and #payload + 5 == #bytes, "one frame was expected")
    bytes = payload
  end
  return protobuf.decode(requests[call.method], bytes)
end

-- -------------------------------------------------------------------- serving

local Server = {}
Server.__index = Server

local function serve_one(server, request)
  local method = request.path:match("/command_session%.CommandSession/(%a+)$")
  if not method or not requests[method] then return request:respond(404, {}, "no such call") end
  server.counts[method] = (server.counts[method] or 0) + 1
  local call = setmetatable({
    method = method, n = server.counts[method], headers = request.headers,
    request = request, server = server, token = request.headers.authorization,
  }, Call)
  local bytes = request:read_all(MAX_REQUEST)
  call.message = decode(call, bytes)
  server.calls[#server.calls + 1] = call
  local handler = server.handlers[method]
  if handler and handler(call, server) then return end
  usual[method](call, server)
end

local function accept_all(server)
  while true do
    local ok, request = pcall(server.listener.accept, server.listener)
    if not ok or not request then return end
    task.daemon(function()
      local done, err = pcall(serve_one, server, request)
      if done then return end
      request:close() -- now, not when it is collected
      if not errors.is_error(err) then error(err, 0) end
    end)
  end
end

---Starts a server in the current scope. Closing it ends its processes.
---@async
---@param handlers? table<string, fun(call: table, server: table): boolean|nil>
---@param options? { keepalive?: number }  seconds between keepalives (default 1000)
function rpc.start(handlers, options)
  local server = setmetatable({
    handlers = handlers or {}, counts = {}, calls = {}, processes = {},
    keepalive = options and options.keepalive or 1000,
  }, Server)
  server.listener = http_server.listen({ host = "127.0.0.1", port = 0 })
  server.url = "http://127.0.0.1:" .. server.listener.port
  task.daemon(accept_all, server)
  -- Processes outlive the calls that start them.
  server.started = channel.new(1000)
  task.daemon(function()
    for _, found in server.started:items() do
      task.daemon(follow, found)
    end
  end)
  return server
end

---How many calls of this method came.
function Server:count(method)
  return self.counts[method] or 0
end

---An `auth` handler for peers/api.lua that sends clients here.
---@param is_vm? boolean  what the answer says about it (default true; "silent": nothing)
function Server:auth(is_vm)
  return rpc.auth(self.url, is_vm)
end

---The same for any address.
function rpc.auth(url, is_vm)
  if is_vm == nil then is_vm = true end
  return function(_, server)
    server.tokens = server.tokens + 1
    return 200, {
      token = "gateway-token-" .. server.tokens, gateway_url = url, user_ns = "ns",
      job_id = "job", expires_at = time.iso(time.wall() + 600),
      is_vm = type(is_vm) == "boolean" and is_vm or nil,
    }
  end
end

function Server:__close()
  for _, found in pairs(self.processes) do
    found.child:kill_group("KILL")
  end
  self.started:close()
  self.listener:close()
end

return rpc
