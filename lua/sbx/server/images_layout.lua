-- Reads what describes an image: an OCI layout, or what `docker save` writes. Every name
-- in it is hostile, also where the folder itself is; what is not where it is said to be,
-- as a plain file with the digest that was promised, is refused.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local process = require("sbx.process")

---@class sbx.server.images_layout
local layout = {}

local MAX_DOCUMENT = 4 * 1024 * 1024
local MAX_LAYERS, MAX_DEPTH = 256, 3
local ARCHITECTURES = { x86_64 = "amd64", aarch64 = "arm64", armv7l = "arm" }
local REF_NAMES = { "org.opencontainers.image.ref.name", "io.containerd.image.name" }

---@class sbx.server.images.Layout
---@field source string       "oci" or "docker"
---@field digest string       "sha256:…"
---@field layers string[]     paths of archives, the lowest first; checked
---@field config {env: table<string, string>, workdir?: string, user?: string}

local function refuse(...)
  errors.raise { kind = "image", op = "import an image", message = table.concat { ... } }
end

-- The path of a plain file below `folder`, reached through plain folders only.
local function plain_file(folder, name)
  local path, last = folder, nil
  for part in name:gmatch("[^/]+") do
    if part == "." or part == ".." then refuse("'", name, "': leads elsewhere") end
    path = path .. "/" .. part
    last = errors.try(fs.lstat, path)
    if not last or (last.type ~= "directory" and last.type ~= "file") then
      refuse("'", name:gsub("%c", "?"):sub(1, 200), "': not there, or no plain file")
    end
  end
  if not last or last.type ~= "file" then refuse("'", name:sub(1, 200), "': no plain file") end
  return path
end

local function decode(path, name)
  local text = fs.read(path, { max = MAX_DOCUMENT })
  local document = errors.try(json.decode, text)
  if type(document) ~= "table" then refuse("'", name, "': not JSON") end
  return document
end

local function table_of(value)
  return type(value) == "table" and value or {}
end

-- --------------------------------------------------------------------- blobs

-- The path of what a descriptor speaks of, once its digest is seen to be right.
local function blob(folder, descriptor)
  local digest = table_of(descriptor).digest
  local hex = type(digest) == "string" and digest:match("^sha256:(%x+)$")
  if not hex or #hex ~= 64 then refuse("a descriptor without a sha256 digest") end
  hex = hex:lower()
  local path = plain_file(folder, "blobs/sha256/" .. hex)
  if hash.sha256_file(path) ~= hex then
    refuse("blob sha256:", hex, ": its content has another digest; the layout is damaged")
  end
  return path, "sha256:" .. hex
end

-- What a configuration says of the commands that run on it.
local function read_config(document)
  local given = table_of(document.config)
  local config = { env = {} }
  for _, entry in ipairs(table_of(given.Env)) do
    local name, value = tostring(entry):match("^([^=%z]+)=([^%z]*)$")
    if name then config.env[name] = value end
  end
  if type(given.WorkingDir) == "string" and given.WorkingDir ~= "" then
    config.workdir = given.WorkingDir
  end
  if type(given.User) == "string" and given.User ~= "" then config.user = given.User end
  return config
end

local function own_architecture()
  local result = errors.try(process.run, { "uname", "-m" }, { timeout = 5 })
  local machine = result and result.stdout:match("%S+") or "x86_64"
  return ARCHITECTURES[machine] or machine
end

-- ----------------------------------------------------------------------- OCI

local function has_tag(descriptor, tag)
  local notes = table_of(descriptor.annotations)
  for _, key in ipairs(REF_NAMES) do
    local name = notes[key]
    if name == tag or (type(name) == "string" and name:match(":([^:/]+)$") == tag) then
      return true
    end
  end
  return false
end

local function choose(list, tag)
  local fitting, names = {}, {}
  local architecture = own_architecture()
  for _, descriptor in ipairs(list) do
    descriptor = table_of(descriptor)
    local platform = table_of(descriptor.platform)
    local fits = not platform.architecture
      or (platform.architecture == architecture and (platform.os or "linux") == "linux")
    if fits and (not tag or has_tag(descriptor, tag)) then fitting[#fitting + 1] = descriptor end
    local name = table_of(descriptor.annotations)[REF_NAMES[1]]
    if type(name) == "string" then names[#names + 1] = name:gsub("%c", "?"):sub(1, 60) end
  end
  if #fitting == 1 then return fitting[1] end
  local known = table.concat(names, ", ", 1, math.min(9, #names))
  if known ~= "" then known = " (it has " .. known .. ")" end
  if #fitting > 1 then refuse("the layout has several images: name one, as DIR:TAG", known) end
  refuse("the layout has no image ", tag and ":" .. tag or "for " .. architecture, known)
end

-- From an index, perhaps over others, to a manifest.
local function find_manifest(folder, index, tag)
  for _ = 1, MAX_DEPTH do
    local descriptor = choose(table_of(index.manifests), tag)
    local path, digest = blob(folder, descriptor)
    local document = decode(path, digest)
    if document.layers then return document, digest end
    index, tag = document, nil
  end
  refuse("an index within an index, without end")
end

local function check_count(list)
  if #list == 0 then refuse("an image without layers") end
  if #list > MAX_LAYERS then refuse("more than ", MAX_LAYERS, " layers") end
end

local function read_oci(folder, tag)
  local index = decode(plain_file(folder, "index.json"), "index.json")
  local manifest, digest = find_manifest(folder, index, tag)
  local descriptors = table_of(manifest.layers)
  check_count(descriptors)
  local layers = {}
  for position, descriptor in ipairs(descriptors) do
    layers[position] = blob(folder, descriptor)
  end
  local config = decode(blob(folder, manifest.config), "the configuration")
  return { source = "oci", digest = digest, layers = layers, config = read_config(config) }
end

-- ----------------------------------------------------------------- docker save

local function choose_saved(list, tag)
  if #list == 1 and not tag then return table_of(list[1]) end
  for _, entry in ipairs(list) do
    for _, name in ipairs(table_of(table_of(entry).RepoTags)) do
      if tag and type(name) == "string" and name:match(":([^:/]+)$") == tag then return entry end
    end
  end
  refuse(tag and "the archive has no image :" .. tag
    or "the archive has several images: name one, as FILE.tar:TAG")
end

-- Its layers are not compressed, so that the configuration's digests are theirs.
local function read_saved(folder, tag)
  local entry = choose_saved(decode(plain_file(folder, "manifest.json"), "manifest.json"), tag)
  if type(entry.Config) ~= "string" then refuse("manifest.json: no configuration is named") end
  local config_path = plain_file(folder, entry.Config)
  local config = decode(config_path, "the configuration")
  local names, digests = table_of(entry.Layers), table_of(table_of(config.rootfs).diff_ids)
  check_count(names)
  local layers = {}
  for position, name in ipairs(names) do
    layers[position] = plain_file(folder, tostring(name))
    if "sha256:" .. hash.sha256_file(layers[position]) ~= digests[position] then
      refuse("layer ", position, ": its content has another digest; the archive is damaged")
    end
  end
  return {
    source = "docker", digest = "sha256:" .. hash.sha256_file(config_path), layers = layers,
    config = read_config(config),
  }
end

-- ---------------------------------------------------------------------- in public

local function has_plain(folder, name)
  return errors.try(plain_file, folder, name) ~= nil
end

---What kind of description is in the folder: "oci", "docker", or nil.
---@async
---@param folder string
---@return string|nil
function layout.kind(folder)
  if has_plain(folder, "oci-layout") and has_plain(folder, "index.json") then return "oci" end
  local facts = errors.try(fs.lstat, folder .. "/usr") or errors.try(fs.lstat, folder .. "/bin")
  if not facts and has_plain(folder, "manifest.json") then return "docker" end
  return nil
end

---Reads the description of the image that `tag` means, or of the only one, and checks
---all that it speaks of. Raises kind `image`.
---@async
---@param folder string
---@param tag? string
---@return sbx.server.images.Layout
function layout.read(folder, tag)
  if layout.kind(folder) == "oci" then return read_oci(folder, tag) end
  return read_saved(folder, tag)
end

return layout
