-- Reads a tar archive as it comes: one entry after the other, and the bytes of each
-- before the next. Whoever wrote it may be hostile: what is unusual is refused, and
-- nothing is held in memory but one header.

local reader = require("sbx.reader")
local tar = require("sbx.sandbox.tar")

local CHUNK = 256 * 1024
local MAX_EXTENSION = 256 * 1024 -- bytes of a long name or a PAX header

---@class sbx.sandbox.TarEntry
---@field type "file"|"directory"|"symlink"|"hardlink"|"special"
---@field path string  as the archive has it
---@field link string  where a link leads, as the archive has it
---@field size integer
---@field mode integer
---@field mtime number  seconds since 1970

---@class sbx.sandbox.TarReader
---@field extra integer  bytes of long names and PAX headers so far
---@field private source sbx.Reader
---@field private left integer     bytes of the entry that are not read
---@field private padding integer  bytes behind them
---@field private ended boolean
local TarReader = {}
TarReader.__index = TarReader

local types = {
  ["0"] = "file", ["\0"] = "file", ["7"] = "file", ["1"] = "hardlink", ["2"] = "symlink",
  ["3"] = "special", ["4"] = "special", ["5"] = "directory", ["6"] = "special",
}

local extensions = { L = "path", K = "linkpath", x = "pax", g = "global" }

local function truncated()
  tar.refuse("TRUNCATED", "the archive ends too early")
end

---@async
local function exactly(self, count)
  if count == 0 then return "" end
  local bytes = self.source:bytes(count)
  if not bytes or #bytes < count then truncated() end
  return bytes
end

---The next bytes of the entry that `next` gave, nil at their end.
---@async
---@return string|nil
function TarReader:read()
  if self.left == 0 then return nil end
  local bytes = self.source:some(math.min(CHUNK, self.left))
  if not bytes then truncated() end
  self.left = self.left - #bytes
  return bytes
end

---@async
local function skip(self)
  while self:read() do end
  exactly(self, self.padding)
  self.padding = 0
end

-- A long name or a PAX header, which is about the entry behind it.
---@async
local function take_extension(self, kind, size, pending)
  if size > MAX_EXTENSION then tar.refuse("BAD_HEADER", "an oversized header") end
  if pending[kind] then tar.refuse("BAD_HEADER", "two headers of one kind") end
  self.extra = self.extra + size + tar.block
  local payload = exactly(self, size)
  exactly(self, -size % tar.block)
  if kind == "path" or kind == "linkpath" then
    pending[kind] = payload:match("^[^\0]*")
    return
  end
  local records = tar.parse_pax(payload)
  if kind == "global" and next(records) and (records.path or records.linkpath or records.size) then
    tar.refuse("UNSUPPORTED", "a global header that names files")
  end
  pending[kind] = records
end

local function entry_of(header, pending)
  local pax = pending.pax or {}
  local kind = types[header.flag]
  local path = pax.path or pending.path or header.path
  if not kind then
    tar.refuse("UNSUPPORTED", ("an entry of type %q"):format(header.flag))
  end
  -- How folders were written before they had a type.
  if header.flag == "\0" and path:sub(-1) == "/" then kind = "directory" end
  local size = pax.size or header.size
  if kind ~= "file" and size ~= 0 then
    tar.refuse("BAD_HEADER", "an entry with content that is no file")
  end
  return {
    type = kind, path = path, link = pax.linkpath or pending.linkpath or header.link,
    size = size, mode = header.mode, mtime = pax.mtime or header.mtime,
  }
end

---The next entry, nil at the end of the archive. Raises kind `archive`.
---@async
---@return sbx.sandbox.TarEntry|nil
function TarReader:next()
  if self.ended then return nil end
  skip(self)
  local pending = {}
  while true do
    local header = tar.parse(exactly(self, tar.block))
    if not header then
      if next(pending) then truncated() end
      self.ended = true
      return nil
    end
    local extension = extensions[header.flag]
    if not extension then
      local entry = entry_of(header, pending)
      self.left, self.padding = entry.size, -entry.size % tar.block
      return entry
    end
    take_extension(self, extension, header.size, pending)
  end
end

local tar_reader = {}

---@param source string|sbx.Reader|(async fun(): string|nil)|{ read: function }
---@return sbx.sandbox.TarReader
function tar_reader.new(source)
  return setmetatable({
    source = reader.of(source), extra = 0, left = 0, padding = 0, ended = false,
  }, TarReader)
end

return tar_reader
