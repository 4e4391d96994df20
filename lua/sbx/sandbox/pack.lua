-- A local tree as a tar archive, made as it is read: what is held in memory are a
-- piece of a file and the names of the folders on the way down.

local core = require("sbx.core.fs")
local core_file = require("sbx.core.file")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local inside = require("sbx.sandbox.inside")
local tar = require("sbx.sandbox.tar")
local walk = require("sbx.fs.walk")

local CHUNK = 256 * 1024

---@class sbx.sandbox.Packed
---@field files integer
---@field folders integer
---@field links integer
---@field bytes integer     in files
---@field skipped string[]  what was left out as unsafe

---@class sbx.sandbox.Packer
---@field result sbx.sandbox.Packed
local Packer = {}
Packer.__index = Packer

local function raise(code, path, why)
  errors.raise({
    kind = "io", code = code, op = "pack",
    message = ("pack %s: %s"):format(failure.clean(path, nil, 300), why),
  })
end

function Packer:unsafe(relative, path, code, why)
  if not self.skip_unsafe then raise(code, path, why .. '; unsafe = "skip" leaves it out') end
  table.insert(self.result.skipped, relative)
end

function Packer:add(bytes)
  self.ready[#self.ready + 1] = bytes
  self.size = self.size + #bytes
end

-- The facts and what else `fn(path)` finds of an entry; nil when it is gone.
---@async
local function unless_gone(fn, path, ...)
  local found, err = errors.try(fn, path, ...)
  if not err then return found end
  if errors.is_error(err) and err.code == "ENOENT" then return nil end
  error(err, 0)
end

local kinds = {}

function kinds.directory(self, relative, _, facts)
  self:add(tar.header({
    type = "directory", path = relative, mode = facts.mode, mtime = facts.mtime,
  }))
  self.result.folders = self.result.folders + 1
end

function kinds.symlink(self, relative, path, facts)
  local target = unless_gone(core.readlink, path)
  if not target then return end
  if not inside.link(relative, target) then
    return self:unsafe(relative, path, "EXDEV", "is a link that leads out of the tree")
  end
  self:add(tar.header({
    type = "symlink", path = relative, link = target, mode = 511, mtime = facts.mtime,
  }))
  self.result.links = self.result.links + 1
end

-- What counts is what was opened: it may be another one by now.
function kinds.file(self, relative, path)
  local file = unless_gone(core_file.open, path, "r", 0)
  if not file then return end
  self.file = file
  local facts = file:stat()
  if facts.type ~= "file" then
    self.file = nil
    file:close()
    return self:unsafe(relative, path, "EINVAL", "is a " .. facts.type)
  end
  local size = facts.size
  self:add(tar.header({
    type = "file", path = relative, mode = facts.mode, mtime = facts.mtime, size = size,
  }))
  self.path, self.left, self.padding = path, size, tar.padding(size)
  self.result.files, self.result.bytes = self.result.files + 1, self.result.bytes + size
end

-- The next piece of the open file.
---@async
function Packer:read()
  if self.left > 0 then
    local bytes = self.file:read(math.min(CHUNK, self.left))
    if not bytes then raise("ESTALE", self.path, "became shorter while it was being read") end
    self.left = self.left - #bytes
    self:add(bytes)
  end
  if self.left > 0 then return end
  self:add(self.padding)
  self.file:close()
  self.file = nil
end

---@async
function Packer:step()
  if self.file then return self:read() end
  local path, entry = self.walker:next()
  if not path then
    self:add(tar.ending)
    self.ended = true
    return
  end
  local relative = path:sub(#self.prefix + 1)
  if self.filter:leaves_out(relative) then return entry:skip() end
  local facts = unless_gone(core.lstat, path)
  if not facts then return end
  local kind = kinds[facts.type]
  if not kind then
    return self:unsafe(relative, path, "EINVAL", "is a " .. facts.type)
  end
  kind(self, relative, path, facts)
end

---The next bytes of the archive, nil at its end.
---@async
---@return string|nil
function Packer:next()
  while self.size < CHUNK and not self.ended do
    self:step()
  end
  if self.size == 0 then return nil end
  local bytes = table.concat(self.ready)
  self.ready, self.size = {}, 0
  return bytes
end

function Packer:__close()
  if self.file then self.file:close() end
end

---Opens a folder; raises kind `io`.
---@async
---@param folder string
---@param options { filter: sbx.sandbox.Filter, skip_unsafe: boolean }
---@return sbx.sandbox.Packer  a `<close>` value
return function(folder, options)
  return setmetatable({
    walker = walk.start(folder, { hidden = true, follow = false }),
    prefix = folder:sub(-1) == "/" and folder or folder .. "/",
    filter = options.filter, skip_unsafe = options.skip_unsafe,
    ready = {}, size = 0, ended = false,
    result = { files = 0, folders = 0, links = 0, bytes = 0, skipped = {} },
  }, Packer)
end
