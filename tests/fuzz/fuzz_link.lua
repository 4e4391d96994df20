-- Fuzzes the server's side of the agent's protocol: an agent that was taken over
-- and says anything. Whatever arrives, every call must end by a result or by an
-- error object, nothing may be left waiting, and memory must stay bounded.
-- How it is run: `seeds.lua`.

local agent = require("sbx.server.agent")
local errors = require("sbx.errors")
local link = require("sbx.server.link")
local seeds = require("tests.fuzz.seeds")
local streams = require("sbx.core.stream")
local task = require("sbx.task")

local damage, generator, pick = seeds.damage, seeds.generator, seeds.pick

local fuzz = {}

local HELLO = 32
-- How long a call waits for an agent that says nothing more.
local PATIENCE = 0.02

-- ---------------------------------------------------------------- what it says

local SIZES = { 0, 1, 3, 4, 5, 7, 8, 9, 20, 21, 22, 100, 4096, 65535, 65536, 65537 }
local NUMBERS = {
  0, 1, 2, 4, 9, 255, 4095, 4096, 65536, 262144, 0x7fffffff, 0x80000000, 0xffffffff,
}
local TYPES = { 16, 17, 18, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42 }

local function frame(type, id, payload)
  return string.pack(">I4BI4", #payload + 5, type, id) .. payload
end

local function u32(random)
  return string.pack(">I4", pick(random, NUMBERS))
end

local function u64(random)
  return u32(random) .. u32(random)
end

-- Well-formed payloads with odd values, by type.
local PAYLOADS = {
  [16] = function(random) return ("d"):rep(pick(random, SIZES)) end,
  [17] = function() return "" end,
  [18] = u32,
  [33] = function(random) return ("o"):rep(pick(random, SIZES)) end,
  [34] = function(random) return ("e"):rep(pick(random, SIZES)) end,
  [35] = function(random) return u32(random) .. string.char(random(0, 255)) end,
  [36] = function(random) return random(0, 1) == 0 and "" or u64(random) end,
  [37] = function(random)
    return string.char(random(0, 3)) .. u32(random) .. u64(random) .. u64(random)
  end,
  [38] = u64,
  [39] = function(random) return u32(random) .. string.pack(">s4", "x") .. "\0" end,
  [40] = u32,
  [41] = function() return "" end,
  [42] = function(random)
    return u32(random) .. u32(random) .. string.char(random(0, 255))
      .. string.pack(">s4", ("n"):rep(pick(random, SIZES))) .. "\0"
  end,
}

local function odd_frame(random)
  local type = random(1, 8) == 1 and random(0, 255) or pick(random, TYPES)
  local make = PAYLOADS[type] or PAYLOADS[16]
  local payload = make(random)
  local id = random(1, 10) == 1 and random(0, 1000) or random(1, 8)
  local how = random(1, 12)
  if how == 1 then payload = payload:sub(1, random(0, #payload)) end
  if how == 2 then payload = payload .. ("x"):rep(random(1, 20)) end
  return frame(type, id, payload)
end

-- Answers that a good agent would give to what it is asked, so that odd frames
-- also meet calls that are well on their way.
local REPLIES = {
  [link.EXEC] = function(id)
    return { frame(33, id, "out"), frame(34, id, "err"), frame(35, id, string.pack(">i4B", 0, 0)) }
  end,
  [link.PUT] = function(id) return { frame(18, id, string.pack(">I4", 4096)) } end,
  [link.GET] = function(id)
    return { frame(36, id, string.pack(">I8", 4)), frame(16, id, "data"),
      frame(38, id, string.pack(">I8", 4)) }
  end,
  [link.STAT] = function(id)
    return { frame(37, id, string.pack(">BI4I8i8", 1, 420, 5, 0)) }
  end,
  [link.DIAL] = function(id)
    return { frame(36, id, ""), frame(16, id, "hello"), frame(17, id, "") }
  end,
  [link.START] = function(id)
    return { frame(40, id, string.pack(">I4", 7)), frame(33, id, "out"), frame(41, id, ""),
      frame(35, id, string.pack(">i4B", 137, 16)) }
  end,
  [link.HELD] = function(id)
    return { frame(42, id, string.pack(">I4I4Bs4", 1, 7, 5, "note") .. "\0"),
      frame(42, id, string.pack(">I4I4Bs4", 2, 0, 6, "") .. "\0"),
      frame(38, id, string.pack(">I8", 2)) }
  end,
  [link.ATTACH] = function(id)
    return { frame(40, id, string.pack(">I4", 7)), frame(18, id, string.pack(">I4", 4096)),
      frame(33, id, "out"), frame(41, id, ""), frame(35, id, string.pack(">i4B", 0, 0)) }
  end,
}

local function answer(random, request)
  local type, id = string.unpack(">BI4", request, 5)
  local reply = REPLIES[type]
  local parts = {}
  for _, each in ipairs(reply and reply(id) or {}) do
    local how = random(1, 20)
    if how == 1 then each = damage(random, each) end
    if how == 2 then parts[#parts + 1] = odd_frame(random) end
    if how ~= 3 then parts[#parts + 1] = each end
    if how == 4 then parts[#parts + 1] = each end
  end
  return table.concat(parts)
end

-- Reads whole frames of the server, which are to be right whatever is answered.
local function reader(peer)
  local buffer = ""
  return function()
    while #buffer < 4 or #buffer < 4 + string.unpack(">I4", buffer) do
      local bytes = peer:read()
      if not bytes then return nil end
      buffer = buffer .. bytes
    end
    local length = string.unpack(">I4", buffer)
    assert(length >= 5 and length <= link.FRAME_LIMIT, "the server sent no frame")
    local request = buffer:sub(1, 4 + length)
    buffer = buffer:sub(5 + length)
    return request
  end
end

local function lie(random, peer)
  local next_request = reader(peer)
  peer:write(frame(HELLO, 0, string.pack(">I4I4I4", link.VERSION, 1, random(0, 3))))
  for _ = 1, random(1, 60) do
    local how = random(1, 10)
    if how <= 6 then
      local request = next_request()
      if not request then return end
      peer:write(answer(random, request))
    elseif how <= 8 then
      peer:write(odd_frame(random))
    elseif how == 9 then
      task.yield()
    else
      peer:write(damage(random, odd_frame(random)))
    end
  end
end

-- ------------------------------------------------------------------ the server

local CALLS = {
  function(inside) inside:exec { command = "x", timeout = 5, max_output = 100000 } end,
  function(inside) inside:stat("/x") end,
  function(inside)
    local size = 0
    inside:get("/x", function(bytes)
      size = size + #bytes
    end)
  end,
  function(inside, random)
    local left = random(0, 5)
    inside:put("/x", function()
      left = left - 1
      return left >= 0 and ("p"):rep(random(1, 200000)) or nil
    end)
  end,
  function(inside, random)
    local connection <close> = inside:dial(80)
    if random(0, 1) == 0 then connection:write(("w"):rep(random(1, 600000))) end
    connection:shutdown()
    repeat
      local bytes = connection:read(random(1, 1000))
      assert(bytes == nil or #bytes > 0)
    until not bytes
  end,
  function(inside, random)
    local pty = random(0, 1) == 0 and { cols = 80, rows = 24 } or nil
    local session <close> = inside:start { argv = { "x" }, stdin = true, pty = pty }
    session:resize(1, 2)
    session:kill(random(1, 64))
    if random(0, 1) == 0 then session:write(("w"):rep(random(1, 600000))) end
    session:close_stdin()
    for channel, bytes in session.read, session do
      assert(#bytes > 0 and (channel == "stderr" or (channel == "pty") == (pty ~= nil)))
    end
    assert(not session.exit_code or math.type(session.exit_code) == "integer")
  end,
}

CALLS[#CALLS + 1] = function(inside, random)
  for _, held in ipairs(inside:held()) do
    local session <close> = inside:attach(held)
    if held.input and random(0, 1) == 0 then session:write(("w"):rep(random(1, 10000))) end
    repeat
      local channel, bytes = session:read()
      assert(channel == nil or #bytes > 0)
    until not channel
  end
end

-- Any failure must be an error object, whatever was said.
local function attempt(call, inside, random, limit)
  local ok, failure = pcall(task.move_on, limit, call, inside, random)
  if not ok and not errors.is_error(failure) then error(failure, 0) end
end

---One seed: a liar, and calls of every kind at once. Raises what must not be.
---@async
---@param seed integer
function fuzz.run(seed)
  -- Each task has its own, or one's pace would change what another does.
  local random, own = generator(seed * 16), {}
  for i = 1, random(1, 8) do
    own[i] = generator(seed * 16 + i)
  end
  local ours, peer = streams.pair()
  task.scope(function(scope)
    scope:spawn(function()
      -- It is hung up on in the middle, as it should be.
      local ok, failure = pcall(lie, random, peer)
      peer:close()
      if not ok and not errors.is_error(failure) then error(failure, 0) end
    end)
    local up, inside = pcall(agent.attach, ours)
    if not up then
      if not errors.is_error(inside) then error(inside, 0) end
      return
    end
    task.scope(function(calls)
      for _, each in ipairs(own) do
        local patience = each(1, 4) == 1 and 0 or PATIENCE
        calls:spawn(attempt, pick(each, CALLS), inside, each, patience)
      end
    end)
    inside:close()
    -- A fault of ours while reading would look like one of the agent's.
    assert(not inside.reason:find("attempt to", 1, true), inside.reason)
    assert(next(inside.link.calls) == nil, "a call is left")
  end)
end

seeds.main("fuzz_link", fuzz.run)

return fuzz
