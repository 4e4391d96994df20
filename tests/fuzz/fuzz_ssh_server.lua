-- Fuzzes the server's side of what it says to the program that speaks SSH: one that was
-- taken over and says anything. Whatever arrives, the connection must come to its end,
-- what the server says must be right, no code of its own may break, and what is asked of
-- a sandbox must be what it can be asked. How it is run: `seeds.lua`.

local connection = require("sbx.server.ssh.connection")
local errors = require("sbx.errors")
local key = require("sbx.server.ssh.key")
local link = require("sbx.server.ssh.link")
local seeds = require("tests.fuzz.seeds")
local ssh = require("sbx.server.ssh")
local streams = require("sbx.core.stream")
local task = require("sbx.task")

local damage, generator, pick = seeds.damage, seeds.generator, seeds.pick
local pack, unpack = string.pack, string.unpack

local fuzz = {}

local USER, BLOB = "ssh-1", "AAAA"
local SIZES = { 0, 1, 2, 3, 4, 5, 8, 100, 4096, 32768, 65535, 65536, 65537 }
local NUMBERS = { 0, 1, 4, 100, 4096, 65535, 131072, 131073, 0x7fffffff, 0xffffffff }

-- ------------------------------------------------------------------ a sandbox

-- Bytes as a program or a peer in the sandbox gives them, then its end.
local function source(random)
  local left = random(0, 6)
  return function()
    task.yield()
    left = left - 1
    return left >= 0 and ("p"):rep(random(1, 50000)) or nil
  end
end

local function sink(random)
  return function(_, bytes)
    assert(type(bytes) == "string")
    if random(1, 3) == 1 then task.yield() end
    if random(1, 20) == 1 then errors.raise { kind = "io", message = "it reads no more" } end
  end
end

local function is_side(number)
  return math.type(number) == "integer" and number >= 0 and number <= 65535
end

local function check_start(options)
  assert(#options.argv == 3 and type(options.argv[3]) == "string")
  for name, value in pairs(options.env) do
    assert(name:find("^[%a_][%w_]*$") and not value:find("\0"), name)
  end
  assert(not options.pty or is_side(options.pty.cols) and is_side(options.pty.rows))
end

local function sandbox_agent(random)
  local agent = {}
  function agent.start(_, options)
    check_start(options)
    if random(1, 8) == 1 then errors.raise { kind = "io", code = "ENOENT", message = "none" } end
    local program = { write = sink(random), close_stdin = function() end }
    local next_bytes = source(random)
    function program:read()
      local bytes = next_bytes()
      if not bytes then self.exit_code = random(0, 255) end
      return bytes and (random(1, 4) == 1 and "stderr" or "stdout"), bytes
    end
    function program.resize(_, cols, rows)
      assert(is_side(cols) and is_side(rows))
    end
    function program.kill(_, number)
      assert(math.type(number) == "integer" and number > 0 and number < 65)
    end
    return setmetatable(program, { __close = function() end })
  end
  function agent.stat()
    errors.raise { kind = "io", code = "ENOENT", message = "none" }
  end
  function agent.dial(_, port)
    assert(math.type(port) == "integer")
    if random(1, 4) == 1 then errors.raise { kind = "io", message = "nobody listens" } end
    return {
      read = source(random), write = sink(random), shutdown = function() end,
      close = function() end,
    }
  end
  return agent
end

---A record of a sandbox as far as a connection needs one.
---@param agent table
---@return table
function fuzz.record(agent)
  return {
    status = "RUNNING", box = { agent = agent }, calls = 0, spec = { docker_image = "x" },
    ended = function() return false end, environment = function(_, more) return more end,
  }
end

-- ------------------------------------------------------------------- what it says

local function frame(type, channel, bytes)
  return pack(">c1Bs4", type, channel, bytes or "")
end

local function start_bytes(random)
  local kind = pick(random, { 0, 1, 2, 16, 17, 3, 255 })
  local variables = pick(random, { "", "A=b\0", "LANG=x\0=\0A\0\0", "1=2\0" })
  return pack(">BI2I2zz", kind, random(0, 65535), random(0, 65535), "xterm", "ls") .. variables
end

-- Well-formed frames with odd values, by letter.
local PAYLOADS = {
  A = function(random)
    local user = pick(random, { USER, USER, USER, "other", "" })
    return string.char(random(0, 1)) .. user .. "\0" .. pick(random, { BLOB, BLOB, "B" })
  end,
  S = start_bytes,
  D = function(random) return pack(">I4", pick(random, NUMBERS)) end,
  I = function(random) return ("i"):rep(pick(random, SIZES)) end,
  E = function() return "" end,
  R = function(random) return pack(">I2I2", random(0, 65535), random(0, 65535)) end,
  K = function(random) return pick(random, { "INT", "TERM", "", "NOSUCH" }) end,
  W = function(random) return pack(">I4", pick(random, NUMBERS)) end,
  C = function() return "" end,
}
local LETTERS = { "A", "S", "S", "D", "I", "I", "I", "E", "R", "K", "W", "W", "C" }

local function odd_frame(random)
  local letter = pick(random, LETTERS)
  local bytes = PAYLOADS[letter](random)
  local how = random(1, 14)
  if how == 1 then bytes = bytes:sub(1, random(0, #bytes)) end
  if how == 2 then bytes = bytes .. ("x"):rep(random(1, 20)) end
  if how == 3 then letter = string.char(random(0, 255)) end
  local channel = random(1, 12) == 1 and random(0, 255) or random(0, 3)
  return frame(letter, channel, bytes)
end

-- Takes the place of the program that speaks SSH.
local function lie(random, far)
  -- Mostly it gets in first.
  if random(1, 8) > 1 then far:write(frame("A", 0, "\1" .. USER .. "\0" .. BLOB)) end
  for _ = 1, random(1, 60) do
    local bytes = odd_frame(random)
    if random(1, 15) == 1 then bytes = damage(random, bytes) end
    far:write(bytes)
    if random(1, 4) == 1 then task.yield() end
  end
end

-- ------------------------------------------------------------------ the server

-- What the server says, frame by frame, as long as it says something.
local CHECKS = {
  a = function(bytes) assert(bytes == "\0" or bytes == "\1") end,
  o = function(bytes) assert(#bytes > 0 and #bytes <= link.PIECE) end,
  f = function(bytes) assert(bytes == "") end,
  x = function(bytes) assert(#bytes == 4) end,
  w = function(bytes) assert(#bytes == 4 and unpack(">I4", bytes) <= link.WINDOW) end,
  z = function(bytes) assert(bytes == "") end,
}
CHECKS.e = CHECKS.o

-- Reads as the program would, but for one that stops reading after some frames.
local function hear(far, most)
  local rest, count = "", 0
  while count < most do
    local bytes = far:read()
    if not bytes then return end
    rest = rest .. bytes
    while #rest >= 6 and #rest >= 6 + unpack(">I4", rest, 3) do
      local type, channel, payload, after = unpack(">c1Bs4", rest)
      local check = assert(CHECKS[type], "the server said nonsense: " .. type)
      assert(channel < 10, "of no channel")
      check(payload)
      rest, count = rest:sub(after), count + 1
    end
    assert(#rest < 65542, "a frame that is too large")
  end
  task.waiter("the end of the connection"):wait()
end

-- Errors of our own code would only end the connection: it protects itself.
local function with_watched_pcall(fn)
  local original, broken = pcall, nil
  local _ <close> = setmetatable({}, { __close = function() _G.pcall = original end })
  local function watch(ok, ...)
    local err = ...
    if not ok and type(err) == "string"
      and (err:find("attempt to", 1, true) or err:find("assertion", 1, true)) then
      broken = broken or err
    end
    return ok, ...
  end
  _G.pcall = function(...) return watch(original(...)) end
  fn()
  if broken then error(broken, 0) end
end

---Serves one connection to a program that is played: `play(far, peer)` is at the other
---end of the link and in the peer's place. Returns once the connection has ended.
---@async
---@param agent table
---@param play async fun(far: sbx.Stream, peer: sbx.Stream)
function fuzz.serve(agent, play)
  local original = key.program
  local outside, peer = streams.pair()
  local inside, program = streams.pair()
  local at, far = streams.pair()
  local _ <close> = setmetatable({}, { __close = function()
    key.program = original
    for _, stream in ipairs { peer, inside, program, at, far } do
      stream:close()
    end
  end })
  -- Its end, as of a child, closes what it had.
  key.program = function()
    return setmetatable({}, { __close = function()
      program:close()
      far:close()
    end }), inside, at
  end
  task.scope(function(scope)
    local sessions = ssh.new({ scope = function() return scope end })
    sessions.by_id[USER] = {
      id = USER, blob = BLOB, record = fuzz.record(agent), connections = {}, closed = false,
    }
    task.scope(function(serving)
      local served = serving:pspawn(connection.serve, sessions, outside, "key", scope)
      local ok, failure = pcall(play, far, peer)
      program:close() -- the program has ended
      served:pjoin()
      if not ok and not errors.is_error(failure) then error(failure, 0) end
    end)
    scope:cancel("what was hung up on is not waited for")
  end)
end

---One seed. Raises what must not be.
---@async
---@param seed integer
function fuzz.run(seed)
  local random, inside = generator(seed * 16), generator(seed * 16 + 1)
  local most = random(1, 4) == 1 and random(0, 5) or math.maxinteger
  with_watched_pcall(function()
    fuzz.serve(sandbox_agent(inside), function(far)
      task.scope(function(scope)
        scope:daemon(hear, far, most)
        -- Who is not read from any more gives up.
        local ok, failure = pcall(task.move_on, 0.05, lie, random, far)
        if not ok and not errors.is_error(failure) then error(failure, 0) end
      end)
    end)
  end)
end

seeds.main("fuzz_ssh_server", fuzz.run)

return fuzz
