-- The disks of many sandboxes are together larger than the file system that their files
-- are in: here a small one of the test's own, as root.

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local process = require("sbx.process")
local skip = require("sbx.test").skip
local task = require("sbx.task")

local MIB = 1024 * 1024

-- Runs `fn(driver, folder)` with disks on a file system of 800 MiB.
local function with_small(fn)
  if fs.stat("/proc/self").uid ~= 0 then skip("only root has disks for sandboxes") end
  local place <close> = fs.tmpdir { prefix = "small-" }
  local folder = place.path .. "/d"
  fs.mkdir(folder)
  local mounted = process.run {
    "mount", "-t", "tmpfs", "-o", "size=800m,mode=755", "sbxlua-test", folder,
  }
  if mounted.code ~= 0 then skip("nothing can be mounted here: " .. mounted.stderr) end
  local ok, failure = pcall(function()
    local driver = bwrap.open { disks = folder }
    assert(driver.disks.base == folder)
    fn(driver, folder)
    driver:close()
  end)
  -- Loop devices let go of their files a little later than their mounts.
  process.run({ "umount", "--lazy", folder }, { check = true })
  if not ok then error(failure, 0) end
end

local function new_box(driver, id)
  local said = {}
  local box = driver:create {
    id = id, disk_size_gb = 2, log = function(line)
      said[#said + 1] = line
    end,
  }
  local function sh(command)
    return box.agent:exec { command = command, timeout = 60 }
  end
  assert(sh("echo mark > /tmp/mark").exit_code == 0)
  return box, sh, said
end

local function has(list, words)
  return table.concat(list, "\n"):find(words, 1, true) ~= nil
end

local WRITE = "dd if=/dev/zero of=/tmp/%s bs=1M count=%d conv=fsync"

test("bwrap disk: sandboxes together leave the reserve free, and see a full disk", {
  timeout = 180,
}, function()
  with_small(function(driver, folder)
    local guard = driver.disks.guard
    assert(guard.reserve == 200 * MIB)
    local one, write, said = new_box(driver, "greedy")
    local two, beside, also_said = new_box(driver, "beside")
    assert(beside(WRITE:format("own", 192)).exit_code == 0)
    local result
    for step = 1, 200 do
      result = write(WRITE:format("f" .. step, 4))
      if result.exit_code ~= 0 then break end
      guard:look()
    end
    assert(result.exit_code ~= 0 and result.stderr:find("No space left", 1, true), result.stderr)
    -- What others on this machine have written and no disk has yet counts, too, and made
    -- the guard act early. From here it is to act whatever they do.
    local excess = fs.disk(folder).available - guard.reserve + 4 * MIB
    if excess > 0 then
      process.run({ "fallocate", "-l", tostring(excess), folder .. "/ballast" }, { check = true })
    end
    guard:look()
    assert(fs.disk(folder).available > guard.reserve // 2, fs.disk(folder).available)
    assert(has(said, "takes no more") and has(also_said, "takes no more"))

    -- The neighbour is full too, but keeps what it has, and can write over it.
    assert(beside(WRITE:format("more", 16)).stderr:find("No space left", 1, true))
    assert(beside("cat /tmp/mark").stdout == "mark\n")
    local over = beside(WRITE:format("own", 192):gsub("conv=", "conv=notrunc,"))
    assert(over.exit_code == 0, over.stderr)

    -- Nothing new is begun, and why is said.
    local ok, failure = pcall(driver.create, driver, { id = "third" })
    assert(not ok and failure.message:find("nearly full", 1, true), tostring(failure))
    assert(failure.message:find(folder, 1, true) and failure.message:find("--disks", 1, true))

    -- With the greedy one goes what it has taken.
    one:kill()
    fs.remove(folder .. "/ballast", { missing_ok = true })
    task.timeout(60, function()
      while guard:look() <= guard.reserve * 3 // 2 do task.sleep(0.05) end
    end)
    assert(beside(WRITE:format("more", 16)).exit_code == 0)
    assert(has(also_said, "room on this machine's disk again"), table.concat(also_said, "\n"))
    two:kill()
  end)
end)

test("bwrap disk: when somebody else has filled it, only who writes there fails", {
  timeout = 180,
}, function()
  with_small(function(driver, folder)
    -- Nobody looks: as when it happens all at once.
    driver.disks.guard.look = function()
      return math.huge
    end
    local one, write = new_box(driver, "one")
    local two, beside = new_box(driver, "two")
    assert(beside(WRITE:format("own", 8)).exit_code == 0)
    process.run { "dd", "if=/dev/zero", "of=" .. folder .. "/ballast", "bs=1M" }
    assert(fs.disk(folder).available < MIB)

    local result = write(WRITE:format("x", 64))
    assert(result.exit_code ~= 0, "64 MiB where there is nothing")
    -- It lives, as do the others and what they have.
    assert(write("echo alive").stdout == "alive\n")
    assert(beside("cat /tmp/mark; wc -c < /tmp/own").stdout == "mark\n8388608\n")
    local over = beside(WRITE:format("own", 8):gsub("conv=", "conv=notrunc,"))
    assert(over.exit_code == 0, over.stderr)

    fs.remove(folder .. "/ballast")
    assert(beside(WRITE:format("more", 16)).exit_code == 0)
    one:kill()
    two:kill()
  end)
end)

test("bwrap disk: a folder that others can change is refused by its name", function()
  local place <close> = fs.tmpdir { prefix = "small-" }
  fs.chmod(place.path, 511)
  local ok, failure = pcall(bwrap.open, { disks = place.path })
  assert(not ok and errors.is_error(failure) and failure.kind == "usage", tostring(failure))
  assert(failure.message:find("--disks", 1, true), failure.message)
end)
