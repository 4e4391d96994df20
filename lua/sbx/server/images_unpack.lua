-- Unpacks archives that may be hostile: in a bubblewrap sandbox that sees this machine's
-- /usr, read only, and the one folder that they go to, and is no one there. What it left
-- is tidied in the same place: no set-user-id bits, no devices, and the few files and
-- folders that every sandbox needs, as plain ones.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local process = require("sbx.process")
local root = require("sbx.server.driver.bwrap_root")
local task = require("sbx.task")

---@class sbx.server.images_unpack
local unpack = {}

local SPOT = "/mnt"
local TIME_SECONDS = 3600
local LOOK_SECONDS = 0.5
-- So much of the disk stays free for everybody else: a share, and at least so many bytes.
local LEAST_FREE_SHARE, LEAST_FREE = 0.05, 1024 * 1024 * 1024
local MAX_DATA = 1024 * 1024 * 1024 -- of memory, for one process
local MAX_COMPLAINTS = 64 * 1024

-- In the sandbox: words are the folder below /box, the most bytes that the unpacked
-- archive may have, and what unpacks it, if anything.
local EXTRACT = [[
ulimit -f $(($2 / 512)) && ulimit -d $3 || exit 1
mkdir -p "/box/$1"
cd "/box/$1"
most=$2
shift 3
{ "$@" || : > /box/broken; } | head -c "$most" | tar -x -f - -p --no-same-owner \
  --numeric-owner --delay-directory-restore --anchored \
  --exclude='dev/*' --exclude='./dev/*' --exclude='proc/*' --exclude='./proc/*' \
  --exclude='sys/*' --exclude='./sys/*']]

-- Puts /box/layer over /box/rootfs, as layers of images go over each other. First what
-- is a folder here and none there, and the other way round: from then on no path of the
-- layer leads through a link below.
local MERGE = [[
set -e
mkdir -p /box/rootfs
chmod u+rwx /box/layer
cd /box/layer
find . -mindepth 1 -type d ! -perm -700 -exec chmod u+rwx {} \;
find . -mindepth 1 -type d -exec sh -c 'for p; do
  if [ -L "/box/rootfs/$p" ] || { [ -e "/box/rootfs/$p" ] && [ ! -d "/box/rootfs/$p" ]; }
  then rm -f -- "/box/rootfs/$p"; fi; done' sh {} +
find . -name '.wh..wh..opq' -exec sh -c 'for p; do
  d=/box/rootfs/${p%/*}; [ -d "$d" ] && find "$d" -mindepth 1 -delete; done; :' sh {} +
find . -name '.wh.*' ! -name '.wh..wh.*' -exec sh -c 'for p; do
  n=${p##*/}; n=${n#.wh.}; case $n in ""|.|..) continue;; esac
  rm -rf -- "/box/rootfs/${p%/*}/$n"; done' sh {} +
find . -depth -name '.wh.*' -exec rm -rf -- {} +
find . -mindepth 1 ! -type d -exec sh -c 'for p; do
  if [ -d "/box/rootfs/$p" ] && [ ! -L "/box/rootfs/$p" ]
  then rm -rf -- "/box/rootfs/$p"; fi; done' sh {} +
cp -al --remove-destination . /box/rootfs/
cd /box
rm -rf layer]]

-- Prints the number of entries and the kilobytes.
local TIDY = [[
set -e
cd /box/rootfs
chmod 755 .
find . -type d ! -perm -700 -exec chmod u+rwx {} \;
find . \( -type b -o -type c -o -type p -o -type s \) -delete
find . ! -type l -perm /6000 -exec chmod ug-s {} +
for d in proc dev etc root tmp run var sandbox-workspace workspace; do
  if [ -L $d ] || [ ! -d $d ]; then rm -rf $d; mkdir -m 755 $d; fi
done
chmod 1777 tmp
for f in .agent etc/hosts etc/hostname etc/resolv.conf; do
  if [ -L $f ] || [ ! -f $f ]; then rm -rf $f; : > $f; fi
done
find . -mindepth 1 -printf x | wc -c
du -sk . | cut -f 1]]

local DECOMPRESSORS = {
  { "\x1f\x8b", { "gzip", "-dc" } },
  { "\x28\xb5\x2f\xfd", { "zstd", "-dc" } },
  { "\xfd7zXZ\0", { "xz", "-dc" } },
  { "BZh", { "bzip2", "-dc" } },
}

-- The words that turn an archive into a plain one, by its first bytes.
local function decompressor(path)
  local file <close> = fs.open(path)
  local magic = file:read(8) or ""
  for _, known in ipairs(DECOMPRESSORS) do
    if magic:sub(1, #known[1]) == known[1] then return known[2] end
  end
  return { "cat" }
end

-- ------------------------------------------------------------------- the sandbox

local function sandbox_words(folder)
  local words = {
    "bwrap", "--unshare-all", "--unshare-user", "--disable-userns",
    "--uid", "1000", "--gid", "1000", -- or tar would think that it may do everything
    "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
    "--setenv", "PATH", root.PATH, "--setenv", "LC_ALL", "C", "--ro-bind", "/usr", "/usr",
  }
  local function add(...)
    for _, word in ipairs { ... } do
      words[#words + 1] = word
    end
  end
  local found = root.facts()
  for path, target in pairs(found.links) do
    add("--symlink", target, path)
  end
  for _, path in ipairs(found.folders) do
    add("--ro-bind", path, path)
  end
  add("--dev", "/dev", "--remount-ro", "/dev", "--bind", folder, "/box", "--remount-ro", "/")
  add("--chdir", "/box", "--")
  return words
end

local function append(list, more)
  return table.move(more, 1, #more, #list + 1, list)
end

-- Words that run `script` with `arguments` in a sandbox on `job.folder`, and read
-- `input`, a file or a folder to be packed up, if there is one.
local function command(job, script, arguments, input)
  local lines, words, before = { "umask 022" }, {}, {}
  local folder = job.work
  if job.uid then
    -- That user may not go where the folder is; so it is shown at another place.
    before = { "unshare", "--mount", "--propagation", "private", "--" }
    lines[#lines + 1] = ('mount --bind "$1" %s; chown %d:%d %s; shift'):format(SPOT, job.uid,
      job.uid, SPOT)
    words[#words + 1] = folder
    folder = SPOT
  end
  local run = 'exec "$@"'
  if input and input.folder then
    words[#words + 1], words[#words + 2] = input.folder, job.folder .. "/failed"
    lines[#lines + 1] = 'from=$1 failed=$2; shift 2'
    run = [[{ tar -c -S -f - -C "$from" --one-file-system --numeric-owner --anchored \
      --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' . ||
      test $? = 1 || : > "$failed"; } | "$@"]]
  elseif input then
    lines[#lines + 1] = 'exec < "$1"; shift'
    words[#words + 1] = input.file
  end
  lines[#lines + 1] = run
  local argv = append(before, { "/bin/sh", "-c", "set -e\n" .. table.concat(lines, "\n"), "sh" })
  append(argv, words)
  if job.uid then
    local uid = tostring(job.uid)
    append(argv, { "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--" })
  end
  append(append(argv, sandbox_words(folder)), { "/bin/sh", "-c", script, "sh" })
  return append(argv, arguments or {})
end

local function check_room(folder)
  local disk = fs.disk(folder)
  local needed = math.max(LEAST_FREE, disk.total * LEAST_FREE_SHARE)
  if disk.available >= needed then return end
  errors.raise {
    kind = "limit", op = "import an image",
    message = ("%s: less than %.1f GB would stay free on that disk"):format(folder, needed / 1e9),
  }
end

-- Runs it, and ends it when it fills the disk.
local function run(job, script, arguments, input)
  check_room(job.folder)
  local argv = command(job, script, arguments, input)
  return task.scope(function(scope)
    local watcher = scope:spawn(function()
      while true do
        task.sleep(LOOK_SECONDS)
        check_room(job.folder)
      end
    end)
    local result = process.run(argv, {
      env = { PATH = root.PATH }, clear_env = true, cwd = "/", timeout = TIME_SECONDS,
      max_output = MAX_COMPLAINTS,
    })
    watcher:cancel("done")
    return result
  end)
end

local function refuse(job, result, what)
  local said = result.stderr:match("[^\n]+") or ("exit code " .. result.code)
  errors.raise {
    kind = "image", op = "import an image",
    message = ("%s: %s: %s"):format(job.what, what, said:gsub("%c", "?"):sub(1, 300)),
  }
end

-- Devices cannot be made in there, which is as it should be. Anything else is an error.
local function only_devices_missing(complaints)
  local count = 0
  for line in complaints:gmatch("[^\n]+") do
    if line:find(": Cannot mknod: ", 1, true) then
      count = count + 1
    elseif not line:find("Exiting with failure status", 1, true)
      and not line:find("Removing leading", 1, true) then
      return false
    end
  end
  return count > 0
end

-- ---------------------------------------------------------------------- in public

---@class sbx.server.images.Job
---@field folder string     ours alone
---@field work string       in it: all that the unpacking sees; gets rootfs/
---@field what string       the archive, for messages
---@field max_bytes integer of the unpacked archive
---@field uid? integer      as root: whom the files are to belong to

---Unpacks an archive into a folder below `job.work`. Raises kind `image` for one that
---is broken, too large or malicious, and `limit` when the disk gets full.
---@async
---@param job sbx.server.images.Job
---@param input {file: string}|{folder: string}  a tar file, compressed or not; or what to copy
---@param into string  "rootfs" or "layer"
function unpack.extract(job, input, into)
  local words = input.file and decompressor(input.file) or { "cat" }
  local arguments = { into, ("%d"):format(job.max_bytes), ("%d"):format(MAX_DATA // 1024) }
  local result = run(job, EXTRACT, append(arguments, words), input)
  local is_broken = fs.exists(job.work .. "/broken") or fs.exists(job.folder .. "/failed")
  if is_broken then
    refuse(job, result, ("it is broken, or larger than %.1f GB"):format(job.max_bytes / 1e9))
  elseif result.code ~= 0 and not only_devices_missing(result.stderr) then
    refuse(job, result, "it cannot be unpacked")
  end
end

---Puts layer/ over rootfs/, with what it takes away. layer/ is gone then.
---@async
---@param job sbx.server.images.Job
function unpack.merge(job)
  local result = run(job, MERGE)
  if result.code ~= 0 then refuse(job, result, "a layer cannot be applied") end
end

---Makes rootfs/ fit to run on. Returns how many entries and bytes it has.
---@async
---@param job sbx.server.images.Job
---@return integer entries
---@return integer bytes
function unpack.tidy(job)
  local result = run(job, TIDY)
  local entries, kilobytes = result.stdout:match("^(%d+)%s+(%d+)%s*$")
  if result.code ~= 0 or not entries then refuse(job, result, "its files cannot be used") end
  return math.tointeger(tonumber(entries)), math.tointeger(tonumber(kilobytes)) * 1024
end

return unpack
