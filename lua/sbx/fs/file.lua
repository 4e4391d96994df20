-- Open files: reading and writing in order or at a position, and lines.

local check = require("sbx.check")
local core = require("sbx.core.file")
local errors = require("sbx.errors")
local reader = require("sbx.reader")

local MAX_READ = 16 * 1024 * 1024 -- bytes in one step, of the core
local MAX_LINE = 16 * 1024 * 1024 -- bytes
local CHUNK = 64 * 1024 -- bytes read at once unless asked otherwise

---An open file. Closed by `close`, at the end of its `<close>` variable, or by
---the collector. One task at a time uses it.
---@class sbx.fs.File
---@field path string
---@field package core sbx.core.file.File
---@field package ahead? sbx.Reader  what `lines` has read beyond the last line
local File = {}
File.__index = File
File.__name = "sbx.fs.File"

function File.__close(self)
  self.core:close()
end

-- Puts the position back to where the lines that were taken end. Where there is
-- no position the bytes stay in `ahead`.
local function rewind(self)
  if not self.ahead then return end
  local position = self.core:tell()
  if not position then return end
  self.core:seek(position - #self.ahead:peek())
  self.ahead = nil
end

---The next bytes, at most `n` (up to 16 MiB, default 64 KiB); nil at the end.
---@async
---@param n? integer
---@return string|nil
function File:read(n)
  n = check.integer(n or CHUNK, "n", 1, MAX_READ)
  rewind(self)
  if self.ahead then return self.ahead:some(n) end
  return self.core:read(n)
end

---The bytes at an offset from the file's start, at most `n`; nil at or beyond the
---end. The position stays.
---@async
---@param offset integer  bytes
---@param n? integer      up to 16 MiB (default 64 KiB)
---@return string|nil
function File:read_at(offset, n)
  check.integer(offset, "offset", 0)
  return self.core:read(check.integer(n or CHUNK, "n", 1, MAX_READ), offset)
end

---Writes all of `bytes`.
---@async
---@param bytes string
function File:write(bytes)
  check.string(bytes, "bytes")
  rewind(self)
  local done = 0
  while done < #bytes do
    done = done + self.core:write(bytes, done + 1)
  end
end

---Writes all of `bytes` at an offset from the file's start. The position stays.
---@async
---@param offset integer
---@param bytes string
function File:write_at(offset, bytes)
  check.integer(offset, "offset", 0)
  check.string(bytes, "bytes")
  local done = 0
  while done < #bytes do
    done = done + self.core:write(bytes, done + 1, offset + done)
  end
end

---Moves the position, and returns it. Only "end" waits. Raises ESPIPE where there
---is none, as in a file opened to append.
---@async
---@param whence? "set"|"cur"|"end"  from the start, from here (default), from the end
---@param offset? integer            default 0
---@return integer
function File:seek(whence, offset)
  whence = whence or "cur"
  offset = check.integer(offset or 0, "offset")
  rewind(self)
  local base = 0
  if whence == "cur" then
    base = self.core:tell() or 0
  elseif whence == "end" then
    base = self:size()
  elseif whence ~= "set" then
    error("whence: expected \"set\", \"cur\" or \"end\"", 2)
  end
  if base + offset < 0 then
    error(("offset: %d lies before the file's start"):format(offset), 2)
  end
  self.core:seek(base + offset)
  return base + offset
end

---An iterator over the lines from the position on. When it is left early, reading
---goes on behind the last line that it gave.
---@async
---@param options? table  `keep`: with their line feeds; `max_line` in bytes
---@return async fun(): string|nil
function File:lines(options)
  local opts = check.options(options, { keep = false, max_line = MAX_LINE })
  check.boolean(opts.keep, "keep")
  rewind(self)
  local source = self.ahead
  if not source then
    source = reader.new(function()
      return self.core:read(CHUNK)
    end, { max_line = opts.max_line })
    self.ahead = source
  end
  return source:lines(opts.keep)
end

---Returns once the disk has what was written.
---@async
function File:sync()
  self.core:sync()
end

---The file's size in bytes.
---@async
---@return integer
function File:size()
  return self.core:stat().size
end

---Closes the file; closing it again is harmless. Never waits.
function File:close()
  self.core:close()
end

check.methods(File, "file")

local file = {}

---An object for a file that is open already.
---@param opened sbx.core.file.File
---@param path string
---@return sbx.fs.File
function file.wrap(opened, path)
  return setmetatable({ core = opened, path = path }, File)
end

---Opens a file. Second, what is known of it.
---@async
---@return sbx.fs.File, sbx.fs.Facts
function file.open(path, mode, perm)
  local opened = core.open(path, mode, perm)
  local facts = opened:stat()
  if facts.type == "fifo" or facts.type == "socket" then
    opened:close()
    errors.raise({
      kind = "io",
      op = "open",
      code = "EINVAL",
      message = "open " .. path .. ": is a " .. facts.type,
    })
  end
  return file.wrap(opened, path), facts
end

---The lines of a file, one for each call; nil at the end.
---@class sbx.fs.Lines
---@operator call: string
---@field package next? async fun(): string|nil
---@field package file? sbx.fs.File  to be closed at the end
local Lines = {}
Lines.__index = Lines
Lines.__name = "sbx.fs.Lines"

---Closes the file, if it was opened for this; again is harmless. Never waits.
function Lines:close()
  self.next = nil
  if self.file then self.file:close() end
end

Lines.__close = Lines.close

function Lines:__call()
  if not self.next then return nil end
  -- A cancellation passes: whoever was cancelled may ask again.
  local line, err = errors.try(self.next)
  if line then return line end
  self:close()
  if err ~= nil then error(err, 0) end
end

---@async
---@return sbx.fs.Lines
function file.lines(path_or_file, options)
  local opts = check.options(options, { keep = false, max_line = MAX_LINE })
  check.boolean(opts.keep, "keep")
  check.integer(opts.max_line, "max_line", 1)
  if getmetatable(path_or_file) == File then
    return setmetatable({ next = path_or_file:lines(opts) }, Lines)
  end
  local opened = file.open(check.string(path_or_file, "path"), "r", 0)
  return setmetatable({ next = opened:lines(opts), file = opened }, Lines)
end

return file
