-- Sandboxes that take all they can get, of processes, memory, disk, files and time: the
-- server and the neighbours go on as if nothing was.

local bwrap = require("sbx.server.driver.bwrap")
local bombs = dofile("tests/isolation/bombs.lua")
local support = dofile("tests/isolation_support.lua")

test("isolation: what one sandbox of bubblewrap takes, the others do not miss", function()
  support.with_stage({ driver = bwrap.open(), image = "python:3.11-slim" }, function(stage)
    stage:try_all(bombs)
  end)
end)
