-- Files and directories. Everything here waits without holding up other tasks.
--
-- Failures are error objects of kind "io" whose `code` is the errno's name:
-- `open /tmp/x: no such file or directory`, ENOENT.

local check = require("sbx.check")
local core = require("sbx.core.fs")
local errors = require("sbx.errors")
local task = require("sbx.task")

---@class sbx.fs
local fs = {}

local CHUNK = 1024 * 1024 -- bytes read at once
local CLEANUP = 10 -- seconds for removing a temporary file in a cancelled task

---@class sbx.fs.Facts
---@field type "file"|"directory"|"symlink"|"fifo"|"socket"|"device"|"unknown"
---@field size integer   bytes
---@field mode integer   permission bits, such as 420 (octal 644)
---@field mtime number   seconds since 1970
---@field uid integer
---@field gid integer

---An open file. Closed by `close`, at the end of its `<close>` variable, or by
---the collector.
---@class sbx.fs.File
---@field path string
---@field package core sbx.core.fs.File
local File = {}
File.__index = File

function File.__close(file)
  file.core:close()
end

---The next bytes, at most `n` (up to 16 MiB, default 64 KiB); nil at the end.
---@async
---@param n? integer
---@return string|nil
function File:read(n)
  return self.core:read(check.integer(n or 65536, "n", 1, 16 * CHUNK))
end

---Writes all of `bytes`.
---@async
---@param bytes string
function File:write(bytes)
  check.string(bytes, "bytes")
  local done = 0
  while done < #bytes do
    done = done + self.core:write(bytes, done + 1)
  end
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

---Closes the file; closing it again is harmless.
function File:close()
  self.core:close()
end

-- An open file and what is known of it.
local function open(path, mode, perm)
  local file = core.open(path, mode, perm)
  local facts = file:stat()
  if facts.type == "fifo" or facts.type == "socket" then
    file:close()
    errors.raise({
      kind = "io",
      op = "open",
      code = "EINVAL",
      message = "open " .. path .. ": is a " .. facts.type,
    })
  end
  return setmetatable({ core = file, path = path }, File), facts
end

---Opens a file. FIFOs and sockets are refused: a disk thread would hang on them.
---@async
---@param path string
---@param mode? "r"|"w"|"a"|"r+"|"wx"  default "r"; "wx" makes a file that must not exist
---@param options? table  `perm`: permission bits of a new file (octal 644, less the umask)
---@return sbx.fs.File
function fs.open(path, mode, options)
  check.string(path, "path")
  local opts = check.options(options, { perm = 420 })
  return (open(path, mode or "r", check.integer(opts.perm, "perm", 0, 4095)))
end

---All bytes of a file.
---@async
---@param path string
---@param options? table  `max`: bytes; a longer file raises kind "limit" (default 1 GiB)
---@return string
function fs.read(path, options)
  check.string(path, "path")
  local max = check.integer(check.options(options, { max = 1 << 30 }).max, "max", 0)
  local opened, facts = open(path, "r", 0)
  local file <close> = opened
  local expected = facts.size
  local parts, size = {}, 0
  repeat
    local part = file.core:read(math.min(CHUNK, max - size + 1))
    if part then
      parts[#parts + 1] = part
      size = size + #part
    end
    if size > max or expected > max then
      errors.raise({
        kind = "limit",
        op = "read",
        message = string.format("read %s: more than %d bytes", path, max),
      })
    end
    -- What lives in /proc says 0 and is read to its end.
  until not part or size == expected
  return table.concat(parts)
end

---Writes a whole file, in place.
---@async
---@param path string
---@param bytes string
---@param options? table  `mode`: permission bits of a new file (octal 644); `append`
function fs.write(path, bytes, options)
  check.string(path, "path")
  check.string(bytes, "bytes")
  local opts = check.options(options, { mode = 420, append = false })
  local file <close> = fs.open(path, opts.append and "a" or "w", { perm = opts.mode })
  file:write(bytes)
end

local function parent_of(path)
  local parent = path:match("^(.*[^/])/+[^/]+/*$")
  if parent then return parent end
  return path:sub(1, 1) == "/" and "/" or "."
end

local function fill_and_rename(temporary, path, bytes, mode)
  do
    local file <close> = fs.open(temporary, "wx", { perm = 384 })
    file:write(bytes)
    -- Before the sync and the rename; the umask has no say.
    core.chmod(temporary, mode)
    file:sync()
  end
  core.rename(temporary, path)
  -- Without it a crash may bring the old name back.
  local directory <close> = fs.open(parent_of(path), "r")
  directory:sync()
end

---Replaces a file so that a reader, or a crash, finds the old bytes or the new
---ones and nothing between. A link at `path` is replaced, not followed.
---@async
---@param path string
---@param bytes string
---@param options? table  `mode`: permission bits (default octal 600)
function fs.write_atomic(path, bytes, options)
  check.string(path, "path")
  check.string(bytes, "bytes")
  local mode = check.integer(check.options(options, { mode = 384 }).mode, "mode", 0, 4095)
  local temporary = string.format("%s.%016x.tmp", path, math.random(0))
  local ok, err = pcall(fill_and_rename, temporary, path, bytes, mode)
  if not ok then
    -- It may be missing: never made, or renamed already.
    pcall(task.shield, CLEANUP, core.unlink, temporary)
    error(err, 0)
  end
end

-- `fn(...)`, or nil when there is no such file.
local function unless_missing(fn, ...)
  local result, err = errors.try(fn, ...)
  if not err then return result end
  if errors.is_error(err) and (err.code == "ENOENT" or err.code == "ENOTDIR") then
    return nil
  end
  error(err, 0)
end

---What is known of a file; of the target when it is a link.
---@async
---@param path string
---@return sbx.fs.Facts
function fs.stat(path)
  return core.stat(check.string(path, "path"))
end

---The same, of a link itself.
---@async
---@param path string
---@return sbx.fs.Facts
function fs.lstat(path)
  return core.lstat(check.string(path, "path"))
end

---Whether there is something at `path`; false for a link that leads nowhere.
---@async
---@param path string
---@return boolean
function fs.exists(path)
  return unless_missing(core.stat, check.string(path, "path")) ~= nil
end

---The names in a directory, sorted by bytes, without "." and "..".
---@async
---@param path string
---@return string[]
function fs.list(path)
  local names = core.list(check.string(path, "path"))
  table.sort(names)
  return names
end

local function make_parents(path, mode)
  local _, err = errors.try(core.mkdir, path, mode)
  if errors.is_error(err) and err.code == "ENOENT" and parent_of(path) ~= path then
    make_parents(parent_of(path), 493)
    -- Once more and no further: some file systems, as /proc, always say ENOENT.
    _, err = errors.try(core.mkdir, path, mode)
  end
  if not err then return end
  if errors.is_error(err) and err.code == "EEXIST" then
    if core.stat(path).type == "directory" then return end
  end
  error(err, 0)
end

---Makes a directory.
---@async
---@param path string
---@param options? table  `mode` (default octal 755, less the umask); `parents`: make
---  those too, and accept a directory that exists
function fs.mkdir(path, options)
  check.string(path, "path")
  local opts = check.options(options, { mode = 493, parents = false })
  local mode = check.integer(opts.mode, "mode", 0, 4095)
  if opts.parents then return make_parents(path, mode) end
  core.mkdir(path, mode)
end

local function remove_tree(path, facts)
  if facts.type ~= "directory" then return core.unlink(path) end
  -- A directory that forbids its owner to change it is still to go.
  if facts.mode & 448 ~= 448 then core.chmod(path, facts.mode | 448) end
  for _, name in ipairs(core.list(path)) do
    local child = path .. "/" .. name
    remove_tree(child, core.lstat(child))
  end
  core.rmdir(path)
end

---Removes a file, a link (never its target) or an empty directory.
---@async
---@param path string
---@param options? table  `recursive`: a directory with all it holds; `missing_ok`
function fs.remove(path, options)
  check.string(path, "path")
  local opts = check.options(options, { recursive = false, missing_ok = false })
  local facts
  if opts.missing_ok then
    facts = unless_missing(core.lstat, path)
    if not facts then return end
  else
    facts = core.lstat(path)
  end
  if opts.recursive then return remove_tree(path, facts) end
  if facts.type == "directory" then return core.rmdir(path) end
  core.unlink(path)
end

---Renames within one file system; replaces a file that is there.
---@async
---@param from string
---@param to string
function fs.rename(from, to)
  core.rename(check.string(from, "from"), check.string(to, "to"))
end

---@async
---@param path string
---@param mode integer  permission bits
function fs.chmod(path, mode)
  core.chmod(check.string(path, "path"), check.integer(mode, "mode", 0, 4095))
end

---Makes a symbolic link at `path` that says `target`.
---@async
---@param target string
---@param path string
function fs.symlink(target, path)
  core.symlink(check.string(target, "target"), check.string(path, "path"))
end

---What a symbolic link says.
---@async
---@param path string
---@return string
function fs.readlink(path)
  return core.readlink(check.string(path, "path"))
end

---The absolute path without links, "." and "..".
---@async
---@param path string
---@return string
function fs.realpath(path)
  return core.realpath(check.string(path, "path"))
end

---@class sbx.fs.TmpDir
---@field path string
local TmpDir = {}
TmpDir.__index = TmpDir

---Removes the directory with all it holds; again is harmless.
---@async
function TmpDir:close()
  if self.closed then return end
  self.closed = true
  fs.remove(self.path, { recursive = true, missing_ok = true })
end

TmpDir.__close = TmpDir.close

---A new directory only we can enter, under $TMPDIR or /tmp, that is removed when
---its `<close>` variable ends.
---@async
---@param options? table  `prefix` of its name (default "sbxlua-")
---@return sbx.fs.TmpDir
function fs.tmpdir(options)
  local prefix = check.options(options, { prefix = "sbxlua-" }).prefix
  check.string(prefix, "prefix")
  local base = os.getenv("TMPDIR")
  if not base or base == "" then base = "/tmp" end
  return setmetatable({ path = core.mkdtemp(base .. "/" .. prefix .. "XXXXXX") }, TmpDir)
end

return fs
