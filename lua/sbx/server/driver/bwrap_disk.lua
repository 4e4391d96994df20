-- The disks of sandboxes, where we are root and this machine has loop devices: a file
-- system of its own for each, of the size that was asked for, in a sparse file that has
-- no name any more once it is mounted. So what a sandbox writes takes none of its memory,
-- and of this machine's disk no more than that, and it is gone when its last process is.

local core = require("sbx.core.process")
local disk_guard = require("sbx.server.driver.bwrap_disk_guard")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local process = require("sbx.process")
local processes = require("sbx.server.driver.bwrap_process")
local sync = require("sbx.sync")

---@class sbx.server.driver.bwrap_disk
local disk = {}

---Where it is mounted, in a mount namespace of the sandbox's own. The user that the
---sandbox becomes must be able to go there.
disk.SPOT = "/mnt"

local MIB, GIB = 1024 * 1024, 1024 * 1024 * 1024
local LEAST = 4 * 1024 * 1024 -- bytes; smaller ones are not worth a file system
---Where the files are, unless told otherwise.
disk.BASE = "/var/tmp"
local NAME = "^sbxlua%-disks%-(%d+)%-(%d+)$" -- pid, its start
local MAX_TEMPLATES = 16
-- Where room is scarce sizes go by this: each costs a template.
local STEP = 64 * MIB
local SECONDS = 20
local OPTIONS = "loop,noatime,nosuid,nodev,noinit_itable"

---@class sbx.server.driver.bwrap.Template
---@field path string
---@field users integer   that have not copied it yet

---@class sbx.server.driver.bwrap.Disks
---@field folder string
---@field base string    in which that is
---@field guard sbx.server.driver.bwrap.DiskGuard
---@field private templates table<integer, sbx.server.driver.bwrap.Template>  by size
---@field private order integer[]
---@field private count integer
---@field private made? boolean   the folder is there, and ours
---@field private turn table  a lock: one template at a time
local Disks = {}
Disks.__index = Disks

local function run(argv)
  local result = process.run(argv, { timeout = SECONDS, cwd = "/", max_output = 4096 })
  if result.code == 0 then return end
  errors.raise {
    kind = "process",
    message = argv[1] .. ": " .. (result.stderr:match("[^\n]+") or "exit code " .. result.code),
  }
end

-- Removes the oldest template that nobody is about to copy.
local function forget_one(self)
  for index, bytes in ipairs(self.order) do
    local known = self.templates[bytes]
    if known.users == 0 then
      table.remove(self.order, index)
      self.templates[bytes] = nil
      errors.try(fs.remove, known.path)
      return
    end
  end
end

-- An empty file system in a file, to be copied: making one anew takes ten times longer.
-- It stays until it is let go of, once by each that asked.
local function template(self, bytes)
  local _ <close> = self.turn:lock()
  local known = self.templates[bytes]
  if not known then
    if #self.order >= MAX_TEMPLATES then forget_one(self) end
    self.count = self.count + 1
    local path = ("%s/template-%d"):format(self.folder, self.count)
    fs.write(path, "", { mode = 384 }) -- 0600
    run { "truncate", "-s", tostring(bytes), path }
    -- No journal: nothing of it outlives a crash in any case.
    run {
      "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode",
      "-E", "lazy_itable_init=1,nodiscard", path,
    }
    known = { path = path, users = 0 }
    self.templates[bytes] = known
    self.order[#self.order + 1] = bytes
  end
  known.users = known.users + 1
  return known
end

-- Anybody may make files there; those of others are neither used nor removed.
local function is_ours(path)
  local facts = errors.try(fs.lstat, path)
  return facts and facts.type == "directory" and facts.uid == 0
    and facts.mode & 18 == 0 -- octal 022: written to by nobody else
end

-- What servers that were killed have left.
local function sweep(base)
  for _, name in ipairs(errors.try(fs.list, base) or {}) do
    local pid, start = name:match(NAME)
    local owner = pid and { pid = math.tointeger(tonumber(pid)), start = start }
    if owner and is_ours(base .. "/" .. name) and not processes.is_alive(owner) then
      errors.try(fs.remove, base .. "/" .. name, { recursive = true })
    end
  end
end

-- Nobody else may rename or remove what is in there.
local function check_base(base)
  local facts = fs.stat(base)
  local safe = facts.type == "directory" and facts.uid == 0
    and (facts.mode & 18 == 0 or facts.mode & 512 ~= 0) -- octal 022, 01000
  if safe then return end
  errors.raise {
    kind = "process",
    message = base .. ": not a folder of root's that only root, or with a sticky bit, can write to",
  }
end

local function open(self)
  check_base(self.base)
  self.guard = disk_guard.open(self.base)
  local above = self.folder:match("^(.*)/")
  local fresh, failure = pcall(fs.mkdir, above, { mode = 448 }) -- 0700
  if not fresh and not is_ours(above) then error(failure, 0) end
  fs.mkdir(self.folder, { mode = 448 })
  self.made = true
  local made = template(self, math.floor(5 * GIB)) -- what is mostly asked for
  made.users = made.users - 1
  run {
    "unshare", "--mount", "--propagation", "private", "--", "mount", "-t", "ext4", "-o",
    OPTIONS .. ",ro", made.path, disk.SPOT,
  }
end

local opened = 0

---Makes ready to give sandboxes disks. Returns nil, and why, where that cannot be.
---@async
---@param base? string  the folder that their files are in (default /var/tmp)
---@return sbx.server.driver.bwrap.Disks|nil
---@return string|nil problem
function disk.open(base)
  local found, missing = errors.try(fs.realpath, base or disk.BASE)
  if not found then return nil, tostring(missing) end
  base = found
  sweep(base)
  local pid = core.pid()
  local folder = ("%s/sbxlua-disks-%d-%s"):format(base, pid, processes.identify(pid).start)
  opened = opened + 1
  local self = setmetatable({
    -- Several drivers of one process have a folder each, in the one that is swept.
    folder = folder .. "/" .. opened, base = base, templates = {}, order = {}, count = 0,
    turn = sync.mutex(),
  }, Disks)
  local ok, failure = pcall(open, self)
  if ok then return self end
  self:close()
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
  return nil, tostring(failure)
end

---@class sbx.server.driver.bwrap.Disk
---@field template sbx.server.driver.bwrap.Template
---@field path string   of the file, until it is mounted
---@field bytes integer
---@field settled? boolean

---How large the disk of one sandbox may be that asks for `bytes`: what is free on this
---machine's own disk at present, but for a reserve, is the most. What many of them write
---together is the guard's to see to. Raises `process` when not even one can begin.
---@async
---@param bytes integer
---@return integer
function Disks:bound(bytes)
  local room = self.guard:room() - self.guard.reserve
  if room < STEP then
    errors.raise {
      kind = "process", op = "start a sandbox",
      message = ("this machine's disk is nearly full: %d MiB are left at %s, and %d stay free. Free"
        .. " some there, or have the disks of sandboxes elsewhere: serve --disks DIR"):format(
        fs.disk(self.base).available // MIB, self.base, self.guard.reserve // MIB),
    }
  end
  local step = room >= GIB and GIB or STEP
  return math.min(bytes, room // step * step)
end

---A disk for one sandbox, to be made and mounted by the lines of `mounting`; then, or when
---that will not be, `settle` it. nil where it is too small for one.
---@async
---@param bytes integer
---@return sbx.server.driver.bwrap.Disk|nil
function Disks:create(bytes)
  if bytes < LEAST then return nil end
  local made = template(self, bytes)
  self.count = self.count + 1
  return { template = made, path = ("%s/disk-%d"):format(self.folder, self.count), bytes = bytes }
end

---The disk is mounted, or never will be. Harmless when it was told before.
---@param made sbx.server.driver.bwrap.Disk
function disk.settle(made)
  if made.settled then return end
  made.settled = true
  made.template.users = made.template.users - 1
end

---Adds to the shell's `lines`, and the `words` that they take, what makes and mounts it.
---@param made sbx.server.driver.bwrap.Disk
---@param lines string[]
---@param words string[]
function disk.mounting(made, lines, words)
  table.move({
    'disk=$2',
    [[trap 'rm -f "$disk"' EXIT]],
    'cp --sparse=always "$1" "$disk"',
    ('mount -t ext4 -o %s "$disk" %s'):format(OPTIONS, disk.SPOT),
    'rm "$disk"',
    "trap - EXIT",
    "shift 2",
  }, 1, 7, #lines + 1, lines)
  table.move({ made.template.path, made.path }, 1, 2, #words + 1, words)
end

---Leaves nothing behind. The disks of sandboxes that live on are theirs.
---@async
function Disks:close()
  if not self.made then return end
  errors.try(fs.remove, self.folder, { recursive = true })
  errors.try(fs.remove, self.folder:match("^(.*)/")) -- when it is empty
end

return disk
