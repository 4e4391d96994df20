-- What untrusted code tries to get out of a sandbox of bubblewrap: each attempt is denied,
-- and neither the server nor a neighbour notices. The same list as for the docker driver.

local bwrap = require("sbx.server.driver.bwrap")
local net = require("sbx.core.net")
local skip = require("sbx.test").skip
local task = require("sbx.task")
local attempts = dofile("tests/isolation/attempts.lua")
local support = dofile("tests/isolation_support.lua")

test("isolation: bubblewrap denies every attempt", { timeout = 400 }, function()
  support.with_stage({ driver = bwrap.open(), image = "python:3.11-slim" }, function(stage)
    assert(#attempts >= 30)
    stage:try_all(attempts)
  end)
end)

test("isolation: bubblewrap denies every system call that leads out", function()
  support.with_stage({ driver = bwrap.open(), image = "python:3.11-slim" }, function(stage)
    local calls = stage:calls()
    assert(#calls >= 50)
    stage:try_all(calls)
  end)
end)

test("isolation: with a way out to the network, there is none to this machine", function()
  local options = { driver = bwrap.open(), image = "python:3.11-slim", network = true }
  support.with_stage(options, function(stage)
    -- Where no network can be had the sandbox has none, and says so.
    if not stage.object.networkEnforced then skip("no network for sandboxes here") end
    local some = {}
    for _, entry in ipairs(attempts) do
      if entry.command and entry.command:find("connect", 1, true) then some[#some + 1] = entry end
    end
    assert(#some >= 6)
    stage:try_all(some)
  end)
end)

test("isolation: the suite sees what is not denied, and harm to others", function()
  support.with_stage({ driver = bwrap.open(), image = "python:3.11-slim" }, function(stage)
    local first = attempts[1]
    local function fails(entry, words)
      local ok, failure = pcall(stage.try_all, stage, { entry })
      assert(not ok and tostring(failure):find(words, 1, true), tostring(failure))
    end
    stage:try_all { first }
    stage:run('mkdir -p "$HOSTDIR"; echo "$WORD" > "$MARKER"')
    fails(first, "ESCAPED")
    stage:run('rm "$MARKER"')
    fails({ name = "silent", command = "exit 0; :" }, "was not tried")
    fails({
      name = "reaching", attempt = function()
        net.connect("127.0.0.1", math.tointeger(tonumber(stage.env.HOSTPORT))):close()
        task.timeout(60, function()
          while stage.reached == 0 do
            task.sleep(0.01)
          end
        end)
      end,
    }, "was reached")
    stage.reached = 0
    fails({
      name = "killing", attempt = function()
        stage:beside("p=$(cat /tmp/sleeper); kill $p; while kill -0 $p; do sleep 0.01; done")
      end,
    }, "process is gone")
  end)
end)
