-- Many local sandboxes at once, and how soon one is there: medians, beside what the
-- same costs without a sandbox.
--
--   sbxlua --local tests/bench/sandbox_many.lua [N]        (default 500)

local fs = require("sbx.fs")
local process = require("sbx.process")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local COUNT = math.tointeger(tonumber(arg[1] or "500")) or 500
local IMAGE = "python:3.11-slim"
local client <close> = sandbox.client()

local function numbers(count)
  local list = {}
  for i = 1, count do
    list[i] = i
  end
  return list
end

local function seconds_of(fn)
  local began = task.now()
  fn()
  return task.now() - began
end

-- The median and the 95th percentile of `count` runs, in milliseconds; `undo` gets
-- what a run returned and is not counted.
local function percentiles(count, fn, undo)
  local all = {}
  for i = 1, count do
    local made
    all[i] = seconds_of(function() made = fn() end) * 1000
    if undo then undo(made) end
  end
  table.sort(all)
  return all[(count + 1) // 2], all[math.ceil(count * 0.95)]
end

local function show(what, median, p95)
  print(("%-44s %8.2f ms   p95 %8.2f ms"):format(what, median, p95))
end

local function new_box()
  return client:create({ name = "bench", docker_image = IMAGE, disk_size_gb = 1 })
end

do
  local first <close> = new_box() -- what only the first one pays
  first:wait()
end

show("create until it is ready", percentiles(21, function()
  local box = new_box()
  box:wait()
  return box
end, function(box) box:delete() end))
do
  local box <close> = new_box()
  box:wait()
  show("exec true", percentiles(200, function() box:exec("true") end))
  show("sh -c true, without a sandbox", percentiles(200, function()
    process.run({ "/bin/sh", "-c", "true" })
  end))
  local taken = seconds_of(function()
    task.map(numbers(64 * 16), function() box:exec("true") end, { limit = 64 })
  end)
  print(("%-44s %8.0f a second"):format("exec true, 64 at once in one", 64 * 16 / taken))
end

local function available()
  return tonumber(fs.read("/proc/meminfo"):match("MemAvailable:%s+(%d+)")) / 1024
end

local before = available()
local boxes
print(("%-44s %8.2f s"):format(("create %d until all are ready"):format(COUNT),
  seconds_of(function()
    boxes = task.map(numbers(COUNT), new_box, { limit = 64 })
    client:bulk_wait_for_creation(boxes)
  end)))
print(("%-44s %8.2f MiB"):format("memory for each, of this machine",
  (before - available()) / COUNT))
print(("%-44s %8.2f s"):format("a command in each, 64 at once", seconds_of(function()
  task.map(boxes, function(box) assert(box:exec("true").exit_code == 0) end, { limit = 64 })
end)))
print(("%-44s %8.2f s"):format("delete them all", seconds_of(function()
  client:bulk_delete(boxes)
end)))
