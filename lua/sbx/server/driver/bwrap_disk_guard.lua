-- Keeps a reserve of this machine's own disk free, whatever the sandboxes write whose
-- disks are sparse files there.
--
-- When less than the reserve is left, each disk is filled up from inside by a file that
-- takes blocks of the sandbox's file system and none of this machine's: to the sandbox its
-- disk is full, with ENOSPC for whoever wants more. What it has written already stays, and
-- can be written over. When there is room again the files are removed.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local process = require("sbx.process")
local sync = require("sbx.sync")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_disk_guard
local disk_guard = {}

local MIB, GIB = 1024 * 1024, 1024 * 1024 * 1024
local MOST_RESERVE, PART, MOST_PART = 2 * GIB, 20, 4
-- Left to a sandbox that is full, for the names of its files and the like.
local SLACK = MIB
local FULL, ROOM = "this machine's disk is nearly full: this sandbox's disk takes no more",
  "there is room on this machine's disk again"
-- Bytes per second: about what can be written, and so when to look next.
local FASTEST = 4 * GIB
local LEAST_PAUSE, MOST_PAUSE = 0.1, 2
local FILLED_AT_ONCE = 8

---@class sbx.server.driver.bwrap.DiskGuard
---@field folder string     on the file system that is guarded
---@field reserve integer   bytes
---@field private members table<table, boolean>
---@field private turn table  a lock: one of those who watch does it
---@field private looking table  a lock: one look at a time
local Guard = {}
Guard.__index = Guard

---What is to stay free of a file system: 2 GiB, or a twentieth of it if that is more; of
---a small one no more than a quarter.
---@param total integer  bytes
---@return integer bytes
function disk_guard.reserve_of(total)
  return math.max(total // PART, math.min(MOST_RESERVE, total // MOST_PART))
end

---@async
---@param folder string
---@return sbx.server.driver.bwrap.DiskGuard
function disk_guard.open(folder)
  return setmetatable({
    folder = folder, reserve = disk_guard.reserve_of(fs.disk(folder).total), members = {},
    turn = sync.mutex(), looking = sync.mutex(),
  }, Guard)
end

-- Bytes on their way to some disk, of whomever.
local function unwritten()
  local sum = 0
  local text = errors.try(fs.read, "/proc/meminfo", { max = 64 * 1024 }) or ""
  for _, name in ipairs { "Dirty", "Writeback" } do
    sum = sum + (tonumber(text:match("\n" .. name .. ":%s+(%d+)")) or 0) * 1024
  end
  return sum
end

-- What is on all disks, as their sandboxes see it.
local function taken(self)
  local sum = 0
  for member in pairs(self.members) do
    local space = errors.try(fs.disk, member.spot)
    local filler = member.full and errors.try(fs.stat, member.file)
    if space then sum = sum + space.total - space.free - (filler and filler.size or 0) end
  end
  return sum
end

---Bytes that are left on this machine's disk, once all is there that sandboxes have written.
---@async
---@return integer
function Guard:room()
  local available = fs.disk(self.folder).available
  local pending = unwritten()
  -- Asking every disk is only worth it when it matters.
  if available - pending < 2 * self.reserve then pending = math.min(pending, taken(self)) end
  return available - pending
end

local function fill(member)
  local space = errors.try(fs.disk, member.spot)
  if not space then return end -- it has just ended
  if space.available > SLACK then
    errors.try(process.run, {
      "fallocate", "-l", tostring(space.available - SLACK), member.file,
    }, { timeout = 20, cwd = "/" })
  end
  member.full = true
  member.note(FULL)
end

local function empty(member)
  errors.try(fs.remove, member.file, { missing_ok = true })
  member.full = false
  member.note(ROOM)
end

-- Does `fn` to those that are not as they should be.
local function change(self, full, fn)
  local list = {}
  for member in pairs(self.members) do
    if member.full ~= full then list[#list + 1] = member end
  end
  task.map(list, fn, { limit = FILLED_AT_ONCE })
end

---Looks once, and does what is called for. Returns the room that it found.
---@async
---@return integer bytes
function Guard:look()
  local _ <close> = self.looking:lock()
  local room = self:room()
  if room < self.reserve then
    change(self, true, fill)
  elseif room > self.reserve + self.reserve // 4 then
    change(self, false, empty)
  end
  return room
end

---Looks again and again, until its task ends. Of many that do one is enough; when that
---one ends, another goes on.
---@async
function Guard:watch()
  local _ <close> = self.turn:lock()
  while true do
    local room = errors.try(self.look, self) or math.huge
    local pause = (room - self.reserve) / FASTEST
    task.sleep(math.max(LEAST_PAUSE, math.min(pause, MOST_PAUSE)))
  end
end

---Takes in the disk of a sandbox.
---@async
---@param outer integer   a process on whose `spot` the disk is mounted
---@param spot string
---@param note fun(line: string)  into the sandbox's log
---@return fun() leave
function Guard:join(outer, spot, note)
  spot = ("/proc/%d/root%s"):format(outer, spot)
  local file = spot .. "/full"
  local member = { spot = spot, file = file, note = note, full = fs.exists(file) }
  self.members[member] = true
  return function()
    self.members[member] = nil
  end
end

return disk_guard
