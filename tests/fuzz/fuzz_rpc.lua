-- Fuzzes the server's side of the command session: whatever headers and bytes a client
-- sends, each request gets one answer of the protocol, never one that says "internal", and
-- nothing is left behind. The programs are made up. How it is run: `seeds.lua`.

local errors = require("sbx.errors")
local json = require("sbx.json")
local messages = require("sbx.sandbox.rpc.messages")
local protobuf = require("sbx.sandbox.rpc.protobuf")
local rpc = require("sbx.server.rpc")
local sandbox = require("sbx.server.sandbox")
local seeds = require("tests.fuzz.seeds")
local task = require("sbx.task")

local damage, generator, pick = seeds.damage, seeds.generator, seeds.pick

local fuzz = {}

local METHODS = { "Start", "Connect", "SendInput", "SendSignal", "StreamInput", "List", "Update" }
local SCHEMAS = { List = "Empty" }
local UUIDS = { "u-1", "u-2", "u-3", "u-4", ("u"):rep(9), "" }
local STRINGS = { "", "a", "/bin/sh", "A=B", "x\0y", ("l"):rep(300), "é", "/tmp" }
local NUMBERS = { 0, 1, 9, 15, 77, 80, 65535, 65536, 0x7fffffff, 0xffffffff }

local PIDS = { 1, 9, 15, 77 }

-- What makes sense of fields that spoil most messages when they do not.
local SENSIBLE = {
  cmd = { "/bin/sh", "/bin/bash" }, args = { "-c", "true" }, envs = { { A = "b" } },
  user = { "root" }, cwd = { "/tmp", "x" }, pid = PIDS, cols = { 80 }, rows = { 24 },
  signal = { 9, 15 }, tag = { "a" },
}

-- ------------------------------------------------------------------- what is asked

local make

local function value_for(random, field)
  local kind = field[3]
  if SENSIBLE[field[2]] and random(1, 10) > 1 then return pick(random, SENSIBLE[field[2]]) end
  if kind == "string" and field[2]:find("uuid", 1, true) then return pick(random, UUIDS) end
  if kind == "string" or kind == "bytes" then return pick(random, STRINGS) end
  if kind == "bool" then return random(0, 1) == 1 end
  if kind == "uint32" or kind == "sint32" then return pick(random, NUMBERS) end
  if kind == "map" then return { [pick(random, STRINGS)] = pick(random, STRINGS) } end
  return make(random, field.schema)
end

-- A message of a schema, with odd values.
function make(random, schema)
  local message, taken = {}, {}
  for _, field in ipairs(schema) do
    local once = field.oneof
    if random(1, 8) > 1 and not (once and taken[once] and random(1, 3) > 1) then
      if once then taken[once] = true end
      local value = value_for(random, field)
      message[field[2]] = field.repeated and { value, value } or value
    end
  end
  return message
end

local function body_of(random, method, is_stream)
  local parts = {}
  local schema = messages[SCHEMAS[method] or method .. "Request"]
  for index = 1, random(1, 10) == 1 and random(0, 4) or method == "StreamInput" and 3 or 1 do
    local bytes = protobuf.encode(schema, make(random, schema))
    if random(1, 12) == 1 then bytes = damage(random, bytes) end
    local flags = random(1, 12) == 1 and random(0, 255) or 0
    parts[index] = is_stream and string.pack(">Bs4", flags, bytes) or bytes
  end
  local body = table.concat(parts)
  if random(1, 12) == 1 then body = damage(random, body) end
  return body
end

local function headers_of(random, is_stream)
  local headers = {
    authorization = "Bearer good",
    ["content-type"] = is_stream and "application/connect+proto" or "application/proto",
    ["connect-protocol-version"] = "1",
    ["connect-timeout-ms"] = tostring(random(1, 60)),
  }
  if random(1, 6) == 1 then
    local name = pick(random, {
      "authorization", "content-type", "connect-protocol-version", "connect-timeout-ms",
      "content-encoding", "connect-content-encoding",
    })
    headers[name] = pick(random, { "", "gzip", "identity", "99999999999", "-1", "0", "\255" })
  end
  return headers
end

-- A request whose body comes in pieces, and whose answer is kept.
local function request_of(random, method)
  local is_stream = method == "Start" or method == "Connect" or method == "StreamInput"
  local body, at = body_of(random, method, is_stream), 1
  local request = { headers = headers_of(random, is_stream), path = "/x", gone = false, out = {} }
  function request.read()
    if at > #body then return nil end
    local piece = body:sub(at, at + random(1, 50))
    at = at + #piece
    return piece
  end
  function request.read_all(_, most)
    if #body > most then errors.raise { kind = "limit", message = "too long" } end
    at = #body + 1
    return body
  end
  function request:respond(status, headers, bytes)
    assert(not self.status, "a second answer")
    self.status, self.answer, self.whole, self.finished = status, headers, bytes, true
  end
  function request:start(status, headers)
    assert(not self.status, "a second answer")
    self.status, self.answer = status, headers
  end
  function request:write(bytes)
    assert(self.status and not self.finished, "a write out of turn")
    if random(1, 200) == 1 then
      self.gone = true
      errors.raise { kind = "http", code = "ECONNRESET", message = "gone" }
    end
    self.out[#self.out + 1] = bytes
  end
  function request:finish()
    self.finished = true
  end
  return request
end

-- ------------------------------------------------------------------- who answers

-- A program that says something odd, now and then, and ends some time.
local function session_of(random)
  local session = { pid = pick(random, PIDS) }
  local left = random(0, 20)
  function session.read()
    left = left - 1
    if session.over then return nil end
    if left < 0 then
      session.exit_code = pick(random, { 0, 1, 137, 255 })
      if random(1, 3) == 1 then session.signal = random(1, 64) end
      return nil
    end
    task.sleep(random(0, 3) / 1000)
    if random(1, 40) == 1 then errors.raise { kind = "not_running", message = "gone" } end
    return pick(random, { "stdout", "stderr", "pty" }), ("o"):rep(random(0, 200))
  end
  function session.write()
    if random(1, 4) == 1 then task.sleep(random(0, 30) / 1000) end
    if random(1, 8) == 1 then errors.raise { kind = "io", code = "EPIPE", message = "deaf" } end
  end
  function session.kill() left = 0 end
  function session.resize(_, cols, rows)
    assert(cols >= 1 and cols <= 65535 and rows >= 1 and rows <= 65535)
  end
  function session.close() session.over, session.exit_code = true, 137 end
  return session
end

local function agent_of(random)
  return {
    start = function(_, options)
      assert(type(options.argv[1]) == "string" and options.cwd:sub(1, 1) == "/")
      if random(1, 8) == 1 then
        errors.raise { kind = "io", code = pick(random, { "ENOENT", "EAGAIN" }), message = "no" }
      end
      if random(1, 4) == 1 then task.sleep(0.002) end
      return session_of(random)
    end,
  }
end

local function server_of(random, scope)
  local record = sandbox.new {
    name = "fuzz", docker_image = "i", labels = {}, vm = true, timeout_minutes = 1,
  }
  record.status, record.box = "RUNNING", { agent = agent_of(random) }
  local server = {
    keepalive = 0.005,
    execs = { began = function() return function() end end },
    tokens = { sandbox_of = function(_, token)
      if token == "good" then return record.id end
      return nil, "bad"
    end },
    fleet = {
      scope = scope,
      store = { get = function(_, id) return id == record.id and record or nil end },
      out_of_memory = function() return random(1, 2) == 1 end,
    },
  }
  return server, record
end

-- ---------------------------------------------------------------------- the rules

local function check_stream(request)
  local bytes, at = table.concat(request.out), 1
  local last
  while at <= #bytes do
    assert(not last, "there is more behind the last frame")
    local flags, payload
    flags, payload, at = string.unpack(">Bs4", bytes, at)
    if flags == 2 then
      last = json.decode(payload)
    else
      assert(flags == 0)
      protobuf.decode(messages.StartResponse, payload)
    end
  end
  assert(last, "no last frame")
  assert(not (last.error and last.error.code == "internal"), "internal")
end

local function check(method, request)
  if request.gone then return end
  assert(request.finished, method .. " was not answered")
  if request.status ~= 200 then
    local body = json.decode(request.whole)
    assert(type(body.code) == "string" and body.code ~= "internal", request.whole)
    return
  end
  if not request.whole then check_stream(request) end
end

---One seed: some clients at once, which send whatever they like.
---@async
---@param seed integer
function fuzz.run(seed)
  local record
  task.scope(function(scope)
    local random = generator(seed * 16)
    local server
    server, record = server_of(random, scope)
    task.scope(function(clients)
      for index = 1, random(2, 10) do
        local own = generator(seed * 16 + index)
        clients:spawn(function()
          local method = index % 2 == 0 and "Start" or pick(own, METHODS)
          if index % 2 == 1 then task.sleep(own(0, 6) / 1000) end
          local request = request_of(own, method)
          rpc.handle(server, request, { ns = "local", job = record.job_id, method = method })
          check(method, request)
        end)
      end
    end)
    record:set_status("TERMINATED")
    scope:cancel("over")
  end)
  assert(record.calls == 0, "a call is still counted")
end

seeds.main("fuzz_rpc", fuzz.run)

return fuzz
