-- What sandboxes on this machine need: each thing is tried in a throw-away child.

local bwrap = require("sbx.server.driver.bwrap")
local check = require("sbx.server.driver.bwrap_check")
local core = require("sbx.core.process")
local engine = require("sbx.cli.doctor.engine")
local errors = require("sbx.errors")
local finding = require("sbx.cli.doctor.finding")
local fs = require("sbx.fs")
local images = require("sbx.server.images")
local overlay = require("sbx.server.driver.bwrap_overlay")
local process = require("sbx.process")
local root = require("sbx.server.driver.bwrap_root")
local task = require("sbx.task")

local machine = {}

local TRY_SECONDS = 20
local GIB = 1024 * 1024 * 1024

local line_of = finding.line

local function version_of(name, ...)
  local result = errors.try(process.run, { name, ... }, {
    env = { PATH = root.PATH }, timeout = 5, cwd = "/",
  })
  if not result then return nil end
  return ((result.stdout .. result.stderr):match("[^\n]*"):gsub("^%s+", ""))
end

-- ---------------------------------------------------------------------- steps

local function try_bubblewrap()
  local version = version_of("bwrap", "--version")
  if version then return { state = "ok", by = version } end
  return {
    state = "missing", by = "bwrap is not in " .. root.PATH,
    todo = "apt-get install bubblewrap",
  }
end

local function try_isolation(driver)
  local problem = check.try(driver)
  local as_root = fs.stat("/proc/self").uid == 0
  if not problem then
    return {
      state = "ok",
      by = as_root and "namespaces, a user id of its own for each, a filter of system calls"
        or "namespaces, a filter of system calls; every sandbox is you on this machine",
    }
  end
  return {
    state = "missing", by = line_of(problem),
    todo = check.advice(problem) or "see the message; without isolation nothing is started",
  }
end

-- How a user gets limits: only systemd can hand them out.
local function delegation(problem)
  if problem:find("version 1", 1, true) then
    return "run as root, or on a system with control groups of version 2"
  end
  if fs.stat("/proc/self").uid == 0 then
    return "mount the control groups of the memory, cpu and pids controllers for writing"
  end
  return "start it as: systemd-run --user --scope -p Delegate=yes sbxlua serve"
end

local WEAK = { memory = "only of each process, by RLIMIT_DATA", processes = "by RLIMIT_NPROC" }

local function try_limit(driver, name)
  local by = driver.enforced[name]
  if by:find("^cgroup") then
    return { state = "ok", by = "control groups, version " .. by:sub(-1) }
  end
  local because = driver.limits.problem and " (" .. line_of(driver.limits.problem) .. ")" or ""
  if by == "none" then
    return { state = "missing", by = "nothing" .. because, todo = delegation(because) }
  end
  return { state = "weak", by = WEAK[name] .. because, todo = delegation(because) }
end

local function try_disk(driver)
  if driver.disks then
    local free, stays = fs.disk(driver.disks.base).available, driver.disks.guard.reserve
    local by = ("ext4 on a loop device; %.1f GiB are free in %s, of which %.1f stay so"):format(
      free / GIB, driver.disks.base, stays / GIB)
    if free > stays then return { state = "ok", by = by } end
    return {
      state = "missing", by = by,
      todo = "free some space there, or: sbxlua serve --disks DIR, on a disk that has more",
    }
  end
  local because = driver.disk_problem and ": " .. line_of(driver.disk_problem) or ""
  return {
    state = "weak", by = "files are in memory" .. because,
    todo = "run as root, with e2fsprogs and loop devices",
  }
end

local function try_network(driver)
  local said = {}
  local ok, result = pcall(task.scope, function()
    local box = driver:create {
      id = "doctor-" .. core.pid(), hostname = "doctor", lifetime = 60, network = true,
      throwaway = true, notice = function(line)
        said[#said + 1] = line
      end, log = function() end,
    }
    local enforced = box.network_enforced
    box:kill()
    return enforced
  end)
  if ok and result then
    return { state = "ok", by = version_of("slirp4netns", "--version") or "slirp4netns" }
  end
  local problem = ok and table.concat(said, " ") or line_of(result)
  local todo = "apt-get install slirp4netns iproute2"
  if problem:find("/dev/net/tun", 1, true) then
    todo = "chmod 666 /dev/net/tun, as most systems have it"
  end
  return { state = "missing", by = line_of(problem), todo = todo }
end

local function try_writable_images()
  if fs.stat("/proc/self").uid == 0 then
    local result = errors.try(process.run, { "unshare", "--mount", "sh", "-c",
      "mount -t tmpfs x /mnt && cd /mnt && mkdir l u w m &&"
      .. " mount -t overlay -o lowerdir=l,upperdir=u,workdir=w x m && echo x > m/x" }, {
      timeout = TRY_SECONDS, cwd = "/",
    })
    if result and result.code == 0 then return { state = "ok", by = "overlay" } end
    return {
      state = "missing", by = line_of(result and result.stderr or "unshare does not start"),
      todo = "a kernel with overlay, and CAP_SYS_ADMIN; util-linux",
    }
  end
  local works, problem = overlay.probe()
  if works then return { state = "ok", by = "overlay in a user namespace, in memory" } end
  return {
    state = "weak", by = "read-only but for some folders: " .. line_of(problem),
    todo = "a kernel from 6.6 on, or run as root",
  }
end

local function try_store()
  local store = images.open(images.default_folder())
  local count = #store:list()
  return { state = "ok", by = ("%d in %s"):format(count, store.folder) }
end

local function try_tools()
  local missing = {}
  for _, name in ipairs { "tar", "gzip", "setpriv", "unshare", "nsenter", "ip", "python3" } do
    if not version_of(name, "--version") then missing[#missing + 1] = name end
  end
  if #missing == 0 then
    return { state = "ok", by = "tar, setpriv, unshare, nsenter, ip, python3" }
  end
  return {
    state = "weak", by = "not found: " .. table.concat(missing, ", "),
    todo = "apt-get install tar gzip util-linux iproute2 python3",
  }
end

local function try_memory()
  local free = (errors.try(fs.read, "/proc/meminfo") or ""):match("MemAvailable:%s+(%d+)")
  local gigabytes = (tonumber(free) or 0) / 1024 / 1024
  if gigabytes >= 1 then return { state = "ok", by = ("%.1f GiB available"):format(gigabytes) } end
  return {
    state = "weak", by = ("%.1f GiB available"):format(gigabytes),
    todo = "files of sandboxes are in memory: make room, or ask for smaller ones",
  }
end

local function steps(driver)
  local function of_driver(fn, ...)
    local arguments = table.pack(...)
    return function()
      return fn(driver, table.unpack(arguments, 1, arguments.n))
    end
  end
  return {
    { "bubblewrap", try_bubblewrap, needed = true },
    { "isolation", of_driver(try_isolation), needed = true },
    { "memory limit", of_driver(try_limit, "memory") },
    { "processor limit", of_driver(try_limit, "cpu") },
    { "process limit", of_driver(try_limit, "processes") },
    { "disk limit", of_driver(try_disk) },
    { "network", of_driver(try_network) },
    { "files over images", try_writable_images },
    { "images", try_store },
    { "tools", try_tools },
    { "docker driver", engine.try },
    { "memory", try_memory },
  }
end

---@async
---@return sbx.cli.Finding[]
function machine.findings()
  local driver = bwrap.open()
  local _ <close> = setmetatable({}, { __close = function() driver:close() end })
  return finding.take(steps(driver), "machine", TRY_SECONDS)
end

return machine
