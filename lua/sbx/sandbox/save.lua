-- A download into a local file, which has its name only once it is whole and on
-- disk. What is there of it until then stands beside it, and may be gone on with.

local download = require("sbx.sandbox.download")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local lock = require("sbx.core.lock")
local path = require("sbx.path")
local remote = require("sbx.sandbox.remote")
local task = require("sbx.task")

local CHUNK = 1024 * 1024
local CLEANUP_SECONDS = 5
local PERMISSIONS = tonumber("777", 8)
local EVERYBODY, OWNER = tonumber("666", 8), tonumber("600", 8)

---@class sbx.sandbox.SavePlan: sbx.sandbox.DownloadPlan
---@field progress? fun(done: integer, total: integer|nil)
---@field checksum? boolean
---@field resume? boolean

-- Where the bytes go meanwhile.
---@class sbx.sandbox.Partial
---@field path string
---@field target string       what it becomes
---@field mode integer|nil    of the file that it replaces
---@field in_place boolean    the target is no plain file, such as /dev/null
---@field shared boolean      others know its path: it is ours while we hold `lock`
---@field keep boolean        stays after a failure, for the next try
---@field size integer        bytes in it
---@field done boolean
---@field file sbx.fs.File|nil
---@field lock { close: fun(self) }|nil
---@field digest sbx.Hash|nil
local Partial = {}
Partial.__index = Partial

local function refuse(plan, target, code, why)
  errors.raise({
    kind = "io",
    code = code,
    op = plan.op,
    sandbox_id = plan.sandbox_id,
    message = ("%s %s: %s %s"):format(plan.op, plan.sandbox_id, target, why),
  })
end

---@async
local function partial_for(plan, target)
  local self = setmetatable({
    in_place = false, shared = false, keep = plan.resume or false, done = false, size = 0,
  }, Partial)
  if fs.exists(target) then
    target = fs.realpath(target)
    local facts = fs.stat(target)
    if facts.type == "directory" then refuse(plan, target, "EISDIR", "is a folder") end
    self.in_place, self.mode = facts.type ~= "file", facts.mode & PERMISSIONS
  else
    fs.mkdir(path.dirname(target), { parents = true })
  end
  self.target = target
  if self.in_place then
    self.path = target
  elseif plan.resume then
    self.path, self.shared = target .. ".part", true
  else
    self.path = path.join(path.dirname(target), (".%s.part"):format(hash.random_hex(8)))
  end
  return self
end

-- What a file system answers that has no locks: one goes without.
local lockless = { ENOLCK = true, ENOTSUP = true, EOPNOTSUPP = true, ENOSYS = true }
local NO_LOCK = { close = function() end }

-- Two that write one file would make a third of it.
---@async
local function claim(self, plan)
  local facts = errors.try(fs.lstat, self.path)
  if facts and facts.type ~= "file" then refuse(plan, self.path, "EEXIST", "is no file") end
  -- Made here, for a lock would make it with a mode of its own.
  fs.open(self.path, "a", { perm = self.mode and OWNER or EVERYBODY }):close()
  local held, err = errors.try(lock.try, self.path)
  if err and not (errors.is_error(err) and lockless[err.code]) then error(err, 0) end
  self.lock = held or err and NO_LOCK
  if not self.lock then
    refuse(plan, self.path, "EBUSY", "is what another download with resume is writing")
  end
end

-- Forgets what is there and begins with an empty file.
---@async
function Partial:restart()
  if self.file then self.file:close() end
  if self.in_place or self.lock then
    self.file = fs.open(self.path, "w")
  else
    fs.remove(self.path, { missing_ok = true })
    self.file = fs.open(self.path, "wx", { perm = self.mode and OWNER or EVERYBODY })
  end
  self.digest, self.size = hash.sha256_new(), 0
end

-- Adds to what is there.
---@async
function Partial:add(bytes, plan)
  self.file:write(bytes)
  self.size = self.size + #bytes
  if plan.checksum then self.digest:update(bytes) end
end

-- Goes on with what an earlier call left, if it is the beginning of the file that
-- is there now. Returns the size of that one.
---@async
function Partial:continue(client, plan)
  local facts = fs.lstat(self.path)
  if facts.size == 0 then return nil end
  local file = fs.open(self.path, "r+")
  self.file, self.size = file, facts.size -- it stays, whatever happens here
  local digest, count = hash.sha256_new(), 0
  for bytes in function() return file:read(CHUNK) end do
    digest:update(bytes)
    count = count + #bytes
  end
  plan.long = count >= remote.LARGE
  local ok, size, there = pcall(remote.digest, client, plan, plan.path, count)
  if not ok then
    local err = size
    local helpless = errors.is_error(err)
      and (err.kind == "unsupported" or err.code == "COMMAND_FAILED")
    if not helpless then error(err, 0) end
    return nil -- nobody can tell
  end
  if size < count or there ~= digest:hex() then return nil end
  self.digest, self.size = digest, count
  return size
end

---@async
function Partial:become_target()
  if not self.in_place then
    self.file:sync()
    self.file:close()
    if self.mode then fs.chmod(self.path, self.mode) end
    fs.rename(self.path, self.target)
  end
  self.done = true
end

function Partial:__close()
  if self.file then self.file:close() end
  local ours = self.lock or not self.shared
  if ours and not (self.done or self.in_place or (self.keep and self.size > 0)) then
    -- Also when cancelled: no half a file may stay behind.
    task.shield(CLEANUP_SECONDS, errors.try, fs.remove, self.path, { missing_ok = true })
  end
  if self.lock then self.lock:close() end
end

---@async
local function receive(client, plan, part)
  local resume = plan.resume and not part.in_place
  -- In one go: who is cancelled halfway would leave an empty file.
  if resume then task.shield(CLEANUP_SECONDS, claim, part, plan) end
  local known = resume and part:continue(client, plan)
  if not known then part:restart() end
  local function tell(total)
    if plan.progress then plan.progress(part.size, total) end
  end
  if part.size > 0 then
    tell(known)
    if part.size == known then return end
  end
  plan.at, plan.size = part.size, known or nil
  plan.restart = function() part:restart() end
  local source <close> = download.open(client, plan)
  for bytes in source:chunks() do
    part:add(bytes, plan)
    tell(source.size)
  end
  if part.size == 0 then tell(0) end
end

---@async
local function verify(client, plan, part)
  plan.long = part.size >= remote.LARGE
  local _, there = remote.digest(client, plan, plan.path)
  local here = part.digest:hex()
  if here == there then return end
  part.keep = false -- nothing to go on with
  remote.mismatch(plan, plan.path, there, here)
end

---Copies a file out of a sandbox. Raises `io`, `checksum_mismatch`, and what a
---download raises.
---@async
---@param client sbx.sandbox.Client
---@param plan sbx.sandbox.SavePlan
---@param target string  a local path
---@return integer size  bytes
return function(client, plan, target)
  local part <close> = partial_for(plan, target)
  receive(client, plan, part)
  if plan.checksum then verify(client, plan, part) end
  part:become_target()
  return part.size
end
