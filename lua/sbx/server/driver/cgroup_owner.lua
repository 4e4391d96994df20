-- Whose a control group is, told by its name alone: OWNER.SANDBOX. So any later server
-- can tell what is left of one that has died, also when that one's folder is gone.
--
-- OWNER is KIND[FOLDER]_SPACE_PID_START: the process that made the group, by its number,
-- the namespace of that number and the time of its start, since numbers are used again.

local core = require("sbx.core.process")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local processes = require("sbx.server.driver.bwrap_process")

---@class sbx.server.driver.cgroup_owner
local cgroup_owner = {}

---@class sbx.server.driver.cgroup.Owner
---@field folder? string  stands for the folder of the server, the same from run to run
---@field keeps boolean   its sandboxes may outlive it
---@field space string    namespace of process numbers
---@field pid integer
---@field start string    as in /proc/PID/stat

local PATTERN = "^([nfk])(%x*)_(%d+)_(%d+)_(%d+)$"

local function own_space()
  return fs.readlink("/proc/self/ns/pid"):match("%d+")
end

---This process, as the owner of groups.
---@async
---@param folder? string  the driver's, from run to run; nil: it has none
---@param keeps? boolean  its sandboxes may outlive it
---@return sbx.server.driver.cgroup.Owner
function cgroup_owner.this(folder, keeps)
  local pid = core.pid()
  return {
    folder = folder and hash.sha256(fs.realpath(folder)):sub(1, 12),
    keeps = folder ~= nil and keeps == true,
    space = own_space(), pid = pid, start = processes.identify(pid).start,
  }
end

---The name of a sandbox's group.
---@param owner sbx.server.driver.cgroup.Owner
---@param id string
---@return string
function cgroup_owner.name(owner, id)
  local kind = owner.keeps and "k" or owner.folder and "f" or "n"
  return ("%s%s_%s_%d_%s.%s"):format(kind, owner.folder or "", owner.space, owner.pid, owner.start,
    id)
end

---The owner and the sandbox that a name tells; nil where it is not one of ours.
---@param name string
---@return sbx.server.driver.cgroup.Owner|nil
---@return string|nil id
function cgroup_owner.parse(name)
  local text, id = name:match("^([^.]+)%.(.+)$")
  if not text then return nil end
  local kind, folder, space, pid, start = text:match(PATTERN)
  pid = math.tointeger(tonumber(pid))
  if not pid or (kind == "n") ~= (folder == "") then return nil end
  return {
    folder = kind ~= "n" and folder or nil, keeps = kind == "k", space = space, pid = pid,
    start = start,
  }, id
end

---Whether it is known to have ended. What cannot be seen from here, in another container,
---lives for all that we know.
---@async
---@param owner sbx.server.driver.cgroup.Owner
---@return boolean
function cgroup_owner.is_dead(owner)
  return owner.space == own_space() and not processes.is_alive(owner)
end

return cgroup_owner
