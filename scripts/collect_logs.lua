-- Collects the logs of many sandboxes into a folder, a file for each, and follows
-- them for a while where that is wanted.
--
--   sbxlua scripts/collect_logs.lua --label team-research --into logs --for 10m
--   sbxlua --local scripts/collect_logs.lua --start 'echo hello' --count 3 --for 2s
--
-- stdout has a row of CSV for each sandbox, stderr the progress. The status is 1
-- if a log could not be read.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local fs = require("sbx.fs")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "collect_logs",
  summary = "Collects the logs of sandboxes into a folder.",
  example = {
    "sbxlua scripts/collect_logs.lua --label team-research --into logs --for 10m",
    "sbxlua --local scripts/collect_logs.lua --start 'echo hello' --count 3 --for 2s",
  },
  options = {
    { name = "label", short = "l", type = "list",
      help = "those that carry this label; all labels, if several" },
    { name = "start", metavar = "COMMAND",
      help = "start sandboxes with this command, and delete them in the end" },
    { name = "count", type = "integer", default = 1, min = 1, max = 1000, help = "how many" },
    { name = "image", default = "python:3.11-slim", help = "what they run" },
    { name = "into", short = "o", metavar = "FOLDER", default = "logs",
      help = "where the files go; they are written anew" },
    { name = "for", type = "duration", default = 0, help = "how long to follow the logs" },
    { name = "every", type = "duration", default = "2s", min = "100ms",
      help = "the pause before each further look" },
  },
  arguments = {
    { name = "ids", metavar = "ID", optional = true, many = true, help = "whose logs" },
  },
})
if #given.ids == 0 and #given.label == 0 and not given.start then
  io.stderr:write("collect_logs: whose logs? Give an ID, --label or --start\n")
  os.exit(2)
end

local client <close> = sandbox.client()
local boxes, started = {}, {}

-- Notes each sandbox once, even if it is found in two ways.
local seen = {}
local function add(box)
  if not seen[box.id] then table.insert(boxes, box) end
  seen[box.id] = true
end

-- Runs at the end of the script, also after a failure or a Ctrl-C.
local scope <close> = task.open_scope()
scope:defer(function() client:bulk_delete(started) end)

for _, id in ipairs(given.ids) do
  add({ id = id })
end
for _, box in ipairs(#given.label > 0 and client:list({ labels = given.label }) or {}) do
  add(box)
end
for i = 1, given.start and given.count or 0 do
  started[i] = client:create({
    name = "logs-" .. i, docker_image = given.image, start_command = given.start,
  })
  add(started[i])
end

-- Writes what the log has now and what it gets until `deadline`; returns how many
-- bytes that were. Nobody can ask for the new part only: each look reads it all.
---@async
local function collect(box, path, deadline)
  local file <close> = fs.open(path, "w")
  local known, size = "", 0
  while true do
    local left = deadline - task.now()
    local text = client:get_logs(box.id)
    -- A server may keep the newest lines only. Once it drops old ones, all counts as new.
    local new = text:sub(1, #known) == known and text:sub(#known + 1) or text
    file:write(new)
    known, size = text, size + #new
    if left <= 0 then return size end
    task.sleep(math.min(given.every, left))
  end
end

fs.mkdir(given.into, { parents = true })
local deadline = task.now() + given["for"]
local results = task.imap(boxes, function(box)
  -- An id comes from a server: it must not lead out of the folder.
  local path = given.into .. "/" .. box.id:gsub("[^%w_-]", "_") .. ".log"
  return { path = path, size = collect(box, path, deadline) }
end, { limit = math.max(#boxes, 1), on_error = "collect" })

print(encoding.csv_row({ "id", "name", "bytes", "file", "error" }))
local failed = 0
for i, log, err in results do
  log = log or {}
  local row = table.pack(boxes[i].id, boxes[i].name, log.size, log.path, err and tostring(err))
  print(encoding.csv_row(row))
  if err then failed = failed + 1 end
end
io.stderr:write(("%d logs in %s, %d failed\n"):format(#boxes - failed, given.into, failed))
if failed > 0 then os.exit(1) end
