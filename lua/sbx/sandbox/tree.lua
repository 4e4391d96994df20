-- Copying folders in and out, as one archive that streams: packed on one side and
-- unpacked on the other. What comes out of a sandbox is unpacked by us and not by
-- any tar, and appears only once all of it is here.

local check = require("sbx.check")
local core = require("sbx.core.fs")
local download = require("sbx.sandbox.download")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local inside = require("sbx.sandbox.inside")
local merge = require("sbx.sandbox.merge")
local pack = require("sbx.sandbox.pack")
local path = require("sbx.path")
local reader = require("sbx.reader")
local remote = require("sbx.sandbox.remote")
local request = require("sbx.sandbox.request")
local source = require("sbx.sandbox.source")
local unpack = require("sbx.sandbox.unpack")
local upload = require("sbx.sandbox.upload")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local GIBIBYTE = 1024 * 1024 * 1024
local PERMISSIONS = tonumber("777", 8)
local MOST_LEFT = 4 -- pieces behind the end of an archive that are looked at

-- --------------------------------------------------------------------- options

local function checked(op, id, remote_dir, local_dir, given, more)
  check.string(remote_dir, "remote_dir")
  if remote_dir:sub(1, 1) ~= "/" or remote_dir:find("\0", 1, true) then
    error("remote_dir: expected an absolute path", 0)
  end
  if check.string(local_dir, "local_dir") == "" then error("local_dir: is empty", 0) end
  local defaults = {
    timeout = 300, exclude = check.none, unsafe = "refuse", progress = check.none,
  }
  for name, default in pairs(more) do
    defaults[name] = default
  end
  local options = check.options(given, defaults, -1)
  check.number(options.timeout, "timeout", 0.001, 1e9)
  if options.progress ~= nil then check.fn(options.progress, "progress") end
  if options.unsafe ~= "refuse" and options.unsafe ~= "skip" then
    error('unsafe: expected "refuse" or "skip"', 0)
  end
  options.skip_unsafe = options.unsafe == "skip"
  options.exclude = check.table(options.exclude or {}, "exclude")
  options.filter = inside.filter(options.exclude)
  options.op, options.sandbox_id, options.long = op, id, true
  -- Where the archive is on its way.
  options.path = ("/tmp/.sbx-%s.tar"):format(hash.random_hex(8))
  return options
end

-- ---------------------------------------------------------------------- upload

local UNPACK = [[
a=%s; d=%s
mkdir -p "$d" || exit 70
if command -v tar >/dev/null 2>&1; then tar -xpof "$a" -C "$d" || exit 70
elif command -v python3 >/dev/null 2>&1; then python3 -c '
import sys, tarfile
archive = tarfile.open(sys.argv[1])
safe = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
archive.extractall(sys.argv[2], **safe)' "$a" "$d" || exit 70
else echo "there is no tar and no python3" >&2; exit 64; fi
rm -f "$a"
]]

---@class sbx.sandbox.Tree
---@field files integer
---@field folders integer
---@field links integer
---@field bytes integer  in files
---@field skipped string[]  paths that were left out with `unsafe = "skip"`

---@class sbx.sandbox.TreeUpOptions
---@field timeout? number  seconds for each request and command (default 300)
---@field exclude? string[]  patterns: names, or with a slash paths in the tree
---@field unsafe? "refuse"|"skip"  links that lead outside; what is neither file, folder nor link
---@field progress? async fun(done: integer)  bytes of the archive that were handed over
---@field part_size? integer  bytes that are sent at once (default 64 MiB)

---Copies what a local folder holds into a folder of a sandbox, which is made where
---there is none; what is there and in the tree is replaced. Modes, times and links
---within the tree are kept. Raises `io` (code EXDEV for a link that leads outside),
---`unsupported` when the sandbox has neither tar nor python3, and what uploads raise.
---@async
---@param target string|sbx.sandbox.Box
---@param local_dir string
---@param remote_dir string  absolute
---@param options? sbx.sandbox.TreeUpOptions
---@return sbx.sandbox.Tree
function methods:copy_tree_up(target, local_dir, remote_dir, options)
  local id = wire.id_of(target)
  local plan = request.blame(function()
    local opts = checked("copy_tree_up", id, remote_dir, local_dir, options, {
      part_size = check.none,
    })
    opts.split = true
    if opts.part_size ~= nil then
      opts.split = check.integer(opts.part_size, "part_size", 1, upload.max_file)
    end
    return opts
  end)
  plan.filename, plan.parallel = "tree.tar", 2
  local archive <close> = pack(local_dir, plan)
  local left <close> = remote.leftovers(self, plan, plan.path)
  upload.run(self, plan, source.stream(reader.new(function() return archive:next() end)))
  remote.run(self, plan, "cannot unpack the tree in the sandbox",
    UNPACK:format(plan.path, remote.word(remote_dir)))
  left.gone = true
  return archive.result
end

-- -------------------------------------------------------------------- download

-- GNU tar says 1 when a file changed while it was being read. What an archive in
-- the tree itself would do is its own affair: no tar packs that.
local PACK = [[
a=%s; d=%s
[ -d "$d" ] || exit 68
umask 077
if command -v tar >/dev/null 2>&1; then
gnu=; case $(tar --version 2>/dev/null) in *GNU*) gnu=1;; esac
set --
if [ -n "$gnu" ]; then set -- %s; fi
tar -cf "$a" "$@" -C "$d" .; r=$?
[ $r -eq 0 ] || [ $r -eq 1 -a -n "$gnu" ] || exit 70
elif command -v python3 >/dev/null 2>&1; then python3 -c '
import sys, tarfile
archive = tarfile.open(sys.argv[1], "w", format=tarfile.GNU_FORMAT)
def entry(info):
  if sys.argv[3]: archive.inodes.clear()
  return info
archive.add(sys.argv[2], ".", filter=entry)
archive.close()' "$a" "$d" %s || exit 70
else echo "there is no tar and no python3" >&2; exit 64; fi
]]

-- Names that are left out need not be packed. GNU tar takes them at any depth, as
-- we do; what it packs all the same we leave out. Then a file with two names has to
-- come twice: the first may be one of those.
local function pack_script(plan, remote_dir)
  local all = plan.filter:only_plain()
  local words = { "--no-wildcards", not all and "--hard-dereference" or nil }
  for _, name in ipairs(plan.filter.plain) do
    words[#words + 1] = remote.word("--exclude=" .. name)
  end
  return PACK:format(plan.path, remote.word(remote_dir), table.concat(words, " "),
    #plan.exclude > 0 and "1" or "''")
end

---@async
local function make_archive(client, plan, remote_dir)
  plan.begun = true
  local result = remote.run(client, plan, "cannot pack the tree in the sandbox",
    pack_script(plan, remote_dir), { [remote.MISSING] = true })
  if result.exit_code == remote.MISSING then remote.not_found(plan, remote_dir, "folder") end
end

-- The facts of the target folder, nil when there is none. Raises when it is in use.
---@async
local function look_at_target(target, overwrite)
  if not fs.exists(target) then return nil end
  local function refuse(code, why)
    errors.raise({
      kind = "io", code = code, op = "copy_tree_down",
      message = ("copy_tree_down: %s %s"):format(target, why),
    })
  end
  local facts = fs.stat(target)
  if facts.type ~= "directory" then refuse("ENOTDIR", "is no folder") end
  if not overwrite and #fs.list(target) > 0 then
    refuse("EEXIST", "is not empty: overwrite = true adds to it")
  end
  return facts
end

-- Modes and times of the folders, once nothing is put into them any more.
---@async
local function finish_folders(target, unpacked, mask, kept)
  local paths = {}
  for name in pairs(unpacked.made) do
    if not kept[name] then paths[#paths + 1] = name end
  end
  table.sort(paths, function(a, b) return a > b end) -- what is inside comes first
  for _, name in ipairs(paths) do
    local facts = unpacked.made[name]
    local full = name == "" and target or target .. "/" .. name
    if facts.mode and facts.mode & mask ~= mask then core.chmod(full, facts.mode & mask) end
    if facts.mtime then core.utime(full, facts.mtime, facts.mtime) end
  end
end

-- Says whose archive it is that was refused.
local function name_failure(plan, err)
  if errors.is_error(err) and err.op == "unpack" then
    local name = ("%s %s"):format(plan.op, failure.clean(plan.sandbox_id, nil, 100))
    err.op, err.sandbox_id, err.message = plan.op, plan.sandbox_id, name .. err.message:sub(7)
  end
  error(err, 0)
end

---@async
local function receive(client, plan, folder)
  core.mkdir(folder, PERMISSIONS)
  local from <close> = download.open(client, {
    op = plan.op, sandbox_id = plan.sandbox_id, path = plan.path, timeout = plan.timeout,
    idle = true,
  })
  local done = 0
  local function next_piece()
    local bytes = from:read()
    if bytes and plan.progress then
      done = done + #bytes
      plan.progress(done, from.size)
    end
    return bytes
  end
  local ok, unpacked = pcall(unpack, next_piece, folder, plan)
  if not ok then name_failure(plan, unpacked) end
  for _ = 1, MOST_LEFT do
    if not next_piece() then break end -- what fills up the archive's last record
  end
  return unpacked
end

---@async
local function put_in_place(folder, target, exists, unpacked)
  local mask = fs.lstat(folder).mode -- what the umask leaves
  local kept = {}
  if exists then
    kept = merge(folder, target)
  else
    fs.rename(folder, target)
  end
  finish_folders(target, unpacked, mask, kept)
end

---@class sbx.sandbox.TreeDownOptions
---@field timeout? number  seconds for each command, and of silence while it comes (300)
---@field exclude? string[]  patterns: names, or with a slash paths in the tree
---@field unsafe? "refuse"|"skip"  links that lead outside, devices, FIFOs
---@field overwrite? boolean  add to a folder that is not empty, and replace its files
---@field progress? async fun(done: integer, total: integer|nil)  bytes of the archive
---@field max_bytes? integer  in files (default 16 GiB)
---@field max_entries? integer  files, folders and links (default 1000000)

---Copies what a folder of a sandbox holds into a local folder, which is made where
---there is none and else has to be empty. Nothing of it is there before all of it is.
---Modes (less the umask, never set-user-id), times and links within the tree are kept.
---Raises `archive` for a tree that is damaged or reaches for places outside, `limit`
---for one that is too large, `file_not_found`, `io`, `unsupported`, and what downloads
---raise.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_dir string  absolute
---@param local_dir string
---@param options? sbx.sandbox.TreeDownOptions
---@return sbx.sandbox.Tree
function methods:copy_tree_down(target, remote_dir, local_dir, options)
  local id = wire.id_of(target)
  local plan = request.blame(function()
    local opts = checked("copy_tree_down", id, remote_dir, local_dir, options, {
      overwrite = false, max_bytes = 16 * GIBIBYTE, max_entries = 1000000,
    })
    check.boolean(opts.overwrite, "overwrite")
    check.integer(opts.max_bytes, "max_bytes", 0)
    check.integer(opts.max_entries, "max_entries", 0)
    return opts
  end)
  local_dir = path.absolute(local_dir)
  local exists = look_at_target(local_dir, plan.overwrite) ~= nil
  local _ <close> = remote.leftovers(self, plan, plan.path)
  make_archive(self, plan, remote_dir)

  if exists then local_dir = fs.realpath(local_dir) end
  local beside = exists and local_dir or path.dirname(local_dir)
  fs.mkdir(beside, { parents = true })
  -- On the same file system, and for us alone.
  local stage <close> = fs.tmpdir({ dir = beside, prefix = ".sbx-" })
  local folder = stage.path .. "/tree"
  local unpacked = receive(self, plan, folder)
  put_in_place(folder, local_dir, exists, unpacked)
  unpacked.made = nil
  return unpacked
end

return { methods = methods }
