-- Unpacks an archive that a sandbox made, which may be hostile, into a new folder
-- that nobody else can enter. Links are made last: as long as files are written
-- there is none that a path could lead through, and whatever stands in the way of
-- an entry is something that the archive itself has put there.

local core = require("sbx.core.fs")
local core_file = require("sbx.core.file")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local file_of = require("sbx.fs.file")
local inside = require("sbx.sandbox.inside")
local tar = require("sbx.sandbox.tar")
local tar_reader = require("sbx.sandbox.tar_reader")
local turns = require("sbx.fs.turns")

local MAX_PATH = 4096 -- bytes
local MAX_HELD = 64 * 1024 * 1024 -- bytes of names in memory
local PERMISSIONS = tonumber("777", 8)
local EARLIEST, LATEST = -(1 << 31), 1 << 33 -- seconds since 1970

---@class sbx.sandbox.Unpacked
---@field files integer
---@field folders integer
---@field links integer     symbolic and hard ones
---@field bytes integer     in files
---@field skipped string[]  what was left out as unsafe
---@field made table<string, { mode: integer|nil, mtime: number|nil }>  folders, by path

---@class sbx.sandbox.UnpackOptions
---@field filter sbx.sandbox.Filter
---@field skip_unsafe boolean
---@field max_bytes integer
---@field max_entries integer

---@class sbx.sandbox.Unpacker
local Unpacker = {}
Unpacker.__index = Unpacker

local function show(path)
  return failure.clean(path, nil, 200)
end

local function limit(what, most)
  errors.raise({
    kind = "limit", op = "unpack", message = ("unpack: more than %d %s"):format(most, what),
  })
end

function Unpacker:count_entry()
  self.entries = self.entries + 1
  if self.entries > self.options.max_entries then limit("entries", self.options.max_entries) end
end

function Unpacker:hold(...)
  for _, name in ipairs({ ... }) do
    self.held = self.held + #name + 64
  end
  if self.held > MAX_HELD then limit("bytes of names", MAX_HELD) end
end

-- True when the entry is to be left out; else raises.
function Unpacker:unsafe(path, why)
  if self.options.skip_unsafe then
    self:hold(path)
    table.insert(self.result.skipped, path)
    return true
  end
  tar.refuse("UNSAFE", ("%s %s; unsafe = \"skip\" leaves it out"):format(show(path), why))
end

-- ------------------------------------------------------------------ folders

-- Makes a folder unless it is there.
---@async
function Unpacker:folder(path)
  local known = self.result.made[path]
  if known then return known end
  if path ~= "" then
    self:folder(path:match("^(.*)/") or "")
    self:count_entry()
    self:hold(path)
    local _, err = errors.try(core.mkdir, self.root .. "/" .. path, PERMISSIONS)
    if err and err.code == "EEXIST" then
      tar.refuse("DUPLICATE", show(path) .. " is a folder and something else")
    elseif err then
      error(err, 0)
    end
    self.result.folders = self.result.folders + 1
  end
  known = {}
  self.result.made[path] = known
  return known
end

---@async
function Unpacker:folder_of(path)
  self:folder(path:match("^(.*)/") or "")
end

-- Raises what `fn(...)` raises, in our words where the name is taken.
---@async
local function make(path, fn, ...)
  local result, err = errors.try(fn, ...)
  if not err then return result end
  if errors.is_error(err) and err.code == "EEXIST" then
    tar.refuse("DUPLICATE", show(path) .. " is in the archive twice")
  end
  error(err, 0)
end

local function time_of(entry)
  return math.max(EARLIEST, math.min(LATEST, entry.mtime))
end

-- ------------------------------------------------------------------ entries

local kinds = {}

function kinds.directory(self, path, entry)
  local facts = self:folder(path)
  facts.mode, facts.mtime = entry.mode & PERMISSIONS, time_of(entry)
end

function kinds.file(self, path, entry)
  self:folder_of(path)
  local full = self.root .. "/" .. path
  do
    -- The umask takes its part, as it does for everything that is made here.
    local opened = make(path, core_file.open, full, "wx", entry.mode & PERMISSIONS)
    local file <close> = file_of.wrap(opened, full)
    for bytes in function() return self.reader:read() end do
      file:write(bytes)
    end
  end
  core.utime(full, time_of(entry), time_of(entry))
  self.result.bytes = self.result.bytes + entry.size
  self.result.files = self.result.files + 1
end

function kinds.hardlink(self, path, entry)
  local target = #entry.link <= MAX_PATH and inside.path(entry.link)
  local text = self.targets[target]
  if text then return kinds.symlink(self, path, { link = text }) end -- two names of one link
  local facts = target and target ~= "" and errors.try(core.lstat, self.root .. "/" .. target)
  if not facts or facts.type ~= "file" then
    local excluded = target and self.options.filter:leaves_out_below(target)
    return self:unsafe(path, excluded and "is a hard link to a file that is excluded"
      or "is a hard link to what is no file before it in the archive")
  end
  self:folder_of(path)
  make(path, core.link, self.root .. "/" .. target, self.root .. "/" .. path)
  self.result.links = self.result.links + 1
end

function kinds.symlink(self, path, entry)
  if #entry.link > MAX_PATH or not inside.link(path, entry.link) then
    return self:unsafe(path, "is a link that leads outside: " .. show(entry.link))
  end
  self:hold(path, entry.link)
  table.insert(self.links, { path = path, target = entry.link })
  self.targets[path] = entry.link
end

function kinds.special(self, path)
  return self:unsafe(path, "is a device or a FIFO")
end

---@async
function Unpacker:take(entry)
  self:count_entry()
  local path = #entry.path <= MAX_PATH and inside.path(entry.path)
  if not path or (path == "" and entry.type ~= "directory") then
    tar.refuse("UNSAFE", "the archive has an entry for " .. show(entry.path))
  end
  -- Also what is left out has to be read.
  local most = self.options.max_bytes
  self.announced = self.announced + entry.size
  if self.announced + self.reader.extra > most then limit("bytes", most) end
  if path ~= "" and self.options.filter:leaves_out_below(path) then return end
  kinds[entry.type](self, path, entry)
end

-- Their folders are real ones: nothing else was made so far, and a link in the
-- place of a folder stops `folder`.
---@async
function Unpacker:make_links()
  for _, link in ipairs(self.links) do
    self:folder_of(link.path)
    make(link.path, core.symlink, link.target, self.root .. "/" .. link.path)
    self.result.links = self.result.links + 1
  end
end

---Unpacks all of an archive into `root`, a new and empty folder whose parents only
---we can enter. The modes and times of folders are left to be set: `made` has them.
---Raises kind `archive` for what is damaged or hostile, `limit` for too much, `io`.
---@async
---@param source async fun(): string|nil
---@param root string
---@param options sbx.sandbox.UnpackOptions
---@return sbx.sandbox.Unpacked
return function(source, root, options)
  local self = setmetatable({
    reader = tar_reader.new(source), root = root, options = options, entries = 0, held = 0,
    announced = 0, links = {}, targets = {},
    result = { files = 0, folders = 0, links = 0, bytes = 0, skipped = {}, made = {} },
  }, Unpacker)
  local breathe = turns.new()
  for entry in function() return self.reader:next() end do
    self:take(entry)
    breathe()
  end
  self:make_links()
  return self.result
end
