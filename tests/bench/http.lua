-- What a request costs, client and server together: both run in this process.
-- Then what streams cost beside curl, which does the same in the same minute.

local measure = dofile("tests/bench/lib/measure.lua")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local process = require("sbx.process")
local server = require("sbx.server.http")
local task = require("sbx.task")

local body = ("x"):rep(1024)

local function answer(request)
  request:respond(200, { ["Content-Type"] = "text/plain" }, body)
end

task.scope(function(scope)
  local listener = server.serve({ scope = scope, routes = { { "GET", "/", answer } } })
  local url = ("http://127.0.0.1:%d/"):format(listener.port)

  local function get()
    assert(#http.get(url).body == #body)
  end

  measure.run("GET of 1 KiB, one after the other", 1000, function()
    for _ = 1, 1000 do
      get()
    end
  end)

  local list = {}
  for i = 1, 4000 do
    list[i] = i
  end
  for _, limit in ipairs({ 16, 64, 256 }) do
    measure.run(("GET of 1 KiB, %d at once"):format(limit), #list, function()
      task.map(list, get, { limit = limit })
    end)
  end
  listener:close()
end)

local ROUNDS, SIZE = 5, 512 << 20

local DOWNLOAD = [[
local http = require("sbx.http")
local size = 0
local res <close> = http.stream("GET", arg[1])
for piece in res:chunks() do size = size + #piece end
assert(size == tonumber(arg[2]))
]]

local UPLOAD = [[
local http = require("sbx.http")
local left, block = tonumber(arg[2]) // 65536, ("x"):rep(65536)
local res = http.put(arg[1], {
  body = function()
    left = left - 1
    return left >= 0 and block or nil
  end,
})
assert(res.status < 300, res.status)
]]

-- Runs a program: its seconds by the clock, and of CPU.
local function seconds(argv)
  local script = "TIMEFORMAT='took %R %U %S'; time \"$@\" >/dev/null 2>&1"
  local result = process.run({ "bash", "-c", script, "bash", table.unpack(argv) },
    { check = true, timeout = 60 })
  local real, user, system = result.stderr:match("took ([%d.]+) ([%d.]+) ([%d.]+)")
  return tonumber(real), user + system
end

local function median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

-- The two take turns: only ratios within a round count.
local function compare(name, ours, theirs)
  local walls, cpus, rates = {}, {}, {}
  for i = 1, ROUNDS do
    local wall, cpu = seconds(ours)
    local curl_wall, curl_cpu = seconds(theirs)
    walls[i], cpus[i], rates[i] = wall / curl_wall, cpu / curl_cpu, SIZE / wall / 1e6
  end
  print(("%-40s %6.0f MB/s, %.2f times the time and %.2f times the CPU of curl"):format(
    name, median(rates), median(walls), median(cpus)))
end

local function installed(name)
  return process.run({ "sh", "-c", "PATH=$PATH:/usr/sbin command -v " .. name }).code == 0
end

local function compare_with_curl()
  if not (installed("nginx") and installed("curl")) then
    print("skipped: streams beside curl need nginx and curl")
    return
  end
  local dir <close> = fs.tmpdir()
  local big = dir.path .. "/big"
  process.run({ "truncate", "-s", tostring(SIZE), big }, { check = true })
  local nginx <close> = dofile("tests/peers/nginx.lua").start(dir.path, [[
    server {
      listen 127.0.0.1:@1; root @dir; sendfile on; client_max_body_size 0;
      location /put { dav_methods PUT; }
    }
  ]])
  local exe, size = host.executable(), tostring(SIZE)
  local url = nginx.url .. "/big"
  compare("stream down", { exe, "-e", DOWNLOAD, url, size },
    { "curl", "-s", "-o", "/dev/null", url })
  url = nginx.url .. "/put"
  compare("iterator up", { exe, "-e", UPLOAD, url, size },
    { "curl", "-s", "-T", big, "-H", "Transfer-Encoding: chunked", "-H", "Expect:", url })
end

compare_with_curl()
