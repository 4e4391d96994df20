-- The verb `image`: the images that this machine's sandboxes can run on.

local images = require("sbx.server.images")
local json = require("sbx.json")
local time = require("sbx.time")

local verb = { uses = { output = true } }

local SHOWN_ID = 12

local function open_store(given)
  return images.open(given.images or images.default_folder())
end

-- ------------------------------------------------------------------- commands

local function size_of(bytes)
  if bytes >= 1e9 then return ("%.1f GB"):format(bytes / 1e9) end
  return ("%.1f MB"):format(bytes / 1e6)
end

local function import(given, out)
  local importer = require("sbx.server.images_import")
  local image = importer.import(open_store(given), given.name, given.source, {
    max_bytes = given.max_size,
  })
  out:note("%s: %d entries, %s", image:describe(), image.entries, size_of(image.bytes))
  out:one({ name = image.name, id = image.id, bytes = image.bytes }, image.name)
end

local function rows_of(store)
  local rows = {}
  for index, entry in ipairs(store:list()) do
    local image = entry.image
    rows[index] = {
      name = entry.name, id = image.id, digest = image.digest or json.null, bytes = image.bytes,
      source = image.source, imported_at = image.imported_at, used_by = json.array(image:users()),
    }
  end
  return rows
end

---@type sbx.cli.Column[]
local columns = {
  { "NAME", "name" }, { "ID", function(row) return row.id:sub(1, SHOWN_ID) end },
  { "SIZE", function(row) return size_of(row.bytes) end },
  { "IMPORTED", function(row) return (time.iso(row.imported_at):gsub("T", " "):sub(1, 16)) end },
  { "IN USE BY", function(row) return tostring(#row.used_by) end },
  { "SOURCE", "source", wide = true },
}

local function list(given, out)
  local rows = rows_of(open_store(given))
  out:rows(rows, columns, "name")
  if #rows == 0 then out:note("no images; sbxlua image import NAME FILE.tar makes one") end
end

local function remove(given, out)
  local store = open_store(given)
  for _, name in ipairs(given.names) do
    store:remove(name, given.force)
    out:one({ name = name, deleted = true }, name)
  end
  store:prune()
end

-- -------------------------------------------------------------------- the verb

verb.spec = {
  example = {
    "docker save python:3.11-slim | gzip > python.tar.gz",
    "sbxlua image import python:3.11-slim python.tar.gz",
    "sbxlua image ls",
  },
  options = {
    { name = "images", metavar = "DIR",
      help = "where images are kept (default: sbxlua/images in $XDG_STATE_HOME)" },
  },
  commands = {
    {
      name = "import", run = import,
      summary = "Makes an image of an archive or a folder, under a name.",
      notes = "What is imported is unpacked where it can do no harm, whatever it holds."
        .. " Layers are checked against their digests. An image that exists under the name"
        .. " stays until no sandbox runs on it.",
      options = {
        { name = "max-size", type = "size", default = "20GB", min = "1MB",
          help = "of the unpacked archive, at most" },
      },
      arguments = {
        { name = "name", help = "as in docker_image: python:3.11-slim" },
        { name = "source",
          help = "a root file system or docker save, as .tar, .tar.gz, .tar.zst; a folder;"
            .. " an OCI layout; PATH:TAG where there are several images" },
      },
    },
    {
      name = "ls", run = list, summary = "Shows the images.",
    },
    {
      name = "rm", run = remove, summary = "Removes images that no sandbox runs on.",
      options = {
        { name = "force", short = "f", type = "flag",
          help = "also when sandboxes run on it, which lose its files" },
      },
      arguments = { { name = "names", many = true } },
    },
  },
}

return verb
