-- The first seeds of the fuzzer of what the server and its SSH program say to each other,
-- and a program that floods the server and reads nothing; `./dev fuzz` runs more.

local fuzz = require("tests.fuzz.fuzz_ssh_server")
local link = require("sbx.server.ssh.link")
local seeds = require("tests.fuzz.seeds")
local task = require("sbx.task")

local LOGIN = "\1ssh-1\0AAAA"
local SHELL = string.pack(">BI2I2zz", 0, 0, 0, "", "")

local function frame(type, channel, bytes)
  return string.pack(">c1Bs4", type, channel, bytes or "")
end

-- A sandbox whose program takes all input and says nothing.
local function silent_agent()
  return { start = function()
    return setmetatable({
      write = function() end, close_stdin = function() end, kill = function() end,
      read = function() task.waiter("nothing"):wait() end,
    }, { __close = function() end })
  end }
end

-- Serves a program that writes what `fn(i)` says again and again, and reads nothing.
-- Returns whether it was hung up on, and the most frames that waited to be read.
local function flood(count, fn)
  local original, made, most, hung_up = link.new, nil, 0, false
  link.new = function(stream)
    made = original(stream)
    return made
  end
  local _ <close> = setmetatable({}, { __close = function() link.new = original end })
  fuzz.serve(silent_agent(), function(far)
    local ok = pcall(function()
      far:write(frame("A", 0, LOGIN))
      for i = 1, count do
        far:write(fn(i))
        task.yield()
        most = math.max(most, #made.queue)
      end
    end)
    hung_up = not ok
  end)
  return hung_up, most
end

test("server ssh: whatever its program says, the connection ends and nothing breaks",
  { timeout = 200 }, function()
    assert(seeds.run_many(fuzz.run, 1, 150, 100) == 150)
  end)

test("server ssh: input that nobody is told of takes no memory", { timeout = 100 }, function()
  local _, most = flood(300, function(i)
    return (i == 1 and frame("S", 0, SHELL) or "") .. frame("I", 0, "i"):rep(1000)
  end)
  assert(most < 100, most)
end)

test("server ssh: a program that asks for ever is hung up on", { timeout = 60 }, function()
  for name, one in pairs({
    ["keys after the login"] = function() return frame("A", 0, LOGIN) end,
    ["a number that it cannot know to be free"] = function()
      return (frame("S", 0, SHELL) .. frame("C", 0)):rep(100)
    end,
    ["channels"] = function(i) return frame("S", i % 256, SHELL) end,
    ["room for output that was not sent"] = function(i)
      return (i == 1 and frame("S", 0, SHELL) or "") .. frame("W", 0, "\0\0\0\1")
    end,
  }) do
    local hung_up, most = flood(2000, one)
    assert(hung_up, name)
    assert(most < 1000, name)
  end
end)
