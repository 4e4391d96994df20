-- Our HTTP client beside others, against nginx, in CPU time per request: the
-- clients take turns, and only the ratios within a round count, because the
-- speed of a machine drifts. Says what it skips when a peer is not installed.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local net = require("sbx.net")
local process = require("sbx.process")
local task = require("sbx.task")

local ROUNDS, AT_ONCE = 3, 64
local BODY = '{"command":"echo hello","working_dir":"/tmp","env":{},"timeout":300}'

local OURS = [[
local http, task = require("sbx.http"), require("sbx.task")
local url, left, body = arg[1], tonumber(arg[2]), arg[3]
task.scope(function(scope)
  for _ = 1, 64 do
    scope:spawn(function()
      while left > 0 do
        left = left - 1
        assert(http.post(url, { body = body }):json().exit_code == 0)
      end
    end)
  end
end)
]]

local PYTHON = [[
import http.client, json, sys, threading, urllib.parse
url, left, body = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def work(count):
    connection = http.client.HTTPConnection(url.hostname, url.port)
    for _ in range(count):
        connection.request("POST", url.path, body)
        assert json.loads(connection.getresponse().read())["exit_code"] == 0
threads = [threading.Thread(target=work, args=(left // 64,)) for _ in range(64)]
[t.start() for t in threads]
[t.join() for t in threads]
]]

local NGINX = [[
worker_processes 1; daemon off; pid %s/pid; error_log %s/log;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 100000000;
  client_body_temp_path %s/b; proxy_temp_path %s/p; fastcgi_temp_path %s/f;
  uwsgi_temp_path %s/u; scgi_temp_path %s/s;
  server { listen 127.0.0.1:%d; location / { default_type application/json;
    return 200 '{"stdout":"%s","stderr":"","exit_code":0}'; } }
}
]]

local function installed(name)
  return process.run({ "sh", "-c", "command -v " .. name }).code == 0
end

-- Runs a client; its seconds of CPU, as the shell counts them.
local function cpu_seconds(argv)
  local script = "TIMEFORMAT='cpu %U %S'; time \"$@\" >/dev/null 2>&1"
  local words = { "bash", "-c", script, "bash", table.unpack(argv) }
  local result = process.run(words, { check = true, timeout = 60 })
  local user, system = result.stderr:match("cpu ([%d.]+) ([%d.]+)")
  return tonumber(user) + tonumber(system)
end

local function clients(url)
  local exe = host.executable()
  local list = {
    { name = "sbxlua", count = 20000, argv = { exe, "-e", OURS, url, "20000", BODY } },
    {
      name = "curl --parallel (reads no JSON)", count = 20000, program = "curl",
      argv = { "curl", "-s", "-Z", "--parallel-max", tostring(AT_ONCE), "-d", BODY,
        url .. "?[1-20000]", "-o", "/dev/null" },
    },
    {
      name = "Python's http.client, 64 threads", count = 6400, program = "python3",
      argv = { "python3", "-c", PYTHON, url, "6400", BODY },
    },
  }
  local found = {}
  for _, one in ipairs(list) do
    if not one.program or installed(one.program) then
      found[#found + 1] = one
    else
      print("skipped: " .. one.program .. " is not installed")
    end
  end
  return found
end

local function median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

local function compare(url)
  local list = clients(url)
  for _ = 1, ROUNDS do
    for _, one in ipairs(list) do
      one.costs = one.costs or {}
      table.insert(one.costs, cpu_seconds(one.argv) / one.count * 1e6)
    end
  end
  for _, one in ipairs(list) do
    local ratios = {}
    for i, cost in ipairs(one.costs) do
      ratios[i] = cost / list[1].costs[i]
    end
    local cost = median(one.costs)
    print(("%-36s %7.1f us of CPU a request, %5.2f times ours"):format(
      one.name, cost, median(ratios)))
  end
end

local function free_port()
  local listener <close> = net.listen("127.0.0.1", 0)
  return listener.port
end

if not installed("nginx") then
  print("skipped: nginx is not installed")
else
  local dir <close> = fs.tmpdir()
  local port, d = free_port(), dir.path
  local config = NGINX:format(d, d, d, d, d, d, d, port, ("x"):rep(600))
  fs.write(d .. "/conf", config)
  local nginx <close> = process.spawn({ "nginx", "-e", d .. "/log", "-c", d .. "/conf" }, {
    stderr = "null",
  })
  local url = ("http://127.0.0.1:%d/"):format(port)
  task.timeout(10, function()
    while nginx.running and not pcall(http.get, url) do task.sleep(0.02) end
  end)
  compare(url)
end
