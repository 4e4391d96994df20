-- Files and directories. Everything here waits without holding up other tasks.
--
-- Failures are error objects of kind "io" whose `code` is the errno's name:
-- `open /tmp/x: no such file or directory`, ENOENT.

local check = require("sbx.check")
local clock = require("sbx.core.time")
local copy = require("sbx.fs.copy")
local core = require("sbx.core.fs")
local core_lock = require("sbx.core.lock")
local errors = require("sbx.errors")
local file = require("sbx.fs.file")
local glob = require("sbx.fs.glob")
local lock = require("sbx.fs.lock")
local path_names = require("sbx.path")
local task = require("sbx.task")
local temporary = require("sbx.fs.temporary")
local tree = require("sbx.core.tree")
local walk = require("sbx.fs.walk")
local watch = require("sbx.fs.watch")

---@class sbx.fs
local fs = {}

local CHUNK = 1024 * 1024 -- bytes read at once
local SMALL = 16 * 1024 -- as many, of a file that does not say how long it is
local AT_ONCE = 20000 -- names of a folder, until other tasks get their turn
local CLEANUP = 10 -- seconds for removing a temporary file in a cancelled task

---@class sbx.fs.Facts
---@field type "file"|"directory"|"symlink"|"fifo"|"socket"|"device"|"unknown"
---@field size integer   bytes
---@field mode integer   permission bits, such as 420 (octal 644)
---@field mtime number   seconds since 1970
---@field uid integer
---@field gid integer

local MODES = { r = true, w = true, a = true, ["r+"] = true, wx = true }

---Opens a file. FIFOs and sockets are refused: a disk thread would hang on them.
---@async
---@param path string
---@param mode? "r"|"w"|"a"|"r+"|"wx"  default "r"; "wx" makes a file that must not exist
---@param options? table  `perm`: permission bits of a new file (octal 644, less the umask)
---@return sbx.fs.File
function fs.open(path, mode, options)
  check.string(path, "path")
  mode = mode or "r"
  if not MODES[mode] then check.fail('mode: expected "r", "w", "a", "r+" or "wx"') end
  local opts = check.options(options, { perm = 420 })
  return (file.open(path, mode, check.integer(opts.perm, "perm", 0, 4095)))
end

---All bytes of a file.
---@async
---@param path string
---@param options? table  `max`: bytes; a longer file raises kind "limit" (default 1 GiB)
---@return string
function fs.read(path, options)
  check.string(path, "path")
  local max = check.integer(check.options(options, { max = 1 << 30 }).max, "max", 0)
  local opened, facts = file.open(path, "r", 0)
  local source <close> = opened
  local expected = facts.size
  local parts, size = {}, 0
  repeat
    -- Room for a whole chunk is cleared before it is filled: only where it may be needed.
    local room = math.max(SMALL, expected - size, size)
    local part = source:read(math.min(CHUNK, max - size + 1, room))
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
  local target <close> = fs.open(path, opts.append and "a" or "w", { perm = opts.mode })
  target:write(bytes)
end

---Adds to the end of a file, and makes it where there is none.
---@async
---@param path string
---@param bytes string
---@param options? table  `mode`: permission bits of a new file (octal 644)
function fs.append(path, bytes, options)
  local opts = check.options(options, { mode = 420 })
  fs.write(path, bytes, { mode = opts.mode, append = true })
end

-- Without it a crash may bring the old name back. A folder that may be changed
-- and not read, or a file system that knows no such thing, is no reason to fail.
---@async
local function sync_folder(path)
  local _, err = errors.try(function()
    local folder <close> = fs.open(path, "r")
    folder:sync()
  end)
  local code = errors.is_error(err) and err.code
  if err and code ~= "EACCES" and code ~= "EINVAL" then error(err, 0) end
end

---@async
local function fill_and_rename(beside, path, bytes, mode)
  do
    local target <close> = fs.open(beside, "wx", { perm = 384 })
    target:write(bytes)
    -- Before the sync and the rename; the umask has no say.
    core.chmod(beside, mode)
    target:sync()
  end
  core.rename(beside, path)
  sync_folder(path_names.dirname(path))
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
  local beside = copy.beside(path)
  local ok, err = pcall(fill_and_rename, beside, path, bytes, mode)
  if not ok then
    -- It may be missing: never made, or renamed already.
    pcall(task.shield, CLEANUP, core.unlink, beside)
    error(copy.told_of(err, path), 0)
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

local function is_type(path, wanted)
  local facts = unless_missing(core.stat, check.string(path, "path"))
  return facts ~= nil and facts.type == wanted
end

---Whether there is a file at `path`, or a link that leads to one.
---@async
---@param path string
---@return boolean
function fs.is_file(path)
  return is_type(path, "file")
end

---Whether there is a directory at `path`, or a link that leads to one.
---@async
---@param path string
---@return boolean
function fs.is_dir(path)
  return is_type(path, "directory")
end

---The names in a directory, sorted by bytes, without "." and "..".
---@async
---@param path string
---@return string[]
function fs.list(path)
  local listing = tree.list(check.string(path, "path"), false, false)
  local names = {}
  while listing:names(names, AT_ONCE) do
    task.yield()
  end
  return names
end

local function make_parents(path, mode)
  local _, err = errors.try(core.mkdir, path, mode)
  if errors.is_error(err) and err.code == "ENOENT" and path_names.dirname(path) ~= path then
    make_parents(path_names.dirname(path), 493)
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
  if opts.parents then
    make_parents(path, mode)
  else
    core.mkdir(path, mode)
  end
end

-- What to remove: the link itself, though a slash follows it. Refuses what has no
-- name of its own.
local function removable(path)
  local name = path_names.basename(path)
  if name == "/" or name == "." or name == ".." then
    errors.raise({
      kind = "io", op = "remove", code = "EINVAL",
      message = "remove " .. path .. ": invalid argument",
    })
  end
  return path:match("^(.*[^/])/*$") or path
end

---Removes a file, a link (never its target) or an empty directory.
---@async
---@param path string
---@param options? table  `recursive`: a directory with all it holds; `missing_ok`
function fs.remove(path, options)
  check.string(path, "path")
  local opts = check.options(options, { recursive = false, missing_ok = false })
  path = removable(path)
  local function remove()
    if opts.recursive then return tree.remove(path) end
    if core.lstat(path).type == "directory" then return core.rmdir(path) end
    core.unlink(path)
  end
  if opts.missing_ok then
    unless_missing(remove)
  else
    remove()
  end
end

---Copies a file, a link as the link it is, or with `recursive` a folder with all
---it holds. Each file appears at its place whole or not at all.
---@async
---@param from string
---@param to string  the copy itself, not the folder it goes into
---@param options? table  `recursive`; `overwrite`: replace files, add to folders
---  (default: what exists raises EEXIST); `preserve`: the time of change, and the mode
---  whatever the umask; `on_error(err, path)`: go on without what failed
function fs.copy(from, to, options)
  copy.copy(from, to, options)
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

---Makes an empty file where there is none, and sets its time of change to now.
---@async
---@param path string
function fs.touch(path)
  check.string(path, "path")
  file.open(path, "a", 438):close()
  local now = clock.wall()
  core.utime(path, now, now)
end

---How much the file system that holds `path` has room for, in bytes; `available`
---is what is free for who is not root.
---@async
---@param path string
---@return { total: integer, free: integer, available: integer }
function fs.disk(path)
  local total, free, available = core.statfs(check.string(path, "path"))
  return { total = total, free = free, available = available }
end

---A new directory only we can enter, that is removed with all it holds when its
---`<close>` variable ends.
---@async
---@param options? table  `prefix` of its name (default "sbxlua-"); `dir`, where it is
---  made (default $TMPDIR or /tmp)
---@return sbx.fs.TmpDir
function fs.tmpdir(options)
  return temporary.dir(options)
end

---A new file only we can use, open to read and write, that is removed when its
---`<close>` variable ends.
---@async
---@param options? table  as for `tmpdir`
---@return sbx.fs.TmpFile
function fs.tmpfile(options)
  return temporary.file(options)
end

---The lines of a file, one for each call: for a generic `for`. A file that was
---given by its path is closed after the last line; when the loop may be left
---earlier, write `local lines <close> = fs.lines(path)` and loop over `lines`.
---@async
---@param path_or_file string|sbx.fs.File
---@param options? table  `keep`: with their line feeds; `max_line` in bytes (16 MiB):
---  a longer one raises kind "limit"
---@return sbx.fs.Lines
function fs.lines(path_or_file, options)
  return file.lines(path_or_file, options)
end

---Iterates over all that a directory holds: `for path, entry in fs.walk(dir) do`.
---A folder comes before what it holds, names are sorted by bytes.
---@async
---@param path string
---@param options? table  `depth`: levels to go down; `hidden = false` leaves out names
---  with a leading dot; `follow`: enter folders behind links, each folder once;
---  `on_error(err, path)`: go on without a folder that cannot be read
---@return async fun(): string|nil, sbx.fs.Entry|nil
function fs.walk(path, options)
  return walk.walk(path, options)
end

---The paths that match a pattern (see `path.match`), in the order of a walk. A
---pattern that ends in a slash finds only folders.
---@async
---@param pattern string
---@param options? table  `root`: where a relative pattern begins; `hidden`: wildcards
---  match a leading dot; `follow`, `on_error`: as for `walk`
---@return string[]
function fs.glob(pattern, options)
  return glob.glob(pattern, options)
end

---Tells what happens to a file or in a folder from now on.
---@async
---@param path string
---@param options? table  `recursive`: in folders below as well; `on_error(err, path)`:
---  go on without a folder that cannot be watched
---@return sbx.fs.Watch
function fs.watch(path, options)
  return watch.new(path, options)
end

---Holds a lock that one process, and in it one task, has at a time: `local held
---<close> = fs.lock(path)`. It waits for the others, and ends with the process,
---however that ends. The file is made where there is none, for its owner alone,
---and stays; its bytes mean nothing.
---@async
---@param path string
---@return sbx.fs.Lock
function fs.lock(path)
  check.string(path, "path")
  return lock.hold(path)
end

---The same without waiting: nil while another one holds it.
---@async
---@param path string
---@return sbx.fs.Lock|nil
function fs.try_lock(path)
  check.string(path, "path")
  return core_lock.try(path)
end

return fs
