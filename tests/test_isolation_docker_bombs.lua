-- Containers that take all they can get: the same list as in test_isolation_bombs.lua.

local docker = require("sbx.server.driver.docker")
local bombs = dofile("tests/isolation/bombs.lua")
local docker_support = dofile("tests/docker_support.lua")
local support = dofile("tests/isolation_support.lua")

test("isolation: what one container takes, the others do not miss", { timeout = 400 }, function()
  docker_support.with_image(function(image)
    local driver = docker.open()
    support.with_stage({ driver = driver, image = image }, function(stage)
      stage:try_all(bombs)
    end)
    driver:close()
  end)
end)
