-- A large file up in parts and down again, and as a tree: how fast, and by how much
-- the process grows meanwhile. Run it with --local; the first argument is the size
-- in MiB (1024).

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local MEBIBYTE = 1024 * 1024
local SIZE = (tonumber(arg and arg[1]) or 1024) * MEBIBYTE
local MOST_GROWTH = 32 -- MiB

-- A field of /proc/self/status, in MiB.
local function memory(name)
  return tonumber(fs.read("/proc/self/status"):match(name .. ":%s*(%d+)")) / 1024
end

-- The peak is counted from here on.
local function reset_peak()
  fs.write("/proc/self/clear_refs", "5")
end

local worst = 0

local function measure(name, work)
  collectgarbage()
  reset_peak()
  local before, start = memory("VmRSS"), task.now()
  work()
  local seconds = task.now() - start
  local growth = memory("VmHWM") - before
  worst = math.max(worst, growth)
  print(("%-44s %8.1f MiB/s %8.1f MiB more"):format(name, SIZE / MEBIBYTE / seconds, growth))
end

local folder <close> = fs.tmpdir({})
local client <close> = sandbox.client()
local box <close> = client:create({ name = "bench", docker_image = "python:3.11-slim" })
box:wait()

fs.mkdir(folder.path .. "/tree")
local path = folder.path .. "/tree/large"
do
  local file <close> = fs.open(path, "w")
  for _ = 1, SIZE // MEBIBYTE do
    file:write(hash.random_bytes(MEBIBYTE))
  end
end
box:upload_bytes("/tmp/warm", "up")
box:download_file("/tmp/warm", folder.path .. "/warm", { checksum = true })

local remote, back = "/tmp/large", folder.path .. "/back"

measure("upload_file, split", function()
  box:upload_file(remote, path, { split = true })
end)
measure("upload_file, split, checksum", function()
  box:upload_file(remote, path, { split = true, checksum = true })
end)
measure("upload_stream, split", function()
  local file <close> = fs.open(path)
  box:upload_stream(remote, file, { split = true })
end)
measure("download_file", function()
  box:download_file(remote, back)
end)
measure("download_file, checksum", function()
  box:download_file(remote, back, { checksum = true })
end)
fs.remove(back)
box:exec("rm /tmp/large")
measure("copy_tree_up", function()
  box:copy_tree_up(folder.path .. "/tree", "/tmp/tree")
end)
measure("copy_tree_down", function()
  box:copy_tree_down("/tmp/tree", back)
end)

assert(worst < MOST_GROWTH, ("it grew by %.1f MiB"):format(worst))
