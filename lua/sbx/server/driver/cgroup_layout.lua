-- Where control groups can be made here, and by which files their limits are written:
-- version 1 with a hierarchy for each controller, or version 2 with one for all.

local errors = require("sbx.errors")
local fs = require("sbx.fs")

---@class sbx.server.driver.cgroup_layout
local layout = {}

---What we call the controllers, and what the kernel does.
---@type table<string, string>
layout.CONTROLLERS = { memory = "memory", cpu = "cpu", processes = "pids" }

local FOLDER = "sbxlua"
-- Version 2 allows no processes beside groups with limits: ours goes in here.
local OUR_LEAF = "sbxlua.server"
local PERIOD_US = 100000
local LEAST_QUOTA_US = 1000

---@class sbx.server.driver.cgroup.Tree
---@field base string       the folder in which groups are made
---@field limits string[]   "memory", "cpu", "processes"

---@class sbx.server.driver.cgroup.Layout
---@field version integer
---@field trees sbx.server.driver.cgroup.Tree[]

---@class sbx.server.driver.cgroup.Places
---@field mounts string   what /proc/self/mounts says
---@field own string      what /proc/self/cgroup says
---@field pid integer     our own process
---@field as_root boolean

-- ------------------------------------------------------------------- the files

local function quota(cores)
  return math.max(LEAST_QUOTA_US, math.floor(cores * PERIOD_US))
end

-- Each file with its text, in the order in which they are to be written. Those with
-- `optional` are missing where there is no swap.
local FILES = {
  [1] = {
    memory = function(bytes)
      return {
        { "memory.limit_in_bytes", bytes },
        { "memory.memsw.limit_in_bytes", bytes, optional = true },
      }
    end,
    cpu = function(cores)
      return { { "cpu.cfs_period_us", PERIOD_US }, { "cpu.cfs_quota_us", quota(cores) } }
    end,
    processes = function(count)
      return { { "pids.max", count } }
    end,
  },
  [2] = {
    memory = function(bytes)
      return { { "memory.max", bytes }, { "memory.swap.max", 0, optional = true } }
    end,
    cpu = function(cores)
      return { { "cpu.max", quota(cores) .. " " .. PERIOD_US } }
    end,
    processes = function(count)
      return { { "pids.max", count } }
    end,
  },
}

---The files that set one limit, with what goes into them.
---@param version integer
---@param limit string    "memory" (bytes), "cpu" (cores) or "processes" (their number)
---@param value number
---@return {[1]: string, [2]: string|integer, optional?: boolean}[]
function layout.files(version, limit, value)
  return FILES[version][limit](value)
end

---The file that counts the processes killed for want of memory, as "oom_kill N".
---@param version integer
---@return string
function layout.kill_counter(version)
  return version == 1 and "memory.oom_control" or "memory.events"
end

-- ------------------------------------------------------------------- version 1

-- As in /proc/self/mounts: a space is \040.
local function unescape(path)
  return (path:gsub("\\(%d%d%d)", function(digits)
    return string.char(tonumber(digits, 8))
  end))
end

local function has_word(list, wanted)
  for word in list:gmatch("[^,]+") do
    if word == wanted then return true end
  end
  return false
end

local function mount_of_controller(mounts, controller)
  for line in mounts:gmatch("[^\n]+") do
    local path, options = line:match("^%S+ (%S+) cgroup (%S+)")
    if path and has_word(options, controller) then return unescape(path) end
  end
  return nil
end

-- What is mounted may be covered by something else, as in a container; a plain folder
-- would take every limit, and enforce none.
local function make_base(path)
  if not fs.exists(path) then fs.mkdir(path) end
  if fs.exists(path .. "/cgroup.procs") then return path end
  errors.try(fs.remove, path)
  errors.raise { kind = "io", message = path .. ": no control group" }
end

local function version_1(places)
  if not places.as_root then return nil, "control groups of version 1 are root's alone" end
  local trees, problem = {}, nil
  for limit, controller in pairs(layout.CONTROLLERS) do
    local mount = mount_of_controller(places.mounts, controller)
    local base, failure
    if mount then
      base, failure = errors.try(make_base, mount .. "/" .. FOLDER)
    end
    if base then
      trees[#trees + 1] = { base = base, limits = { limit } }
    else
      problem = failure and tostring(failure) or "controller " .. controller .. " is not mounted"
    end
  end
  if #trees == 0 then return nil, problem end
  table.sort(trees, function(a, b)
    return a.base < b.base
  end)
  return { version = 1, trees = trees }
end

-- ------------------------------------------------------------------- version 2

local function mount_of_version_2(mounts)
  local path = ("\n" .. mounts):match("\n%S+ (%S+) cgroup2 ")
  return path and unescape(path)
end

local function words_of(path)
  local words = {}
  for word in (errors.try(fs.read, path) or ""):gmatch("%S+") do
    words[word] = true
  end
  return words
end

-- Lets groups below `folder` have limits; `leave` empties it of our own process when
-- that is in the way. Returns those limits that can be had.
local function enable(folder, leave)
  local there, limits = words_of(folder .. "/cgroup.controllers"), {}
  local failure
  for limit, controller in pairs(layout.CONTROLLERS) do
    if there[controller] then
      local function switch_on()
        if words_of(folder .. "/cgroup.subtree_control")[controller] then return true end
        fs.write(folder .. "/cgroup.subtree_control", "+" .. controller .. "\n")
        return true
      end
      local ok, problem = errors.try(switch_on)
      if not ok and leave and problem.code == "EBUSY" then
        leave()
        leave = nil
        ok, problem = errors.try(switch_on)
      end
      if ok then
        limits[#limits + 1] = limit
      else
        failure = problem
      end
    end
  end
  table.sort(limits)
  return limits, failure
end

-- The group that we may divide: as root the topmost one, as a user our own.
local function parent_of_version_2(places, mount)
  local own = ("\n" .. places.own):match("\n0::(/[^\n]*)") or "/"
  if places.as_root then return mount, own == "/" end
  return own == "/" and mount or mount .. own, true
end

local function version_2(places, mount)
  local parent, is_ours = parent_of_version_2(places, mount)
  local function leave()
    local leaf = parent .. "/" .. OUR_LEAF
    fs.mkdir(leaf, { parents = true })
    fs.write(leaf .. "/cgroup.procs", places.pid .. "\n")
  end
  local limits, failure = enable(parent, is_ours and leave or nil)
  if #limits == 0 then
    return nil, failure and tostring(failure) or parent .. ": no controller is delegated to it"
  end
  local base = parent .. "/" .. FOLDER
  local made, problem = errors.try(make_base, base)
  if not made then return nil, tostring(problem) end
  limits, failure = enable(base)
  if #limits == 0 then return nil, tostring(failure) end
  return { version = 2, trees = { { base = base, limits = limits } } }
end

---Where limits can be set here, having made the folders for it; nil and why not.
---@async
---@param places sbx.server.driver.cgroup.Places
---@return sbx.server.driver.cgroup.Layout|nil
---@return string|nil problem
function layout.find(places)
  local mount = mount_of_version_2(places.mounts)
  local found, problem
  -- In the hybrid form version 2 is mounted too, without the controllers.
  if mount and words_of(mount .. "/cgroup.controllers").memory then
    found, problem = version_2(places, mount)
  elseif places.mounts:find(" cgroup ", 1, true) then
    found, problem = version_1(places)
  elseif mount then
    found, problem = version_2(places, mount)
  else
    problem = "no control groups are mounted"
  end
  return found, problem
end

return layout
