-- Keeps a number of sandboxes ready that outlive this script: other scripts find them by
-- their label, and the pool is drained when nobody needs it any more.
--
--   sbxlua scripts/pool.lua fill --label warm --count 20 --ttl 8h
--   sbxlua scripts/pool.lua show --label warm
--   sbxlua scripts/pool.lua drain --label warm
--
-- stdout has the id of each sandbox that is there, or went. The status is 1 if one did
-- not become ready, or could not be deleted. Ctrl-C leaves no half-made ones.

local cli = require("sbx.cli")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local label = { name = "label", short = "l", required = true, help = "what they carry" }

local given = cli.parse(arg, {
  name = "pool",
  summary = "Keeps sandboxes ready for other scripts.",
  example = {
    "sbxlua scripts/pool.lua fill --label warm --count 20 --ttl 8h",
    "sbxlua scripts/pool.lua drain --label warm",
  },
  commands = {
    {
      name = "fill", summary = "Makes as many as are missing.",
      options = {
        label,
        { name = "count", short = "n", type = "integer", required = true, min = 1, max = 10000,
          help = "how many there shall be" },
        { name = "image", default = "python:3.11-slim", help = "what new ones run" },
        { name = "ttl", type = "duration", default = "1h", min = "1m",
          help = "how long they live" },
        { name = "wait", type = "duration", default = "5m", help = "until they are ready" },
      },
    },
    { name = "show", summary = "Shows those that there are.", options = { label } },
    { name = "drain", summary = "Deletes them all.", options = { label } },
  },
})

local client <close> = sandbox.client()

-- Those of the pool that have not ended.
---@async
local function members()
  return client:list({ labels = { given.label }, exclude_terminated = true })
end

local failed = 0

-- New ones belong to this run, and go with it, until they are ready.
---@async
local function fill()
  local there = members()
  local missing = {}
  for i = 1, given.count - #there do
    missing[i] = i
  end
  local made = task.map(missing, function()
    return client:create({
      name = "pool-" .. given.label, docker_image = given.image, labels = { given.label },
      timeout_minutes = math.ceil(given.ttl / 60),
    })
  end, { progress = "created" })
  local _, failures = client:bulk_wait_for_creation(made, {
    timeout = given.wait, on_error = "collect",
  })
  for _, box in ipairs(made) do
    local err = failures[box.id]
    if err then
      failed = failed + 1
      io.stderr:write("pool: ", tostring(err), "\n")
    else
      box.keep = true
      table.insert(there, box)
    end
  end
  for _, box in ipairs(there) do
    print(box.id)
  end
end

---@async
local function show()
  for _, box in ipairs(members()) do
    print(box.id, box.status, box.created_at)
  end
end

-- Until the list says that there are none: some may have been made meanwhile.
---@async
local function drain()
  for _ = 1, 5 do
    if #members() == 0 then return end
    local answer = client:bulk_delete({ labels = { given.label } })
    for _, id in ipairs(answer.succeeded) do
      print(id)
    end
    for _, problem in ipairs(answer.failed) do
      io.stderr:write("pool: ", log.clean(problem.sandbox_id .. ": " .. problem.error), "\n")
    end
    task.sleep(0.2)
  end
  failed = #members()
end

({ fill = fill, show = show, drain = drain })[given.command]()
if failed > 0 then os.exit(1) end
