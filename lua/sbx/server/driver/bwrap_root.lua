-- What the inside of a bubblewrap sandbox looks like: this machine's /usr, read
-- only, under one private file system with a generated /etc, on a disk of the
-- sandbox's own or in memory. Nothing else of this machine is there.

local disk = require("sbx.server.driver.bwrap_disk")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")

---@class sbx.server.driver.bwrap_root
local root = {}

root.PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

local GIB = 1024 * 1024 * 1024
local SHM_BYTES = 64 * 1024 * 1024
-- Where a link for `python` can go: on every shell's default PATH.
local SPARE_FOLDERS = { "/usr/local/sbin", "/usr/local/bin" }
-- Public files and folders of /etc that programs in /usr cannot do without.
local ETC_SHOWN = {
  "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "mime.types", "protocols",
  "services", "ssl/certs", "ssl/openssl.cnf",
}

---@class sbx.server.driver.HostFacts
---@field system string        "Debian GNU/Linux 12 (bookworm)"
---@field python? string       "3.11.2"; nil when there is none
---@field python_link? string  folder in which `python` must be made a link
---@field zone? string         target of /etc/localtime
---@field links table<string, string>  "/bin" → "usr/bin"
---@field folders string[]     top-level folders that are no links: "/lib32"
---@field memory integer       bytes of this machine

local function read_or_empty(path)
  return errors.try(fs.read, path, { max = 64 * 1024 }) or ""
end

local function python_version()
  local result = errors.try(process.run, { "python3", "--version" }, {
    env = { PATH = root.PATH }, timeout = 60, cwd = "/",
  })
  return result and result.code == 0 and result.stdout:match("Python (%S+)") or nil
end

local function exists_in_path(name)
  for folder in root.PATH:gmatch("[^:]+") do
    if errors.try(fs.stat, folder .. "/" .. name) then return true end
  end
  return false
end

-- A folder that shows nothing when it is covered; nil when none is empty.
local function spare_folder()
  for _, folder in ipairs(SPARE_FOLDERS) do
    local names = errors.try(fs.list, folder)
    if names and #names == 0 then return folder end
  end
  return nil
end

local facts

---Looks this machine over, once.
---@async
---@return sbx.server.driver.HostFacts
function root.facts()
  if facts then return facts end
  local release = read_or_empty("/etc/os-release")
  local found = {
    system = release:match('PRETTY_NAME="?([^"\n]+)') or "Linux",
    python = python_version(),
    links = {},
    folders = {},
    memory = (tonumber(read_or_empty("/proc/meminfo"):match("MemTotal:%s+(%d+)")) or 0) * 1024,
  }
  if found.python and not exists_in_path("python") then found.python_link = spare_folder() end
  for _, name in ipairs { "bin", "sbin", "lib", "lib32", "lib64", "libx32" } do
    local link = errors.try(fs.readlink, "/" .. name)
    if link then
      found.links["/" .. name] = link
    elseif errors.try(fs.stat, "/" .. name) then
      found.folders[#found.folders + 1] = "/" .. name
    end
  end
  local zone = errors.try(fs.realpath, "/etc/localtime")
  if zone and zone:find("^/usr/share/zoneinfo/") then found.zone = zone end
  facts = found
  return facts
end

---What stands in for an image here, for people.
---@async
---@return string
function root.describe()
  local found = root.facts()
  local python = found.python and ", python " .. found.python or ""
  return ("this machine's root filesystem (%s%s), read-only"):format(found.system, python)
end

---Bytes that all private files of a sandbox may take: what was asked for, but where
---they live in memory at most a quarter of it.
---@async
---@param disk_size_gb number
---@param on_disk boolean
---@return integer
function root.disk_bytes(disk_size_gb, on_disk)
  local wanted = math.max(1, math.floor(disk_size_gb * GIB))
  if on_disk then return wanted end
  local memory = root.facts().memory
  if memory == 0 then return math.min(wanted, GIB) end
  return math.min(wanted, memory // 4)
end

---The files that say how things are called, by their path in a sandbox.
---@param hostname string
---@param nameserver? string
---@return table<string, string>
function root.name_files(hostname, nameserver)
  return {
    ["/etc/hostname"] = hostname .. "\n",
    ["/etc/hosts"] = "127.0.0.1 localhost " .. hostname
      .. "\n::1 localhost ip6-localhost ip6-loopback\n",
    ["/etc/resolv.conf"] = nameserver and "nameserver " .. nameserver .. "\n" or "",
  }
end

-- The others that are made up here.
local function user_files()
  return {
    ["/etc/passwd"] = "root:x:0:0:root:/root:/bin/sh\n"
      .. "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ["/etc/group"] = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    ["/etc/nsswitch.conf"] = "passwd: files\ngroup: files\nhosts: files dns\n",
  }
end

-- Collects arguments and the descriptors that they speak of.
local Plan = {}
Plan.__index = Plan

function Plan:add(...)
  for _, argument in ipairs { ... } do
    self.args[#self.args + 1] = tostring(argument)
  end
end

-- A descriptor from which `data` can be read.
function Plan:bytes(data)
  local fd = self.next_fd
  self.next_fd = fd + 1
  self.stdio[#self.stdio + 1] = { fd = fd, kind = "bytes", data = data }
  return fd
end

local function add_system(plan)
  local found = root.facts()
  plan:add("--ro-bind", "/usr", "/usr")
  for path, target in pairs(found.links) do
    plan:add("--symlink", target, path)
  end
  for _, path in ipairs(found.folders) do
    plan:add("--ro-bind", path, path)
  end
  if found.python_link then
    plan:add("--size", 64 * 1024, "--tmpfs", found.python_link)
    plan:add("--symlink", "/usr/bin/python3", found.python_link .. "/python")
    plan:add("--remount-ro", found.python_link)
  end
end

local function add_etc(plan, launch)
  plan:add("--perms", "0755", "--dir", "/etc", "--perms", "0755", "--dir", "/etc/ssl")
  for _, name in ipairs(ETC_SHOWN) do
    plan:add("--ro-bind-try", "/etc/" .. name, "/etc/" .. name)
  end
  plan:add("--symlink", "../usr/lib/os-release", "/etc/os-release")
  local zone = root.facts().zone
  if zone then plan:add("--symlink", zone, "/etc/localtime") end
  local names = root.name_files(launch.spec.hostname, launch.nameserver)
  for _, files in ipairs { user_files(), names } do
    for path, text in pairs(files) do
      plan:add("--perms", "0644", "--file", plan:bytes(text), path)
    end
  end
end

local function add_private(plan, spec)
  for _, path in ipairs { "/tmp", "/var/tmp" } do
    plan:add("--perms", "1777", "--dir", path)
  end
  for _, path in ipairs { "/root", "/home", "/var/cache", "/var/lib", "/var/log", "/run",
    "/opt", "/srv", "/workspace", spec.workdir } do
    plan:add("--perms", "0755", "--dir", path)
  end
  plan:add("--symlink", "../run", "/var/run")
  plan:add("--proc", "/proc", "--dev", "/dev")
  plan:add("--size", SHM_BYTES, "--perms", "1777", "--tmpfs", "/dev/shm")
  -- Or files could be piled up in /dev, past the limit on the rest.
  plan:add("--remount-ro", "/dev")
end

---The bubblewrap arguments for the file system, and stdio entries that they
---need, numbered from `first_fd`. The agent is at /.agent.
---@async
---@param launch sbx.server.driver.bwrap.Plan
---@param first_fd integer
---@return string[], table[]
function root.plan(launch, first_fd)
  local plan = setmetatable({ args = {}, stdio = {}, next_fd = first_fd }, Plan)
  if launch.disk then
    plan:add("--bind", disk.SPOT .. "/root", "/")
  else
    plan:add("--size", launch.disk_bytes, "--perms", "0755", "--tmpfs", "/")
  end
  add_system(plan)
  add_etc(plan, launch)
  add_private(plan, launch.spec)
  plan:add("--perms", "0555", "--ro-bind-data", plan:bytes(host.agent()), "/.agent")
  return plan.args, plan.stdio
end

return root
