-- Makes a sandbox without a network and tries, from inside, to get out of it.
--
--   sbxlua --local scripts/check_isolation.lua
--   sbxlua scripts/check_isolation.lua --target db.example.org:5432
--
-- stdout has a line for each check, PASS or FAIL. The status is 1 if one failed.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local http = require("sbx.http")
local net = require("sbx.net")
local retry = require("sbx.retry")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local url = require("sbx.url")

local given = cli.parse(arg, {
  name = "check_isolation",
  summary = "Checks that a sandbox with network_access = false reaches nothing outside.",
  example = "sbxlua --local scripts/check_isolation.lua",
  options = {
    { name = "target", short = "t", type = "list", metavar = "HOST:PORT",
      help = "what must be out of reach, too: your database, say" },
    { name = "image", default = "python:3.11-slim", help = "what the sandboxes run; has python" },
  },
})

-- Runs inside. Ends with 0 where it got through and with 3 where it did not, and
-- says why. Port 0 only looks the name up.
local PROBE = [[
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
try:
    if port == 0:
        print("it is", socket.getaddrinfo(host, 80)[0][4][0])
    else:
        socket.create_connection((host, port), 5).close()
        print("connected")
except OSError as error:
    print(error.strerror or error)
    sys.exit(3)
]]
-- A server to be found, or not; the loop waits until it listens.
local SERVE = [[
nohup python -m http.server 8000 --directory /tmp > /dev/null 2>&1 &
for _ in $(seq 50); do
  python /tmp/probe.py 127.0.0.1 8000 && break
  sleep 0.2
done
]]

-- The checks: what it is, where it is, and whether it must be in reach.
local checks = {
  { "its own loopback", "127.0.0.1", 8000, true },
  { "its own name for it", "localhost", 0, true },
  { "internet", "1.1.1.1", 443 },
  { "internet", "8.8.8.8", 53 },
  { "names of the internet", "example.com", 0 },
  { "the cloud's metadata", "169.254.169.254", 80 },
}
for _, target in ipairs(given.target) do
  local host, port = target:match("^%[?(.-)%]?:(%d+)$")
  if not host or tonumber(port) > 65535 then
    io.stderr:write("check_isolation: ", target, " is no HOST:PORT\n")
    os.exit(2)
  end
  table.insert(checks, { "target", host, tonumber(port) })
end

local client <close> = sandbox.client()
local box <close> = client:create({
  name = "isolated", docker_image = given.image, network_access = false,
})
local neighbour <close> = client:create({ name = "neighbour", docker_image = given.image })
client:bulk_wait_for_creation({ box, neighbour })
task.map({ box, neighbour }, function(each)
  each:upload_bytes("/tmp/probe.py", PROBE)
  each:exec(SERVE)
end)

local failed = 0
local function report(passed, what, why)
  print(("%s  %s: %s"):format(passed and "PASS" or "FAIL", what, why))
  if not passed then failed = failed + 1 end
end

-- What nobody can reach proves nothing. So these three are looked at from this
-- side first: a program on this machine, a server in another sandbox, the API.
local listener <close> = net.listen("127.0.0.1", 0)
net.connect("127.0.0.1", listener.port):close()
table.insert(checks, { "this machine's loopback", "127.0.0.1", listener.port })

local exposure = neighbour:expose(8000, { name = "neighbour" })
local function knock()
  if http.get(exposure.url, { timeout = 5 }).status == 502 then
    errors.raise({ kind = "http", message = "nothing listens there", retryable = true })
  end
  return true
end
local is_up, why_not = errors.try(retry.call, knock, { attempts = 50, max_pause = 0.5 })
report(is_up, "another sandbox, from here", tostring(why_not or exposure.url))
for address in neighbour:exec("hostname -I").stdout:gmatch("%S+") do
  table.insert(checks, { "another sandbox", address, 8000 })
end
local exposed = url.parse(exposure.url)
table.insert(checks, { "another sandbox's exposed port", exposed.host, exposed.port })

client:list({ page = 1, per_page = 1 }) -- raises unless it answers
local api = url.parse(client.base_url)
table.insert(checks, { "the API", api.host, api.port })

local results = task.map(checks, function(check)
  local result = box:exec("python /tmp/probe.py " .. encoding.quote_shell(check[2], check[3]))
  assert(result.exit_code == 0 or result.exit_code == 3, result.stderr) -- else: no answer at all
  return result
end)
for i, result in ipairs(results) do
  local what, host, port, wanted = table.unpack(checks[i])
  local where = port == 0 and host or host .. ":" .. port
  report((result.exit_code == 0) == (wanted or false), what,
    where .. ": " .. result.stdout:gsub("%s+$", ""))
end
io.stderr:write(failed == 0 and "isolated\n" or failed .. " checks failed\n")
if failed > 0 then os.exit(1) end
