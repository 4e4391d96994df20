-- Follows the states of sandboxes and tells what changes; of those in trouble why, and
-- the end of their logs.
--
--   sbxlua scripts/watch_fleet.lua --label team-research
--   sbxlua scripts/watch_fleet.lua --label team-research --for 8h --every 30s >> fleet.jsonl
--
-- stdout has a line of JSON for each sandbox, and one more whenever its state changes.
-- The status is 1 if one of them was in trouble.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local json = require("sbx.json")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local time = require("sbx.time")

local given = cli.parse(arg, {
  name = "watch_fleet",
  summary = "Follows the states of sandboxes.",
  example = {
    "sbxlua scripts/watch_fleet.lua --label team-research",
    "sbxlua scripts/watch_fleet.lua --label team-research --for 8h --every 30s >> fleet.jsonl",
  },
  options = {
    { name = "label", short = "l", type = "list",
      help = "those that carry this label; all labels, if several" },
    { name = "for", type = "duration", default = 0, help = "how long to follow" },
    { name = "every", type = "duration", default = "10s", min = "100ms",
      help = "the pause between two looks" },
    { name = "tail", type = "size", default = 500, min = 0,
      help = "bytes of a log that are shown, the last ones" },
  },
  arguments = {
    { name = "ids", metavar = "ID", optional = true, many = true, help = "these, too" },
  },
})

-- States that nobody has asked for.
local TROUBLE = { ERROR = true, TIMEOUT = true, FAILED = true, FORBIDDEN = true, UNKNOWN = true }

-- One that is gone at the first look was never there.
local function is_trouble(line)
  return TROUBLE[line.status] or (line.status == "NOT_FOUND" and not line.before)
end

local client <close> = sandbox.client()
local states, names, order = {}, {}, {} -- by id; ids in the order of coming
local failed = 0

local function add(id, name)
  if states[id] then return end
  states[id], names[id] = "", name
  table.insert(order, id)
end

local function put(line)
  line.time = time.iso()
  print(json.encode(line, { sort_keys = true }))
  io.stdout:flush()
end

-- What there is to know about one in trouble. Its log may be gone with it.
---@async
local function explain(line)
  local context = errors.try(client.get_error_context, client, line.id) or {}
  line.error_type = context.error_type or line.error_type
  line.error_message = context.error_message or line.error_message
  local logs = given.tail > 0 and errors.try(client.get_logs, client, line.id)
  line.log = logs and encoding.utf8_clean(logs:sub(-given.tail), "") or nil
end

---@async
local function look()
  if #given.label > 0 then
    for box in client:each({ labels = given.label, exclude_terminated = true }) do
      add(box.id, box.name)
    end
  end
  local statuses, failures = client:get_status(order)
  local lines = {}
  for _, id in ipairs(order) do
    local now = statuses[id]
      or { status = failures[id].code or "UNKNOWN", error_message = tostring(failures[id]) }
    if now.status ~= states[id] then
      lines[#lines + 1] = {
        id = id, name = names[id], before = states[id] ~= "" and states[id] or nil,
        status = now.status, error_type = now.error_type, error_message = now.error_message,
      }
      states[id] = now.status
    end
  end
  task.map(lines, function(line)
    if not is_trouble(line) then return end
    failed = failed + 1
    explain(line)
  end)
  for _, line in ipairs(lines) do
    put(line)
  end
end

for _, id in ipairs(given.ids) do
  add(id)
end
look() -- what is wrong with the key or the label is wrong at once
local deadline = task.now() + given["for"]
while true do
  local left = deadline - task.now()
  if left <= 0 then break end
  task.sleep(math.min(given.every, left))
  local ok, err = errors.try(function()
    look()
    return true
  end)
  if not ok and not errors.is_error(err) then error(err, 0) end
  if not ok then io.stderr:write("watch_fleet: looks again: ", tostring(err), "\n") end
end
io.stderr:write(("%d sandboxes, %d in trouble\n"):format(#order, failed))
if failed > 0 then os.exit(1) end
