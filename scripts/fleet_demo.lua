-- Several sandboxes at once: created together, awaited in bulk, one command in
-- each, deleted together.
--
--   sbxlua --local scripts/fleet_demo.lua [COUNT]     on this machine
--   sbxlua scripts/fleet_demo.lua [IMAGE ...]         against the API
--
-- stdout carries the results, stderr the progress.

local cli = require("sbx.cli")
local host = require("sbx.core.host")
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

-- One line that is rewritten on a terminal; elsewhere a line now and then.
local function new_progress(label, total)
  local on_terminal = host.isatty(2)
  local done, shown, last = 0, -1, task.now()
  local progress = {}

  local function show(text)
    if on_terminal then
      io.stderr:write("\r\27[K", text, done == total and "\n" or "")
    elseif done == total or task.now() - last >= 2 then
      io.stderr:write(text, "\n")
      last = task.now()
    end
  end

  function progress.step()
    done = done + 1
    if done == shown then return end
    shown = done
    show(("%s %d/%d"):format(label, done, total))
  end

  return progress
end

-- Does `fn` for every item at once and counts on stderr how many are through.
---@async
local function for_all(label, list, fn)
  local progress = new_progress(label, #list)
  return task.map(list, function(item, i)
    local result = fn(item, i)
    progress.step()
    return result
  end)
end

---@async
local function create_many(images)
  local client <close> = sandbox.client()

  local created = for_all("created", images, function(image, i)
    return client:create({ name = "batch-" .. i, docker_image = image })
  end)

  local ready = new_progress("ready", #created)
  client:bulk_wait_for_creation(created, { on_ready = ready.step })

  local names = {}
  for i, box in ipairs(created) do
    names[i] = box.name
  end
  print("Ready: " .. table.concat(names, ", "))

  local results = for_all("ran", created, function(box)
    return box:exec("echo $(hostname): $((6 * 7))")
  end)
  for i, result in ipairs(results) do
    assert(result.exit_code == 0, result.stderr)
    print(names[i] .. ": " .. result.stdout:gsub("%s+$", ""))
  end

  for_all("deleted", created, function(box) box:delete() end)
end

create_many(images_of(given.words))
