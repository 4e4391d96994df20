-- The disks of bubblewrap sandboxes, as root.

local bwrap = require("sbx.server.driver.bwrap")
local disk = require("sbx.server.driver.bwrap_disk")
local fs = require("sbx.fs")
local task = require("sbx.task")

test("bwrap disk: more sizes at once than templates are kept", { timeout = 180 }, function()
  local driver = bwrap.open()
  if not driver.disks then
    driver:close()
    skip("no disks here: " .. tostring(driver.disk_problem or "not root"))
  end
  local sizes = {}
  for index = 1, 24 do
    sizes[index] = 0.1 + index / 100
  end
  local seen = task.map(sizes, function(size)
    local box = driver:create({ id = "disk-" .. size, hostname = "disk", disk_size_gb = size })
    local found = box.agent:exec { command = "df -k / | tail -n 1", timeout = 60 }
    box:kill()
    return tonumber(found.stdout:match("%S+%s+(%d+)"))
  end)
  for index, size in ipairs(sizes) do
    local whole = size * 1024 * 1024
    assert(seen[index] > whole * 0.8 and seen[index] <= whole, size .. ": " .. seen[index])
  end
  local folder = driver.disks.folder
  for _, name in ipairs(fs.list(folder)) do
    assert(name:find("^template%-"), "left: " .. name)
  end
  driver:close()
  assert(not fs.exists(folder))
end)

test("bwrap disk: a template stays until what is to be a copy of it is one", function()
  local disks, problem = disk.open()
  if not disks then skip("no disks here: " .. problem) end
  local made = {}
  local function make(index)
    made[#made + 1] = disks:create((8 + index) * 1024 * 1024)
  end
  for index = 1, 20 do
    make(index)
  end
  for _, one in ipairs(made) do
    assert(fs.exists(one.template.path), one.template.path)
  end
  disk.settle(made[3])
  disk.settle(made[3])
  make(21)
  assert(not fs.exists(made[3].template.path) and fs.exists(made[2].template.path))
  make(2)
  disk.settle(made[2])
  make(22)
  assert(made[22].template == made[2].template and fs.exists(made[2].template.path))
  disks:close()
  assert(not fs.exists(disks.folder))
end)

test("bwrap disk: no sandbox may write more than this machine's disk has", function()
  local driver = bwrap.open()
  if not driver.disks then
    driver:close()
    skip("no disks here: " .. tostring(driver.disk_problem or "not root"))
  end
  local free = fs.disk(driver.disks.folder).available
  local asked = (free >> 30) + 100
  local box = driver:create({ id = "disk-all", hostname = "disk", disk_size_gb = asked })
  local found = box.agent:exec { command = "df -k / | tail -n 1", timeout = 60 }
  box:kill()
  driver:close()
  assert(tonumber(found.stdout:match("%S+%s+(%d+)")) * 1024 < free, found.stdout)
end)

test("bwrap disk: a folder that somebody else has laid out is not used", function()
  local disks, problem = disk.open()
  if not disks then skip("no disks here: " .. problem) end
  local above = disks.folder:match("^(.*)/")
  disks:close()
  assert(not fs.exists(above))
  fs.mkdir(above, { mode = 511 })
  fs.chmod(above, 511) -- 0777
  local found, why = disk.open()
  local left = fs.list(above)
  fs.remove(above, { recursive = true })
  assert(not found and why:find(above, 1, true) and #left == 0, why)
end)
