-- What local sandboxes cost: from create to delete, commands, files.

local measure = dofile("tests/bench/lib/measure.lua")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local client <close> = sandbox.client()

local function new_box()
  local box = client:create({ name = "bench", docker_image = "python:3.11-slim" })
  box:wait()
  return box
end

measure.run("create, wait, delete", 5, function()
  for _ = 1, 5 do
    new_box():delete()
  end
end)

measure.run("create, wait, delete, 16 at once", 16, function()
  local list = {}
  for i = 1, 16 do
    list[i] = i
  end
  task.map(list, function() new_box():delete() end)
end)

local box <close> = new_box()

measure.run("exec true", 50, function()
  for _ = 1, 50 do
    assert(box:exec("true").exit_code == 0)
  end
end)

measure.run("exec true, 16 at once", 160, function()
  local list = {}
  for i = 1, 160 do
    list[i] = i
  end
  task.map(list, function() assert(box:exec("true").exit_code == 0) end, { limit = 16 })
end)

local bytes = ("0123456789abcdef"):rep(64 * 1024)
measure.run("upload 1 MiB", 10, function()
  for _ = 1, 10 do
    box:upload_bytes("/tmp/bench.bin", bytes)
  end
end)
measure.run("read 1 MiB", 10, function()
  for _ = 1, 10 do
    assert(#box:read_file("/tmp/bench.bin") == #bytes)
  end
end)
