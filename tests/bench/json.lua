-- What JSON costs: an answer of the sandbox API, small and as a long list.

local measure = dofile("tests/bench/lib/measure.lua")
local json = require("sbx.json")

local function record(i)
  return {
    id = ("sbx-%016x"):format(i), name = "worker-" .. i, status = "RUNNING",
    dockerImage = "python:3.11-slim", cpuCores = 1, memoryGB = 2, timeoutMinutes = 60,
    createdAt = "2026-01-01T00:00:00Z", labels = json.array({ "batch", "eval" }),
    environmentVars = json.object({ MODE = "test" }), exitCode = json.null,
  }
end

local small = json.encode(record(1))
local list = {}
for i = 1, 1000 do
  list[i] = record(i)
end
local large = json.encode(list)

for _, case in ipairs({
  { ("a record of %d bytes"):format(#small), small, 10000 },
  { ("1000 records, %d KiB"):format(#large // 1024), large, 10 },
}) do
  local name, text, count = table.unpack(case)
  local value = json.decode(text)
  measure.run("decode " .. name, count, function()
    for _ = 1, count do
      json.decode(text)
    end
  end)
  measure.run("encode " .. name, count, function()
    for _ = 1, count do
      json.encode(value)
    end
  end)
end
