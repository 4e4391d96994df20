-- What a bubblewrap sandbox may take of this machine, and who sees to that: a control
-- group where one can be had, the limits of processes otherwise, which are weaker. What
-- is said to be enforced is; nothing is assumed.

local cgroup = require("sbx.server.driver.cgroup")
local errors = require("sbx.errors")
local owners = require("sbx.server.driver.cgroup_owner")

---@class sbx.server.driver.bwrap_limits
local limits = {}

---Of one sandbox; in a control group the few of its start come on top.
limits.MAX_PROCESSES = 512
local STARTERS = 16
local GIB = 1024 * 1024 * 1024
-- Less than that, and our agent itself might not start.
local LEAST_MEMORY = 16 * 1024 * 1024

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
---@param keeps? boolean   sandboxes may outlive this process
---@return sbx.server.driver.bwrap.Limits
function limits.open(folder, on_disk, keeps)
  local groups, problem = cgroup.open(owners.this(folder, keeps))
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

---The group that this or an earlier run made for a sandbox.
---@async
---@param id string
---@param name? string  as it was written down
---@return sbx.server.driver.cgroup.Group|nil
function Limits:find(id, name)
  return self.groups and self.groups:find(id, name)
end

---Removes the groups that are left of servers that have died, and those of this one's
---folder but for those of `known`.
---@async
---@param known table<string, boolean>
---@return integer removed
function Limits:sweep(known)
  if not self.groups then return 0 end
  return errors.try(self.groups.sweep, self.groups, known) or 0
end

---Leaves nothing behind, where there are no sandboxes any more.
---@async
function Limits:close()
  if self.groups then self.groups:close() end
end

return limits
