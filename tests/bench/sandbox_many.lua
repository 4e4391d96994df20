-- How soon a local sandbox is there, what a command in it takes, and many at once:
-- beside bubblewrap alone and Docker, by turns in the same run.
--
--   sbxlua --local tests/bench/sandbox_many.lua [N [ROUNDS]]        (default 100, 31)
--
-- On a machine that has other work the ratios still tell something, the times do not.

local fs = require("sbx.fs")
local peers = dofile("tests/bench/lib/sandbox_peers.lua")
local process = require("sbx.process")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local COUNT = math.tointeger(tonumber(arg[1] or "100")) or 100
local ROUNDS = math.tointeger(tonumber(arg[2] or "31")) or 31
local AT_ONCE = 64
local IMAGE = "python:3.11-slim"
local client <close> = sandbox.client()

local function numbers(count)
  local list = {}
  for i = 1, count do
    list[i] = i
  end
  return list
end

-- Seconds that `fn` takes, and what it returns.
local function timed(fn, ...)
  local began = task.now()
  local result = fn(...)
  return task.now() - began, result
end

local function median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  return sorted[(#sorted + 1) // 2], sorted[math.ceil(#sorted * 0.95)]
end

local function load()
  return fs.read("/proc/loadavg"):match("^%S+")
end

-- Does all by turns, `rounds` times, and prints of each the median and how many times
-- the first of them that is. An entry: { name, work, undo }; `undo` is not counted.
local function compare(rounds, entries)
  for _, entry in ipairs(entries) do
    entry.times, entry.ratios = {}, {}
  end
  for round = 0, rounds do
    for _, entry in ipairs(entries) do
      local seconds, result = timed(entry[2])
      if entry[3] then entry[3](result) end
      if round > 0 then -- the first time is to warm up
        entry.times[round] = seconds
        entry.ratios[round] = seconds / entries[1].times[round]
      end
    end
  end
  for _, entry in ipairs(entries) do
    local middle, p95 = median(entry.times)
    print(("%-46s %8.2f ms   p95 %8.2f ms   %6.2f times the first"):format(entry[1],
      middle * 1000, p95 * 1000, (median(entry.ratios))))
  end
end

local function show(what, seconds, first)
  print(("%-46s %8.2f s%s"):format(what, seconds,
    first and (" %27.2f times the first"):format(seconds / first) or ""))
end

-- ------------------------------------------------------------------- one by one

local function new_box(has_network)
  return client:create({
    name = "bench", docker_image = IMAGE, disk_size_gb = 1, network_access = has_network,
  })
end

local function ready(has_network)
  local box = new_box(has_network)
  box:wait()
  return box
end

local function delete(box)
  box:delete()
end

local function bare()
  process.run(peers.bubblewrap({ "true" }), { check = true })
end

local function compare_starts(docker)
  local entries = {
    { "create until it is ready", function() return ready(false) end, delete },
    { "the same with a network", function() return ready(true) end, delete },
    { "bwrap … true, start to end", bare },
  }
  if docker then entries[4] = { "docker run, no network", docker.start, docker.remove } end
  compare(ROUNDS, entries)
end

-- --------------------------------------------------------------------- commands

-- Runs `fn` that often, 64 at once, and prints how many go through in a second.
local function flood(what, count, fn, first)
  local seconds = timed(task.map, numbers(count), fn, { limit = AT_ONCE })
  local rate = count / seconds
  print(("%-46s %8.0f a second %15.2f times the first"):format(what, rate, rate / (first or rate)))
  return rate
end

local function compare_commands(docker)
  local box <close> = ready(false)
  local container = docker and docker.start()
  local _ <close> = setmetatable({}, {
    __close = function()
      if docker then docker.remove(container) end
    end,
  })
  local function exec() assert(box:exec("true").exit_code == 0) end
  local function in_docker() docker.exec(container) end
  local function shell() process.run({ "/bin/sh", "-c", "true" }, { check = true }) end

  local entries = {
    { "exec true", exec }, { "sh -c true, without a sandbox", shell },
    { "bwrap … true, start to end", bare },
  }
  if docker then entries[4] = { "docker exec true", in_docker } end
  compare(ROUNDS, entries)
  local rate = flood("exec true, 64 at once in one sandbox", AT_ONCE * 16, exec)
  flood("sh -c true, without a sandbox, 64 at once", AT_ONCE * 16, shell, rate)
  flood("bwrap … true, 64 at once", AT_ONCE * 4, bare, rate)
  if docker then flood("docker exec true, 64 at once", AT_ONCE, in_docker, rate) end
end

-- ----------------------------------------------------------------- many at once

local function available()
  return tonumber(fs.read("/proc/meminfo"):match("MemAvailable:%s+(%d+)")) / 1024
end

local function many_bare()
  local children = {}
  local seconds = timed(task.map, numbers(COUNT), function(i)
    local child = process.spawn(peers.bubblewrap({ "sh", "-c", "echo up; exec sleep 1000" }), {
      stdout = "pipe",
    })
    children[i] = child
    assert(child.stdout:read() == "up\n")
  end, { limit = AT_ONCE })
  for _, child in ipairs(children) do
    child:close()
  end
  return seconds
end

local function many(has_network, first)
  local with = has_network and ", with a network" or ""
  local before, boxes = available(), nil
  local seconds = timed(function()
    boxes = task.map(numbers(COUNT), function() return new_box(has_network) end,
      { limit = AT_ONCE })
    client:bulk_wait_for_creation(boxes)
  end)
  show(("create %d until all are ready%s"):format(COUNT, with), seconds, first or seconds)
  print(("%-46s %8.2f MiB"):format("memory for each, of this machine",
    (before - available()) / COUNT))
  show("a command in each, 64 at once", (timed(task.map, boxes, function(box)
    assert(box:exec("true").exit_code == 0)
  end, { limit = AT_ONCE })))
  show("delete them all", (timed(client.bulk_delete, client, boxes)))
  return seconds
end

print(("load %s at first"):format(load()))
peers.with_docker(function(docker)
  compare_starts(docker)
  compare_commands(docker)
end)
local seconds = many(false)
many(true, seconds)
show(("%d times bwrap … sleep until all run"):format(COUNT), many_bare(), seconds)
print(("load %s at last"):format(load()))
