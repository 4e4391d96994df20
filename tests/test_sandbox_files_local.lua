-- Files and trees in and out of a real sandbox of this machine.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local local_server = require("sbx.local_server")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local state = require("sbx.sandbox.state")

state.use(false) -- nothing in the folder of who runs the tests

-- Calls `fn(box, folder)` with a sandbox of a private server, which ends with it.
---@async
local function with_box(fn)
  local server = local_server.start({ stderr = function() end })
  local ok, err = xpcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    local box <close> = client:create({ name = "files", docker_image = "python:3.11-slim" })
    local folder <close> = fs.tmpdir({})
    box:wait()
    fn(box, folder.path)
  end, function(err) return type(err) == "string" and debug.traceback(err) or err end)
  local failures = run.finish()
  server.stop()
  if not ok then error(err, 0) end
  assert(#failures == 0, tostring(failures[1]))
end

local function random_file(path, size)
  local file <close> = fs.open(path, "w")
  while size > 0 do
    local bytes = hash.random_bytes(math.min(size, 1048576))
    file:write(bytes)
    size = size - #bytes
  end
end

test("local files: parts, streams and checksums", function()
  with_box(function(box, folder)
    random_file(folder .. "/in", 5000001)
    local digest = hash.sha256_file(folder .. "/in")
    local up = box:upload_file("/tmp/new/a b", folder .. "/in", {
      split = 1000000, checksum = true, mode = "751",
    })
    assert(up.sha256 == digest and up.size == 5000001)
    local seen = box:exec("stat -c '%a %s' '/tmp/new/a b'; ls -A /tmp/new; sha256sum /tmp/new/*")
    assert(seen.stdout == "751 5000001\na b\n" .. digest .. "  /tmp/new/a b\n", seen.stdout)

    local from <close> = fs.open(folder .. "/in")
    local streamed = box:upload_stream("/tmp/new/s", from, { split = 700000, checksum = true })
    assert(streamed.sha256 == digest)
    assert(box:download_file("/tmp/new/s", folder .. "/out", { checksum = true }) == 5000001)
    assert(hash.sha256_file(folder .. "/out") == digest)
    assert(hash.sha256(box:download_bytes("/tmp/new/s")) == digest)

    fs.write(folder .. "/again.part", box:download_bytes("/tmp/new/s"):sub(1, 3000000))
    local first
    box:download_file("/tmp/new/s", folder .. "/again", {
      resume = true, progress = function(done) first = first or done end,
    })
    assert(first == 3000000 and hash.sha256_file(folder .. "/again") == digest)

    box:exec("seq 100000 > /tmp/lines")
    local lines <close> = box:download_stream("/tmp/lines")
    local sum = 0
    for line in lines:lines() do
      sum = sum + math.tointeger(tonumber(line))
    end
    assert(sum == 100000 * 100001 // 2)
  end)
end)

-- In MiB.
local function memory(name)
  return tonumber(fs.read("/proc/self/status"):match(name .. ":%s*(%d+) kB")) / 1024
end

test("local files: much passes through little memory", { timeout = 180 }, function()
  with_box(function(box, folder)
    fs.mkdir(folder .. "/tree")
    fs.write(folder .. "/tree/large", "")
    do
      local file <close> = fs.open(folder .. "/tree/large", "r+")
      file:write_at(96 * 1048576 - 1, "x") -- the rest is a hole
    end
    collectgarbage()
    fs.write("/proc/self/clear_refs", "5") -- the peak counts from here
    local before = memory("VmHWM")
    box:upload_file("/tmp/large", folder .. "/tree/large", { split = 24 * 1048576 })
    box:download_file("/tmp/large", folder .. "/back")
    box:exec("rm /tmp/large")
    box:copy_tree_up(folder .. "/tree", "/tmp/tree", { part_size = 40 * 1048576 })
    box:copy_tree_down("/tmp/tree", folder .. "/out")
    assert(fs.stat(folder .. "/out/large").size == 96 * 1048576)
    -- The sanitizer, known by its shadow, holds freed memory back.
    local sanitized = memory("VmSize") > 1 << 22
    local grown = memory("VmHWM") - before
    assert(grown < 32 or sanitized, ("it grew by %g MiB"):format(grown))
  end)
end)

test("local files: trees", function()
  with_box(function(box, folder)
    fs.mkdir(folder .. "/tree/src/.git", { parents = true })
    fs.write(folder .. "/tree/src/main.py", "print('hi')\n")
    fs.write(folder .. "/tree/src/.git/config", "x")
    fs.symlink("src/main.py", folder .. "/tree/main")
    local up = box:copy_tree_up(folder .. "/tree", "/project/project", { exclude = { ".git" } })
    assert(up.files == 1 and up.folders == 1 and up.links == 1)
    local result = box:exec("cd /project/project && python main && mkdir out && cp main out/copy"
      .. " && ln out/copy out/hard && ln -s /etc/passwd out/evil && ls -A src")
    assert(result.stdout == "hi\nmain.py\n" and result.exit_code == 0, result.stderr)

    local down = box:copy_tree_down("/project/project/out", folder .. "/out", { unsafe = "skip" })
    assert(down.files == 1 and down.links == 1 and down.skipped[1] == "evil")
    assert(fs.read(folder .. "/out/hard") == "print('hi')\n" and #fs.list(folder .. "/out") == 2)
    assert(box:exec("ls -A /tmp").stdout == "", "no archive may stay")
  end)
end)
