-- What bubblewrap sandboxes may take of this machine, and what is said of that.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local process = require("sbx.process")
local task = require("sbx.task")

local am_root = fs.stat("/proc/self").uid == 0
local BOMB = "python3 -c 'x = bytearray(400 << 20)'"

local function with_box(options, fn)
  local driver = bwrap.open(options.driver)
  options.driver = nil
  options.id, options.hostname = "limits-" .. hash.random_hex(4), "limits"
  local box = driver:create(options)
  local ok, failure = pcall(fn, box, function(command)
    return box.agent:exec { command = command, timeout = 60 }
  end, driver)
  box:kill()
  driver:close()
  if not ok then error(failure, 0) end
  return box
end

local function is_grouped(driver, limit)
  return driver.enforced[limit]:find("^cgroup") ~= nil
end

test("bwrap limits: too much memory ends the process, and is counted", function()
  with_box({ memory_gb = 0.1 }, function(box, sh, driver)
    assert(box.limits.memory == driver.enforced.memory)
    assert(box.limits.memory_bytes == 107374182)
    if am_root then assert(is_grouped(driver, "memory"), driver.limits.problem) end
    local bomb = sh(BOMB)
    assert(bomb.exit_code ~= 0)
    assert(sh("echo alive").stdout == "alive\n")
    if is_grouped(driver, "memory") then
      assert(bomb.exit_code == 137 and box:memory_kills() == 1, box:memory_kills())
      -- What is put into files takes no memory, where they are on a disk.
      if box.limits.disk == "ext4" then
        assert(sh("head -c 300000000 /dev/zero > /tmp/x && rm /tmp/x").exit_code == 0)
        assert(box:memory_kills() == 1)
      end
    else
      assert(box.limits.memory == "rlimit" and box:memory_kills() == nil)
      assert(bomb.stderr:find("MemoryError", 1, true), bomb.stderr)
    end
  end)
end)

test("bwrap limits: without a number there is no limit, and none is claimed", function()
  with_box({}, function(box, sh)
    assert(box.limits.memory == "none" and box.limits.cpu == "none")
    assert(sh(BOMB).exit_code == 0)
  end)
end)

test("bwrap limits: a disk is full when it is, and nothing of it is left", function()
  with_box({ memory_gb = 0.1, disk_size_gb = 0.05 }, function(box, sh)
    if am_root then assert(box.limits.disk == "ext4", box.limits.disk) end
    local full = sh("head -c 60000000 /dev/zero > /tmp/x")
    assert(full.exit_code ~= 0, full.stderr)
    assert(sh("rm /tmp/x; head -c 20000000 /dev/zero > /tmp/y && wc -c < /tmp/y").stdout
      == "20000000\n")
    -- Many small files, too.
    assert(sh("i=0; while echo > /tmp/f$i; do i=$((i + 1)); done 2> /dev/null").exit_code == 0)
    assert(sh("rm -f /tmp/f*; echo alive").stdout == "alive\n")
  end)
end)

test("bwrap limits: processor time", function()
  with_box({ cpu_cores = 0.2 }, function(box, sh, driver)
    assert(box.limits.cpu == driver.enforced.cpu)
    if not is_grouped(driver, "cpu") then
      assert(box.limits.cpu == "none")
      return
    end
    -- Half a second of work by two that could have a core each: counted, not timed.
    local result = sh([[python3 - <<'END'
import os, time
pids = []
begun = time.time()
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        while time.time() - begun < 1: pass
        os._exit(0)
    pids.append(pid)
used = 0
for pid in pids:
    usage = os.wait4(pid, 0)[2]
    used += usage.ru_utime + usage.ru_stime
print(used)
END]])
    assert(tonumber(result.stdout) < 0.8, result.stdout .. result.stderr)
  end)
end)

test("bwrap limits: nothing inside can leave, see or change its group", function()
  with_box({ memory_gb = 0.1 }, function(box, sh, driver)
    if not is_grouped(driver, "memory") then return end
    assert(sh("ls -d /sys/fs/cgroup").exit_code ~= 0)
    assert(sh("mount -t cgroup -o memory x /tmp || mount -t cgroup2 x /tmp").exit_code ~= 0)
    -- The very first process is in it, and so is all that came from it.
    local inside = fs.read("/proc/" .. box.pid .. "/cgroup")
    for _, controller in ipairs { "memory", "pids", "cpu" } do
      local path = inside:match(":" .. controller .. ":([^\n]*)") or inside:match("0::([^\n]*)")
      assert(path:find("/sbxlua/", 1, true), inside)
    end
    assert(sh("setsid sh -c '" .. BOMB:gsub("'", '"') .. "' & wait $!").exit_code == 137)
  end)
end)

test("bwrap limits: a group goes with its sandbox, and with the next server", function()
  local folder <close> = fs.tmpdir()
  local made = with_box({ memory_gb = 0.1, driver = { folder = folder.path } }, function(box)
    for _, path in ipairs(box.group and box.group.folders or {}) do
      assert(fs.exists(path))
    end
  end)
  if not made.group then return end
  for _, path in ipairs(made.group.folders) do
    assert(not fs.exists(path), path)
  end

  local script = folder.path .. "/start.lua"
  local state = folder.path .. "/state"
  fs.mkdir(state)
  fs.write(script, ([[
local bwrap = require("sbx.server.driver.bwrap")
local driver = bwrap.open { folder = %q }
local box = driver:create { id = "orphan", memory_gb = 0.1 }
io.stdout:write(box.group.folders[1], " ", driver.disks and driver.disks.folder or "", "\n")
io.stdout:flush()
require("sbx.task").sleep(60)
]]):format(state))
  local function killed_server()
    local child <close> = process.spawn({ host.executable(), script }, { stdout = "pipe" })
    local path, disks = task.timeout(60, child.stdout.read, child.stdout):match("(%S+) (%S*)")
    -- Of a server that lives another one takes nothing.
    local other = bwrap.open()
    other:sweep {}
    other:close()
    assert(fs.exists(path) and (disks == "" or fs.exists(disks)))
    child:kill(9)
    child:wait()
    return path, disks
  end
  local path, disks = killed_server()
  local driver = bwrap.open { folder = state }
  driver:sweep {}
  driver:close()
  assert(not fs.exists(path) and (disks == "" or not fs.exists(disks)))

  -- The folder need not be there any more, nor the next server be on it.
  path, disks = killed_server()
  fs.remove(state, { recursive = true })
  driver = bwrap.open()
  driver:sweep {}
  driver:close()
  assert(not fs.exists(path) and (disks == "" or not fs.exists(disks)))
end)

test("bwrap limits: the API tells what is enforced, and of an end for want of memory", function()
  support.with_server(function(api)
    local made = api:create { memory_gb = 0.1, cpu_cores = 0.5, advanced_configs = { mine = 1 } }
    local told = made.advancedConfigs
    assert(told.mine == 1 and type(told.limits_enforced) == "table")
    assert(told.limits_enforced.disk == api.server.fleet.driver.enforced.disk)
    assert(told.limits_enforced.files == "rlimit")
    local object = api:await(made.id, "RUNNING")
    assert(object.limitsEnforced.memory == told.limits_enforced.memory)
    if object.limitsEnforced.memory == "rlimit" then return end
    local gateway = api:gateway(made.id)
    errors.try(gateway.exec, gateway, BOMB)
    object = api:await(made.id, "ERROR")
    assert(object.errorType == "OOM_KILLED", object.errorType)
  end)
end)

test("bwrap limits: where images are strict, one that is missing is 422", function()
  local folder <close> = fs.tmpdir()
  local store = require("sbx.server.images").open(folder.path .. "/images")
  local driver = bwrap.open { images = store, strict_images = true }
  support.with_server(function(api)
    local status, body = api:call("POST", "/sandbox", {
      name = "x", docker_image = "python:3.11-slim",
    })
    assert(status == 422 and body.detail:find("image import", 1, true), body.detail)
    assert(body.errors[1].param == "docker_image")
  end, { driver = driver })
end)
