-- Takes images of other registries over into the account, so that sandboxes start from
-- what nobody can change or withdraw. Those that are there already are left alone.
--
--   sbxlua scripts/mirror_images.lua registry.example/base:1 registry.example/tools:2
--   sbxlua scripts/mirror_images.lua --file images.txt > paths.csv
--
-- stdout has a row of CSV for each image, with what `docker_image` of create takes; stderr
-- what happens. The status is 1 if one could not be had.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local fs = require("sbx.fs")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")

local given = cli.parse(arg, {
  name = "mirror_images",
  summary = "Takes images of other registries over into the account.",
  example = "sbxlua scripts/mirror_images.lua registry.example/base:1 registry.example/tools:2",
  options = {
    { name = "file", short = "f", type = "file", help = "has an image on each line" },
    { name = "timeout", type = "duration", default = "1h", help = "for all of them" },
  },
  arguments = { { name = "images", metavar = "IMAGE", many = true, optional = true } },
})
local wanted = given.images
if given.file then
  for line in fs.lines(given.file) do
    line = line:match("^%s*([^%s#]*)")
    if line ~= "" then table.insert(wanted, line) end
  end
end
if #wanted == 0 then
  io.stderr:write("mirror_images: which images? Name them, or give --file\n")
  os.exit(2)
end

-- "registry.example/team/app:v1" is called "app:v1" here.
local function name_of(image)
  local name = image:match("[^/]+$") or image
  return name:find(":", 1, true) and name or name .. ":latest"
end

local failed = 0
local function put(image, path, problem)
  print(encoding.csv_row({ image, path or "", problem or "" }))
  io.stdout:flush()
end

---@async
local function take_over(client, images)
  local again = {}
  for _, row in ipairs(client:transfer_images(images, {
    timeout = given.timeout,
    on_progress = function(status, row)
      io.stderr:write("mirror_images: ", log.clean(row.source_image .. ": " .. status), "\n")
    end,
  })) do
    if row.success then
      put(row.source_image, row.full_image_path)
    elseif row.retryable then
      table.insert(again, row)
    else
      failed = failed + 1
      put(row.source_image, nil, row.error)
    end
  end
  return again
end

local client <close> = sandbox.client()
local there = {}
for image in client:each_image() do
  if image.status == "COMPLETED" and image.artifact_type ~= "VM_SANDBOX" and image.image_name then
    there[image.image_name .. ":" .. (image.image_tag or "latest")] = image.full_image_path
  end
end

print(encoding.csv_row({ "image", "path", "error" }))
local missing = {}
for _, image in ipairs(wanted) do
  local path = there[name_of(image)]
  if path then
    put(image, path)
  else
    table.insert(missing, image)
  end
end
-- A request has a hundred at most. What may do better later gets one more chance.
for first = 1, #missing, 100 do
  local again = take_over(client, { table.unpack(missing, first, first + 99) })
  for i, row in ipairs(again) do
    again[i] = row.source_image
  end
  if #again > 0 then again = take_over(client, again) end
  for _, row in ipairs(again) do
    failed = failed + 1
    put(row.source_image, nil, row.error)
  end
end
if failed > 0 then os.exit(1) end
