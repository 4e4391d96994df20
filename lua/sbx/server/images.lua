-- The images of this machine: folders with the files of a root, kept from run to run in
-- one folder that is its owner's alone.
--
--   refs/NAME.json   which image a name means
--   trees/ID/        image.json, rootfs/, and in uses/ who runs on it
--   work/            what is being imported
--
-- Everything in a rootfs is hostile. Nothing here goes by a path through one.

local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local names = require("sbx.server.images_name")
local paths = require("sbx.path")
local process = require("sbx.process")
local processes = require("sbx.server.driver.bwrap_process")

---@class sbx.server.images
local images = {}

local PRIVATE_FOLDER, PRIVATE_FILE = 448, 384 -- 0700, 0600
local MAX_RECORD = 4 * 1024 * 1024
local REMOVE_SECONDS = 600

---@class sbx.server.Images
---@field folder string
local Images = {}
Images.__index = Images

---@class sbx.server.Image
---@field id string          64 hex digits
---@field name string        by which it was found, short; "<none>" when no name means it
---@field folder string      has rootfs/ in it
---@field uid? integer       whom its files belong to; nil: the user who imported it
---@field digest? string     "sha256:…" of what it was made from
---@field source string      "tar", "oci", "docker" or "folder"
---@field bytes integer      that its files take
---@field entries integer    how many there are
---@field imported_at number seconds since 1970
---@field config {env: table<string, string>, workdir?: string, user?: string}
---@field package store sbx.server.Images
local Image = {}
Image.__index = Image

-- ---------------------------------------------------------------------- the store

---Where images are kept unless somebody says otherwise. Raises `usage` where there is no
---such place.
---@return string
function images.default_folder()
  local base = os.getenv("XDG_STATE_HOME")
  if not base or base == "" then
    local home = os.getenv("HOME")
    if not home or home == "" then
      errors.raise {
        kind = "usage", message = "neither XDG_STATE_HOME nor HOME is set: give --images DIR",
      }
    end
    base = home .. "/.local/state"
  end
  return base .. "/sbxlua/images"
end

local function check_private(folder)
  local facts = fs.stat(folder)
  if facts.mode & 63 == 0 then return end -- nobody else
  errors.raise {
    kind = "state", code = "UNSAFE",
    message = ("images %s: its mode is %03o; it must be its owner's alone (chmod 700)"):format(
      folder, facts.mode & 511),
  }
end

---Opens the store in `folder`, which need not be there: then it has no images, until one
---is imported. Raises kind `state` when others could get at it.
---@async
---@param folder string
---@return sbx.server.Images
function images.open(folder)
  folder = paths.absolute(folder)
  if fs.exists(folder) then check_private(folder) end
  return setmetatable({ folder = folder }, Images)
end

---Makes the store's folder where it is missing.
---@async
function Images:prepare()
  fs.mkdir(self.folder, { parents = true, mode = PRIVATE_FOLDER })
  check_private(self.folder)
  self.folder = fs.realpath(self.folder)
  for _, name in ipairs { "refs", "trees", "work" } do
    fs.mkdir(self.folder .. "/" .. name, { parents = true, mode = PRIVATE_FOLDER })
  end
end

---Keeps other processes from changing the store, for a moment.
---@async
---@return sbx.fs.Lock
function Images:lock()
  return fs.lock(self.folder .. "/lock")
end

local function ref_path(self, full)
  return ("%s/refs/%s.json"):format(self.folder, hash.sha256(full):sub(1, 40))
end

local function read_record(path)
  local text = errors.try(fs.read, path, { max = MAX_RECORD })
  local record = text and errors.try(json.decode, text)
  return type(record) == "table" and record or nil
end

local function tree_path(self, id)
  return self.folder .. "/trees/" .. id
end

---The image with that id; nil when there is none.
---@async
---@param id string
---@param name? string
---@return sbx.server.Image|nil
function Images:get(id, name)
  if type(id) ~= "string" or not id:find("^%x+$") then return nil end
  local folder = tree_path(self, id)
  local record = read_record(folder .. "/image.json")
  if not record then return nil end
  record.id, record.folder, record.store = id, folder, self
  record.name = name or "<none>"
  return setmetatable(record, Image)
end

---All names, each with its image.
---@async
---@return {name: string, image: sbx.server.Image}[]
function Images:list()
  local list = {}
  for _, file in ipairs(errors.try(fs.list, self.folder .. "/refs") or {}) do
    local ref = read_record(self.folder .. "/refs/" .. file)
    local image = ref and type(ref.name) == "string" and self:get(ref.id, names.short(ref.name))
    if image then list[#list + 1] = { name = names.short(ref.name), image = image } end
  end
  table.sort(list, function(a, b)
    return a.name < b.name
  end)
  return list
end

local function find_by_digest(self, name)
  local digest = "sha256:" .. name.digest
  for _, entry in ipairs(self:list()) do
    local parsed = names.parse(entry.name)
    if entry.image.digest == digest and parsed and parsed.repository == name.repository then
      return entry.image
    end
  end
  return nil
end

---The image that a name means: what was imported under it, the parts that people leave
---out filled in. nil when there is none, or that is no name.
---@async
---@param text string
---@return sbx.server.Image|nil
function Images:find(text)
  local name = names.parse(text)
  if not name then return nil end
  if name.digest then return find_by_digest(self, name) end
  local ref = read_record(ref_path(self, name.full))
  return ref and self:get(ref.id, names.short(name.full)) or nil
end

---Makes `text` mean the image with that id. The store must be locked.
---@async
---@param text string
---@param id string
function Images:tag(text, id)
  local name = names.parse(text)
  if not name or name.digest then
    errors.raise {
      kind = "usage",
      message = ("'%s': expected the name of an image, such as python:3.11-slim"):format(text),
    }
  end
  local path = ref_path(self, name.full)
  fs.write_atomic(path, json.encode { name = name.full, id = id }, { mode = PRIVATE_FILE })
end

-- --------------------------------------------------------------------- its images

---What it is, in one line.
---@return string
function Image:describe()
  return ("%s (%s)"):format(self.name, (self.digest or self.id):sub(1, 19))
end

---What its commands have, with `own` put over it.
---@param own? table<string, string>
---@return table<string, string>
function Image:environment(own)
  local merged = {}
  for _, source in ipairs { self.config.env or {}, own or {} } do
    for name, value in pairs(source) do
      merged[name] = value
    end
  end
  return merged
end

local function use_path(store, id, holder)
  return ("%s/uses/%s"):format(tree_path(store, id), holder)
end

local function write_use(self, holder, identity)
  fs.write_atomic(use_path(self.store, self.id, holder), json.encode(identity),
    { mode = PRIVATE_FILE })
end

---Keeps it from being removed for as long as this program runs. Returns what ends that.
---Raises `image_pull` when it has just been removed.
---@async
---@param holder string   letters, digits, "-", "_"
---@return async fun()
function Image:hold(holder)
  local _ <close> = self.store:lock()
  if not fs.exists(self.folder .. "/image.json") then
    errors.raise { kind = "image_pull", message = "image " .. self.name .. " was just removed" }
  end
  write_use(self, holder, processes.identify(core.pid()))
  return function()
    self.store:release(self.id, holder)
  end
end

---From here on the image is kept for as long as that process runs.
---@async
---@param holder string
---@param identity sbx.server.driver.Identity
function Image:held_by(holder, identity)
  write_use(self, holder, identity)
end

---Ends a `hold`. Harmless when it has ended.
---@async
---@param id string      of the image
---@param holder string
function Images:release(id, holder)
  fs.remove(use_path(self, id, holder), { missing_ok = true })
end

---Who runs on it; what is left of those that were killed is cleared away.
---@async
---@return string[] holders
function Image:users()
  local users = {}
  for _, holder in ipairs(errors.try(fs.list, self.folder .. "/uses") or {}) do
    local path = use_path(self.store, self.id, holder)
    if processes.is_alive(read_record(path)) then
      users[#users + 1] = holder
    else
      fs.remove(path, { missing_ok = true })
    end
  end
  return users
end

-- ------------------------------------------------------------------------ removal

---Removes a folder with all that is in it, whatever that is, quickly.
---@async
---@param path string
function images.remove_tree(path)
  local function run(...)
    return process.run({ ... }, { timeout = REMOVE_SECONDS, cwd = "/", max_output = 4096 })
  end
  if run("rm", "-rf", "--", path).code == 0 then return end
  -- What was interrupted may hold folders that even their owner may not enter.
  run("chmod", "-R", "u+rwx", "--", path)
  local result = run("rm", "-rf", "--", path)
  if result.code == 0 then return end
  errors.raise {
    kind = "io", op = "remove",
    message = "remove " .. path .. ": " .. (result.stderr:match("[^\n]+") or "failed"),
  }
end

local function refs_of(self, id)
  local refs = {}
  for _, entry in ipairs(self:list()) do
    if entry.image.id == id then refs[#refs + 1] = entry.name end
  end
  return refs
end

-- Takes the image out of the store when no name means it any more, and returns where
-- its files wait to be removed.
local function take_out(self, image, force)
  if #refs_of(self, image.id) > 0 then return nil end
  if not force and #image:users() > 0 then return nil end
  local trash = ("%s/work/removed-%s"):format(self.folder, hash.random_hex(8))
  fs.rename(image.folder, trash)
  return trash
end

---Removes a name, and the image with it when no other name means it. Raises
---`not_found`, and `conflict` when sandboxes run on it, unless `force`: they lose files.
---@async
---@param text string
---@param force? boolean
function Images:remove(text, force)
  local trash
  if not self:find(text) then
    errors.raise { kind = "not_found", message = "no image " .. text }
  end
  do
    local _ <close> = self:lock()
    local image = self:find(text)
    if not image then errors.raise { kind = "not_found", message = "no image " .. text } end
    local users = image:users()
    local is_last = #refs_of(self, image.id) == 1
    if is_last and #users > 0 and not force then
      errors.raise {
        kind = "conflict",
        message = ("image %s: %s on it: %s; end them first, or use --force"):format(text,
          #users == 1 and "1 sandbox runs" or #users .. " sandboxes run",
          table.concat(users, ", ", 1, math.min(5, #users))),
      }
    end
    fs.remove(ref_path(self, assert(names.parse(image.name)).full))
    trash = take_out(self, image, force)
  end
  if trash then images.remove_tree(trash) end
end

---Removes what no name means and nobody runs on, and what is left of imports that were
---killed.
---@async
function Images:prune()
  if not fs.exists(self.folder .. "/work") then return end
  local trash = {}
  do
    local _ <close> = self:lock()
    for _, id in ipairs(fs.list(self.folder .. "/trees")) do
      local image = self:get(id)
      if image then trash[#trash + 1] = take_out(self, image) end
    end
    for _, name in ipairs(fs.list(self.folder .. "/work")) do
      local pid, start = name:match("^(%d+)%-(%d+)%-")
      local owner = pid and { pid = math.tointeger(tonumber(pid)), start = start }
      if not processes.is_alive(owner) then
        trash[#trash + 1] = ("%s/work/%s"):format(self.folder, name)
      end
    end
  end
  for _, path in ipairs(trash) do
    images.remove_tree(path)
  end
end

return images
