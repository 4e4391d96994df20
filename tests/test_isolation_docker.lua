-- The same attempts to get out as in test_isolation.lua, from containers of a real engine.

local docker = require("sbx.server.driver.docker")
local skip = require("sbx.test").skip
local attempts = dofile("tests/isolation/attempts.lua")
local docker_support = dofile("tests/docker_support.lua")
local support = dofile("tests/isolation_support.lua")

test("isolation: containers deny every attempt", { timeout = 120 }, function()
  docker_support.with_image(function(image)
    local driver = docker.open()
    support.with_stage({ driver = driver, image = image }, function(stage)
      stage:try_all(attempts)
    end)
    driver:close()
  end)
end)

test("isolation: containers deny every system call that leads out", { timeout = 120 }, function()
  docker_support.with_image(function(image)
    local driver = docker.open()
    support.with_stage({ driver = driver, image = image }, function(stage)
      stage:try_all(stage:calls())
    end)
    driver:close()
  end)
end)

test("isolation: a container with a way out has none to this machine", { timeout = 120 }, function()
  docker_support.with_image(function(image)
    local driver = docker.open()
    support.with_stage({ driver = driver, image = image, network = true }, function(stage)
      -- Where nothing can be fenced off, the sandbox says so.
      if not stage.object.networkEnforced then skip("no fence here") end
      local some = {}
      for _, entry in ipairs(attempts) do
        if entry.command and entry.command:find("connect", 1, true) then some[#some + 1] = entry end
      end
      assert(#some >= 6)
      stage:try_all(some)
    end)
    driver:close()
  end)
end)
