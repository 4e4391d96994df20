-- What a bubblewrap sandbox may take of this machine, and who sees to that: a control
-- group where one can be had, the limits of processes otherwise, which are weaker. What
-- is said to be enforced is; nothing is assumed.

local cgroup = require("sbx.server.driver.cgroup")
local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local processes = require("sbx.server.driver.bwrap_process")

---@class sbx.server.driver.bwrap_limits
local limits = {}

---Of one sandbox; in a control group the few of its start come on top.
limits.MAX_PROCESSES = 512
local STARTERS = 16
local GIB = 1024 * 1024 * 1024
-- Less than that, and our agent itself might not start.
local LEAST_MEMORY = 16 * 1024 * 1024

-- The name of the server on `folder`, the same each time; without one, of this process.
local function server_name(folder)
  if folder then return "f" .. hash.sha256(fs.realpath(folder)):sub(1, 12) end
  local pid = core.pid()
  return ("p%d-%s"):format(pid, processes.identify(pid).start)
end

-- Whether a server without a folder is known to be gone.
local function is_dead(server)
  local pid, start = server:match("^p(%d+)%-(%d+)$")
  if not pid then return false end
  return not processes.is_alive { pid = math.tointeger(tonumber(pid)), start = start }
end

---@class sbx.server.driver.bwrap.Limits
---@field groups? sbx.server.driver.cgroup.Groups
---@field private lasting boolean    groups are found again by the next run
---@field problem? string            why there are none
---@field enforced table<string, string>  {memory = "cgroup1", …}, of every sandbox
local Limits = {}
Limits.__index = Limits

---Finds out what can be limited here.
---@async
---@param folder? string  the driver's, from run to run
---@param on_disk boolean  the files of sandboxes are not in memory
---@return sbx.server.driver.bwrap.Limits
function limits.open(folder, on_disk)
  local groups, problem = cgroup.open(server_name(folder))
  local has = groups and groups.enforces or {}
  return setmetatable({
    groups = groups,
    lasting = folder ~= nil,
    problem = problem,
    enforced = {
      memory = has.memory or "rlimit",
      cpu = has.cpu or "none",
      processes = has.processes or "rlimit",
      files = "rlimit",
      disk = on_disk and "ext4" or "tmpfs",
    },
  }, Limits)
end

-- Without a folder several drivers of one process share a name.
local count = 0

local function group_id(self, id)
  if self.lasting then return id end
  count = count + 1
  return id .. "." .. count
end

---The control group of a sandbox with what goes with it; what is enforced, for people.
---@async
---@param spec {id: string, memory_gb?: number, cpu_cores?: number}
---@param disk_bytes integer
---@param on_disk boolean
---@return {group: sbx.server.driver.cgroup.Group|nil, data_bytes: integer|nil} made
---@return table<string, string|integer|number> enforced
function Limits:create(spec, disk_bytes, on_disk)
  local bytes = spec.memory_gb and math.max(LEAST_MEMORY, math.floor(spec.memory_gb * GIB))
  -- Files in memory are counted there; whoever fills a disk has not used up memory.
  if bytes and self.groups and not on_disk then bytes = bytes + disk_bytes end
  local enforced = {
    max_processes = limits.MAX_PROCESSES, disk_bytes = disk_bytes, memory_bytes = bytes,
    cpu_cores = spec.cpu_cores,
  }
  for name, by in pairs(self.enforced) do
    enforced[name] = by
  end
  enforced.disk = on_disk and "ext4" or "tmpfs"
  if not bytes then enforced.memory = "none" end
  if not spec.cpu_cores then enforced.cpu = "none" end
  local made = {}
  if self.enforced.memory == "rlimit" then made.data_bytes = bytes end
  if self.groups then
    made.group = self.groups:create(group_id(self, spec.id), {
      memory = bytes, cpu = spec.cpu_cores, processes = limits.MAX_PROCESSES + STARTERS,
    })
  end
  return made, enforced
end

---The group that an earlier run made for a sandbox.
---@param id string
---@return sbx.server.driver.cgroup.Group|nil
function Limits:find(id)
  return self.groups and self.groups:find(id)
end

---Removes the groups that are left of earlier runs, but for those of `known`.
---@async
---@param known table<string, boolean>
---@return integer removed
function Limits:sweep(known)
  if not self.groups then return 0 end
  -- Where the name is that of this process, what bears it is not left of anything.
  return errors.try(self.groups.sweep, self.groups, self.lasting and known or nil, is_dead) or 0
end

---Leaves nothing behind, where there are no sandboxes any more.
---@async
function Limits:close()
  if self.groups then self.groups:close() end
end

return limits
