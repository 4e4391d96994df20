-- The same attempts to get out as in test_isolation.lua, from a sandbox of bubblewrap whose
-- root is an imported image that it may write to.

local bwrap = require("sbx.server.driver.bwrap")
local fs = require("sbx.fs")
local images = require("sbx.server.images")
local importer = require("sbx.server.images_import")
local attempts = dofile("tests/isolation/attempts.lua")
local docker_support = dofile("tests/docker_support.lua")
local support = dofile("tests/isolation_support.lua")

local function with_image(fn)
  local folder <close> = fs.tmpdir()
  local store = images.open(folder.path .. "/store")
  fs.write(folder.path .. "/root.tar", docker_support.root())
  importer.import(store, "tools:1", folder.path .. "/root.tar")
  local driver = bwrap.open { images = store }
  support.with_stage({ driver = driver, image = "tools:1" }, function(stage)
    assert(stage.object.imageSource == "store", stage.object.imageSource)
    fn(stage)
  end)
  driver:close()
end

test("isolation: an image of one's own denies every attempt", { timeout = 400 }, function()
  with_image(function(stage)
    stage:try_all(attempts)
  end)
end)

test("isolation: an image of one's own denies every system call that leads out", function()
  with_image(function(stage)
    stage:try_all(stage:calls())
  end)
end)
