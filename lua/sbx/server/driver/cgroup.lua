-- Limits on what a sandbox takes of this machine: a control group for each, which its
-- first process joins before it becomes anything else, so that nothing escapes it.
--
-- Their names tell whose they are, so that a later server finds, and removes, what one
-- that has died has left.

local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local layout = require("sbx.server.driver.cgroup_layout")
local owners = require("sbx.server.driver.cgroup_owner")
local process = require("sbx.process")
local task = require("sbx.task")

---@class sbx.server.driver.cgroup
local cgroup = {}

local REMOVE_TRIES, REMOVE_PAUSE = 200, 0.01

---@class sbx.server.driver.cgroup.Groups
---@field version integer
---@field enforces table<string, string>  {memory = "cgroup2", …}: what is limited, by what
---@field private layout sbx.server.driver.cgroup.Layout
---@field private owner sbx.server.driver.cgroup.Owner
local Groups = {}
Groups.__index = Groups

---@class sbx.server.driver.cgroup.Group
---@field id string
---@field folders string[]
---@field joins string[]   files into which a process that joins writes its number
---@field private version integer
---@field private counter? string
local Group = {}
Group.__index = Group

---@class sbx.server.driver.cgroup.Limits
---@field memory? integer     bytes, swap included
---@field cpu? number         cores
---@field processes? integer

-- ------------------------------------------------------------------- the groups

local function places()
  return {
    mounts = fs.read("/proc/self/mounts"),
    own = fs.read("/proc/self/cgroup"),
    pid = core.pid(),
    as_root = fs.stat("/proc/self").uid == 0,
  }
end

---Makes ready to make groups. Returns nil, and why, where this machine or this user
---cannot.
---@async
---@param owner sbx.server.driver.cgroup.Owner  whose the groups will be
---@param where? sbx.server.driver.cgroup.Places  default: what this process finds
---@return sbx.server.driver.cgroup.Groups|nil
---@return string|nil problem
function cgroup.open(owner, where)
  local found, problem = layout.find(where or places())
  if not found then return nil, problem end
  local enforces = {}
  for _, tree in ipairs(found.trees) do
    for _, limit in ipairs(tree.limits) do
      enforces[limit] = "cgroup" .. found.version
    end
  end
  return setmetatable({
    version = found.version, layout = found, owner = owner, enforces = enforces,
  }, Groups)
end

-- The group of that name, whether it is there or not.
local function group_named(self, name)
  local group = setmetatable({
    id = name, version = self.version, folders = {}, joins = {},
  }, Group)
  for index, tree in ipairs(self.layout.trees) do
    local folder = tree.base .. "/" .. name
    group.folders[index] = folder
    group.joins[index] = folder .. "/cgroup.procs"
    for _, limit in ipairs(tree.limits) do
      if limit == "memory" then
        group.counter = folder .. "/" .. layout.kill_counter(self.version)
      end
    end
  end
  return group
end

local function write_limit(version, folder, limit, value)
  for _, file in ipairs(layout.files(version, limit, value)) do
    local path = folder .. "/" .. file[1]
    if not file.optional or fs.exists(path) then fs.write(path, file[2] .. "\n") end
  end
end

local function set_up(self, group, limits)
  for index, tree in ipairs(self.layout.trees) do
    local folder = group.folders[index]
    fs.mkdir(folder, { parents = true })
    for _, limit in ipairs(tree.limits) do
      if limits[limit] then write_limit(self.version, folder, limit, limits[limit]) end
    end
  end
end

---Makes the group of a sandbox. Raises `io` errors; then none of it is left.
---@async
---@param id string
---@param limits sbx.server.driver.cgroup.Limits
---@return sbx.server.driver.cgroup.Group
function Groups:create(id, limits)
  local group = group_named(self, owners.name(self.owner, id))
  local ok, failure = pcall(set_up, self, group, limits)
  if ok then return group end
  group:remove()
  error(failure, 0)
end

-- All names of groups that are there, each once.
local function names_of(self)
  local names = {}
  for _, tree in ipairs(self.layout.trees) do
    for _, name in ipairs(errors.try(fs.list, tree.base) or {}) do
      names[name] = true
    end
  end
  return names
end

local function is_ours(self, owner)
  return owner ~= nil and owner.folder ~= nil and owner.folder == self.owner.folder
end

---The group that this server, or an earlier run of it, made for a sandbox.
---@async
---@param id string
---@param name? string  its name, where that was written down: saves looking for it
---@return sbx.server.driver.cgroup.Group|nil
function Groups:find(id, name)
  local owner, of = owners.parse(type(name) == "string" and name or "")
  if is_ours(self, owner) and of == id then return group_named(self, name) end
  for found in pairs(names_of(self)) do
    owner, of = owners.parse(found)
    if is_ours(self, owner) and of == id then return group_named(self, found) end
  end
  return nil
end

-- Whether a sweep takes it: "all", with what runs in it, or "empty", only without.
local function fate(self, name, known)
  local owner, id = owners.parse(name)
  if not owner then return nil end
  if is_ours(self, owner) then return not known[id] and "all" or nil end
  if not owners.is_dead(owner) then return nil end
  -- What is kept lives on without a server, until one takes it up again.
  return owner.keeps and "empty" or "all"
end

---Removes the groups that dead servers left, and ends what runs in them, unless it was
---to be kept. Of this server's own folder all go that are not in `known`.
---@async
---@param known table<string, boolean>  sandboxes of this server that are spared
---@return integer removed
function Groups:sweep(known)
  local removed = 0
  for name in pairs(names_of(self)) do
    local what = fate(self, name, known)
    local group = what and group_named(self, name)
    if group and (what == "all" or group:is_empty()) then
      group:remove()
      removed = removed + 1
    end
  end
  return removed
end

---Removes the folder of all groups, when it is empty. The next group makes it anew.
---@async
function Groups:close()
  for _, tree in ipairs(self.layout.trees) do
    errors.try(fs.remove, tree.base)
  end
end

-- -------------------------------------------------------------------- one group

---How often the kernel has killed a process in it for want of memory; nil where that
---is not counted.
---@async
---@return integer|nil
function Group:memory_kills()
  local text = self.counter and errors.try(fs.read, self.counter)
  return text and math.tointeger(tonumber(text:match("oom_kill (%d+)")))
end

local function members(folder)
  local pids = {}
  local text = errors.try(fs.read, folder .. "/cgroup.procs") or ""
  for pid in text:gmatch("%d+") do
    -- 0 is a process that cannot be seen from here.
    if pid ~= "0" then pids[#pids + 1] = pid end
  end
  return pids
end

---Whether no process is in it, not even one that cannot be seen from here.
---@async
---@return boolean
function Group:is_empty()
  for _, folder in ipairs(self.folders) do
    local text = errors.try(fs.read, folder .. "/cgroup.procs")
    if text and text:find("%d") then return false end
  end
  return true
end

---Kills all that is in it. Does not wait for their end.
---@async
function Group:kill()
  if self.version == 2 then
    local _, problem = errors.try(fs.write, self.folders[1] .. "/cgroup.kill", "1\n")
    if not problem then return end
  end
  for _, folder in ipairs(self.folders) do
    local pids = members(folder)
    if #pids > 0 then
      process.run({ "/bin/sh", "-c", 'kill -9 "$@"', "kill", table.unpack(pids) }, { timeout = 30 })
      return
    end
  end
end

local function remove_folder(self, folder)
  for try = 1, REMOVE_TRIES do
    local ok, problem = errors.try(function()
      fs.remove(folder)
      return true
    end)
    if ok or problem.code == "ENOENT" then return true end
    -- Processes count until they are buried.
    if try % 20 == 1 then self:kill() end
    task.sleep(REMOVE_PAUSE)
  end
  return false
end

---Kills what is in it and removes it. Harmless when it is gone.
---@async
---@return boolean gone
function Group:remove()
  local gone = true
  for _, folder in ipairs(self.folders) do
    gone = remove_folder(self, folder) and gone
  end
  return gone
end

return cgroup
