-- Several sandboxes at once: created together, awaited in bulk, one command in
-- each, deleted together.
--
--   sbxlua --local scripts/fleet_demo.lua [COUNT]     on this machine
--   sbxlua scripts/fleet_demo.lua [IMAGE ...]         against the API
--
-- stdout carries the results, stderr the progress.

local cli = require("sbx.cli")
local progress = require("sbx.progress")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "fleet_demo",
  summary = "Creates several sandboxes at once, waits for all, runs a command in each.",
  example = "sbxlua --local scripts/fleet_demo.lua 8",
  arguments = {
    { name = "words", metavar = "COUNT | IMAGE", many = true, optional = true,
      help = "so many of python:3.11-slim, or one of each image (python:3.11-slim node:20-slim)" },
  },
})

-- Says what is wrong with the arguments and ends with the status of misuse.
local function refuse(message)
  io.stderr:write("fleet_demo: ", message, "\n")
  os.exit(2)
end

-- The images to run, one for each sandbox.
local function images_of(words)
  if #words == 0 then return { "python:3.11-slim", "node:20-slim" } end
  local count = #words == 1 and words[1]:find("^%d+$") and math.tointeger(tonumber(words[1]))
  if not count then
    for _, word in ipairs(words) do
      if tonumber(word) then refuse(word .. " is no image; give one COUNT or a list of images") end
    end
    return words
  end
  if count < 1 or count > 10000 then refuse("COUNT goes from 1 to 10000, not " .. words[1]) end
  local images = {}
  for i = 1, count do
    images[i] = "python:3.11-slim"
  end
  return images
end

---@async
local function create_many(images)
  local client <close> = sandbox.client()

  local created = task.map(images, function(image, i)
    return client:create({ name = "batch-" .. i, docker_image = image })
  end, { limit = #images, progress = "created" })

  do
    local bar <close> = progress.bar({ label = "ready", total = #created })
    client:bulk_wait_for_creation(created, { on_ready = function() bar:advance() end })
  end

  local names = {}
  for i, box in ipairs(created) do
    names[i] = box.name
  end
  print("Ready: " .. table.concat(names, ", "))

  local results = task.map(created, function(box)
    return box:exec("echo $(hostname): $((6 * 7))")
  end, { progress = "ran" })
  for i, result in ipairs(results) do
    assert(result.exit_code == 0, result.stderr)
    print(names[i] .. ": " .. result.stdout:gsub("%s+$", ""))
  end

  task.map(created, function(box) box:delete() end, { limit = #created, progress = "deleted" })
end

create_many(images_of(given.words))
