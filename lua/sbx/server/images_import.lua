-- Brings an image into the store: unpacked beside, moved into place when it is whole.

local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local images = require("sbx.server.images")
local json = require("sbx.json")
local layout = require("sbx.server.images_layout")
local names = require("sbx.server.images_name")
local processes = require("sbx.server.driver.bwrap_process")
local task = require("sbx.task")
local time = require("sbx.core.time")
local unpack = require("sbx.server.images_unpack")

---@class sbx.server.images_import
local images_import = {}

local MAX_BYTES = 20 * 1000 * 1000 * 1000
-- Above the user ids of sandboxes that run on no image; all belong to nobody.
local FIRST_UID, UIDS = 2000000000, 100000000
local REMOVE_SECONDS = 600
local PRIVATE_FOLDER, PRIVATE_FILE = 448, 384 -- 0700, 0600

local function refuse(...)
  errors.raise { kind = "image", op = "import an image", message = table.concat { ... } }
end

local function new_job(store, what, max_bytes)
  local me = processes.identify(core.pid())
  local folder = ("%s/work/%d-%s-%s"):format(store.folder, me.pid, me.start, hash.random_hex(6))
  fs.mkdir(folder, { mode = PRIVATE_FOLDER })
  fs.mkdir(folder .. "/work", { mode = PRIVATE_FOLDER })
  local as_root = fs.stat("/proc/self").uid == 0
  return {
    folder = folder, work = folder .. "/work", what = what, max_bytes = max_bytes,
    uid = as_root and FIRST_UID + math.random(0, UIDS - 1) or nil,
  }
end

-- Unpacks the layers, one over the other.
local function apply_layers(job, found)
  for _, path in ipairs(found.layers) do
    unpack.extract(job, { file = path }, "layer")
    unpack.merge(job)
  end
end

-- An archive of a root, or of a description with layers.
local function from_archive(job, path, tag)
  unpack.extract(job, { file = path }, "rootfs")
  local kind = layout.kind(job.work .. "/rootfs")
  if not kind then
    if tag then refuse(job.what, ": holds a root file system, which has no :", tag) end
    return { source = "tar", digest = "sha256:" .. hash.sha256_file(path), config = { env = {} } }
  end
  -- Out of sight of what follows.
  fs.rename(job.work .. "/rootfs", job.folder .. "/archive")
  local found = layout.read(job.folder .. "/archive", tag)
  apply_layers(job, found)
  return found
end

local function from_folder(job, path, tag)
  if layout.kind(path) then
    local found = layout.read(path, tag)
    apply_layers(job, found)
    return found
  end
  if tag then refuse(job.what, ": holds a root file system, which has no :", tag) end
  unpack.extract(job, { folder = path }, "rootfs")
  return { source = "folder", config = { env = {} } }
end

-- Into the store, under the name. An image that is there already stays as it is.
local function put_in_place(store, job, name, facts)
  local id = facts.digest and facts.digest:match("^sha256:(%x+)$") or hash.random_hex(32)
  local _ <close> = store:lock()
  if not store:get(id) then
    local folder = job.folder .. "/image"
    fs.mkdir(folder, { mode = PRIVATE_FOLDER })
    fs.mkdir(folder .. "/uses", { mode = PRIVATE_FOLDER })
    assert(fs.lstat(job.work .. "/rootfs").type == "directory")
    fs.rename(job.work .. "/rootfs", folder .. "/rootfs")
    fs.write_atomic(folder .. "/image.json", json.encode {
      digest = facts.digest, source = facts.source, uid = job.uid, bytes = facts.bytes,
      entries = facts.entries, imported_at = time.wall(), config = facts.config,
    }, { mode = PRIVATE_FILE })
    fs.rename(folder, store.folder .. "/trees/" .. id)
  end
  store:tag(name, id)
  return store:get(id, names.short(names.parse(name).full))
end

-- "FILE.tar:TAG" or "DIR:TAG", where that itself is not there.
local function find_source(text)
  local facts = errors.try(fs.stat, text)
  if facts then return fs.realpath(text), nil, facts.type end
  local path, tag = text:match("^(.+):([%w_][%w_.-]*)$")
  facts = path and errors.try(fs.stat, path)
  if facts then return fs.realpath(path), tag, facts.type end
  refuse(text, ": no such file or folder")
end

---Imports an archive of a root (.tar, also compressed), a folder with one, an OCI layout
---(folder or archive) or what `docker save` wrote, and gives it a name. What `source`
---holds may be hostile. Raises kind `image` when it is no such thing, or damaged;
---`limit` when the disk gets full; `usage` for a bad name. Then the store is as before.
---@async
---@param store sbx.server.Images
---@param name string    "python:3.11-slim"
---@param source string  its path; of one with several images, PATH:TAG
---@param options? {max_bytes: integer}  of the unpacked archive (default 20 GB)
---@return sbx.server.Image
function images_import.import(store, name, source, options)
  local parsed = names.parse(name)
  if not parsed or parsed.digest then
    errors.raise {
      kind = "usage",
      message = ("'%s': expected the name of an image, such as python:3.11-slim"):format(name),
    }
  end
  local path, tag, type = find_source(source)
  store:prepare()
  store:prune()
  local job = new_job(store, source, options and options.max_bytes or MAX_BYTES)
  local ok, result = pcall(function()
    local facts = (type == "directory" and from_folder or from_archive)(job, path, tag)
    facts.entries, facts.bytes = unpack.tidy(job)
    return put_in_place(store, job, name, facts)
  end)
  task.shield(REMOVE_SECONDS, images.remove_tree, job.folder)
  if not ok then error(result, 0) end
  return result
end

return images_import
