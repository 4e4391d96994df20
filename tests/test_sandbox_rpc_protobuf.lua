-- Messages of the command session as bytes, and bytes as messages.

local errors = require("sbx.errors")
local json = require("sbx.json")
local messages = require("sbx.sandbox.rpc.messages")
local process = require("sbx.process")
local protobuf = require("sbx.sandbox.rpc.protobuf")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local sdks = dofile(here .. "sdk_support.lua")

local function hex(bytes)
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

local function unhex(text)
  return (text:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end))
end

-- Message, its fields, its bytes: what other programs write and read.
local vectors = {
  {
    "StartRequest",
    { command = { cmd = "/bin/bash", args = { "-c", "echo hi" }, envs = { A = "b" }, cwd = "/w" },
      stdin = false },
    "0a240a092f62696e2f6261736812022d6312076563686f2068691a060a014112016222022f772000",
  },
  { "StartResponse", { event = { start = { pid = 42 } } }, "0a040a02082a" },
  { "StartResponse", { event = { data = { stdout = "hi\n" } } }, "0a0712050a0368690a" },
  { "StartResponse", { event = { keepalive = {} } }, "0a022200" },
  {
    "StartResponse",
    { event = { ["end"] = { exit_code = 7, exited = true, status = "exit" } } },
    "0a0c1a0a080e10011a0465786974",
  },
  {
    "SendInputRequest", { session = { pid = 42 }, input = { stdin = "x\n" } },
    "0a02082a12040a02780a",
  },
  { "SendSignalRequest", { session = { pid = 42 }, signal = 9 }, "0a02082a1009" },
}

test("rpc: messages are written and read as other programs do", function()
  for _, vector in ipairs(vectors) do
    local schema = messages[vector[1]]
    assert(hex(protobuf.encode(schema, vector[2])) == vector[3], vector[1])
    local read = protobuf.decode(schema, unhex(vector[3]))
    assert(json.encode(read, { sort_keys = true })
      == json.encode(vector[2], { sort_keys = true }), vector[1])
  end
end)

test("rpc: numbers at their bounds, and what is absent", function()
  local function ended(code)
    local message = { event = { ["end"] = { exit_code = code } } }
    local bytes = protobuf.encode(messages.StartResponse, message)
    return protobuf.decode(messages.StartResponse, bytes).event["end"].exit_code
  end
  for _, code in ipairs({ 1, -1, 255, -128, 2147483647, -2147483648 }) do
    assert(ended(code) == code, code)
  end
  assert(ended(0) == nil and ended(nil) == nil)
  local bytes = protobuf.encode(messages.SendSignalRequest, {
    session = { pid = 4294967295 }, signal = 0,
  })
  local read = protobuf.decode(messages.SendSignalRequest, bytes)
  assert(read.session.pid == 4294967295 and read.signal == nil)
  assert(next(protobuf.decode(messages.StartResponse, "")) == nil)
end)

test("rpc: of several events in one message the last one counts", function()
  local start, data = "\x0a\x02\x08\x2a", "\x12\x03\x0a\x01x"
  local function read(event)
    return protobuf.decode(messages.StartResponse, "\x0a" .. string.char(#event) .. event).event
  end
  local event = read(start .. data)
  assert(event.start == nil and event.data.stdout == "x")
  event = read(data .. start)
  assert(event.data == nil and event.start.pid == 42)
  -- A message in two pieces is one.
  local both = protobuf.decode(messages.SendInputRequest, unhex("0a02082a" .. "0a00"))
  assert(both.session.pid == 42)
end)

test("rpc: text that is no UTF-8 is not sent, bytes are", function()
  local ok, err = pcall(protobuf.encode, messages.StartRequest, { tag = "\xff" })
  assert(not ok and err.kind == "usage" and err.message:find("tag", 1, true))
  local bytes = protobuf.encode(messages.SendInputRequest, { input = { stdin = "\0\xff" } })
  assert(protobuf.decode(messages.SendInputRequest, bytes).input.stdin == "\0\xff")
end)

-- A generator of messages of a schema; also of such that no schema knows.
local function random_bytes(most)
  local bytes = {}
  for i = 1, math.random(0, most) do
    bytes[i] = string.char(math.random(0, 255))
  end
  return table.concat(bytes)
end

local names = {
  "StartRequest", "StartResponse", "SendInputRequest", "SendSignalRequest", "UpdateRequest",
  "ListResponse", "ConnectRequest",
}

-- Good bytes of any message, with a few of them changed.
local function mutated()
  local vector = vectors[math.random(#vectors)]
  local bytes = unhex(vector[3])
  if math.random(3) == 1 then bytes = bytes .. unhex(vectors[math.random(#vectors)][3]) end
  for _ = 1, math.random(0, 4) do
    local at = math.random(0, #bytes)
    local cut = math.random(0, 2)
    bytes = bytes:sub(1, at) .. random_bytes(2) .. bytes:sub(at + 1 + cut)
  end
  return bytes
end

test("rpc: any bytes are a message or an error of kind api", { timeout = 300 }, function()
  local good = 0
  for i = 1, 200000 do
    local bytes = i % 2 == 0 and random_bytes(40) or mutated()
    local schema = messages[names[math.random(#names)]]
    local ok, result = pcall(protobuf.decode, schema, bytes)
    if i % 1000 == 0 then task.yield() end
    if not ok then
      assert(errors.is_error(result) and result.kind == "api", tostring(result))
    else
      good = good + 1
      -- What was understood is written and understood alike.
      local again = protobuf.encode(schema, result)
      assert(protobuf.encode(schema, protobuf.decode(schema, again)) == again, hex(bytes))
    end
  end
  assert(good > 10000, good)
end)

-- Those with maps differ in what an entry with unknown fields is worth.
local plain_names = { "StartResponse", "SendInputRequest", "SendSignalRequest", "UpdateRequest" }

local function random_text()
  local points = {}
  for i = 1, math.random(0, 8) do
    points[i] = utf8.char(math.random(4) == 1 and math.random(0xe000, 0x10ffff)
      or math.random(0, 0x7ff))
  end
  return table.concat(points)
end

local function random_start()
  local args = {}
  for i = 1, math.random(0, 3) do
    args[i] = random_text()
  end
  -- Of several entries everyone has an order of their own.
  local envs = math.random(2) == 1 and { [random_text()] = random_text() } or {}
  local function perhaps(value)
    if math.random(2) == 1 then return value end
    return nil
  end
  return "StartRequest", protobuf.encode(messages.StartRequest, {
    command = { cmd = random_text(), args = args, envs = envs, cwd = perhaps(random_text()) },
    pty = perhaps({ size = { cols = math.random(0, 500), rows = math.random(0, 1 << 32) } }),
    tag = perhaps(random_text()), stdin = perhaps(math.random(2) == 1),
  })
end

-- What a release of the vendor's knows of a message of ours: fields have come and gone.
local function known_of(schema, fields)
  local kept = {}
  for _, field in ipairs(schema) do
    local theirs = fields[tostring(field[1])]
    if theirs then
      local copy = table.move(field, 1, 3, 1, {})
      for name, value in pairs(field) do
        if type(name) == "string" then copy[name] = value end
      end
      if field.schema then copy.schema = known_of(field.schema, theirs) end
      kept[#kept + 1] = copy
    end
  end
  return kept
end

local function compare(python, count)
  local cases, lines = {}, {}
  for i = 1, count do
    local name = plain_names[math.random(#plain_names)]
    local bytes = i % 4 == 0 and random_bytes(24) or mutated()
    if i % 3 == 0 then name, bytes = random_start() end
    if i % 1000 == 0 then task.yield() end
    cases[i] = { name = name, bytes = bytes }
    lines[i] = name .. " " .. hex(bytes) .. "\n"
  end
  local argv = { python, here .. "peers/rpc_messages.py", "StartRequest" }
  table.move(plain_names, 1, #plain_names, #argv + 1, argv)
  local result = process.run(argv, { input = table.concat(lines), check = true, timeout = 100 })

  local head, answers = result.stdout:match("^([^\n]*)\n(.*)")
  local schemas, i, both = {}, 0, 0
  for name, fields in pairs(json.decode(head)) do
    schemas[name] = known_of(messages[name], fields)
    assert(#schemas[name] > 0, name)
  end
  for answer in answers:gmatch("[^\n]*\n") do
    i = i + 1
    local case = cases[i]
    if i % 1000 == 0 then task.yield() end
    local ok, read = pcall(protobuf.decode, schemas[case.name], case.bytes)
    local ours = ok and hex(protobuf.encode(schemas[case.name], read)) or "error"
    -- Groups are of an older time: we refuse what nobody sends.
    local groups = not ok and read.message:find("wire type [34]")
    assert(ours == answer:sub(1, -2) or groups,
      ("%s %s: ours %s, theirs %s"):format(case.name, hex(case.bytes), ours, answer))
    if ok then both = both + 1 end
  end
  assert(i == #cases and both > count // 20, both)
end

test("rpc: reads what Google's library reads, and nothing else", { timeout = 200 }, function()
  for _, python in ipairs(sdks.pythons(sdks.COMMAND_SESSION)) do
    compare(python, 8000)
  end
end)
