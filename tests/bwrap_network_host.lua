-- Runs inside a network namespace that a test made, which plays this machine: its only
-- neighbour is a namespace beside it, at 198.51.100.2, .3 and .4, with small servers on
-- port 8000 and a name server. Prints "done" when all is as it should be.

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local net = require("sbx.net")
local network = require("sbx.server.driver.bwrap_network")
local process = require("sbx.process")
local task = require("sbx.task")

local function ip(...)
  process.run({ "ip", ... }, { check = true })
end

-- The neighbours: an HTTP server on each address, and a name server for *.test.
local SERVERS = [==[
import http.server, socket, struct, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.connection.getsockname()[0].encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('0.0.0.0', 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(('198.51.100.2', 53))
print('up', flush=True)
NAMES = {b'three': '198.51.100.3', b'private': '10.9.9.9', b'machine': '198.51.100.1'}
while True:
    query, who = dns.recvfrom(512)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]]); at += query[at] + 1
    kind = struct.unpack('>H', query[at + 1:at + 3])[0]
    address = NAMES.get(labels[0]) if kind == 1 and labels[-1] == b'test' else None
    answer = b'\xc0\x0c\0\1\0\1\0\0\0\x05\0\4' + socket.inet_aton(address) if address else b''
    flags = b'\x81\x80' if labels[-1] == b'test' else b'\x81\x83'
    dns.sendto(query[:2] + flags + b'\0\1' + (b'\0\1' if address else b'\0\0') + b'\0\0\0\0'
        + query[12:at + 5] + answer, who)
]==]

local function make_neighbours()
  local child = process.spawn({ "unshare", "--net", "sh", "-c", [[
    ip link set lo up
    echo ready; read go
    ip link set there up
    for n in 2 3 4; do ip address add 198.51.100.$n/24 dev there; done
    ip address add 10.9.9.9/32 dev lo
    exec python3 -c "$SERVERS"]] }, {
    stdin = "pipe", stdout = "pipe", env = { SERVERS = SERVERS },
  })
  assert(child.stdout:read():find("ready"))
  ip("link", "set", "lo", "up")
  ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", tostring(child.pid))
  ip("address", "add", "198.51.100.1/24", "dev", "here")
  ip("link", "set", "here", "up")
  ip("route", "add", "10.9.9.9/32", "via", "198.51.100.2")
  ip("route", "add", "default", "via", "198.51.100.2")
  child.stdin:write("go\n")
  assert(child.stdout:read():find("up"))
  return child
end

local box

-- What of the places can be reached, and what names can be found.
local function look(...)
  local result = box.agent:exec({ timeout = 30, command = ([==[python3 - %s <<'END'
import socket, sys
for place in sys.argv[1:]:
    try:
        s = socket.create_connection((place, 8000), 3)
        s.sendall(b'GET / HTTP/1.0\r\n\r\n')
        data = b''
        while True:
            part = s.recv(4096)
            if not part: break
            data += part
        print(place, data.split(b'\r\n\r\n')[1].decode())
    except socket.gaierror: print(place, 'unknown')
    except OSError as e: print(place, 'no')
END]==]):format(table.concat({ ... }, " ")) })
  return (result.stdout:gsub("\n", "; ")) .. result.stderr
end

local function expect(rules, wanted, ...)
  box:set_network(rules)
  local found = look(...)
  if found ~= wanted then
    error(("with allow %s, deny %s\n  wanted %s\n  found  %s"):format(
      rules.allowlist and table.concat(rules.allowlist, ","),
      rules.denylist and table.concat(rules.denylist, ","), wanted, found), 2)
  end
end

-- A service of this machine itself, on all of its addresses.
local function make_service()
  local child = process.spawn({ "python3", "-m", "http.server", "8000" }, {
    stdout = "null", stderr = "null", cwd = "/mnt",
  })
  for _ = 1, 500 do
    local connection = errors.try(net.connect, "198.51.100.1", 8000)
    if connection then
      connection:close()
      return child
    end
    task.sleep(0.01)
  end
  error("no service")
end

local _ <close> = make_neighbours()
local _ <close> = make_service()
local own = network.own_networks(fs.read("/proc/net/fib_trie"))
assert(table.concat(own, " ") == "198.51.100.1/32", table.concat(own, " "))
local driver = bwrap.open()
local notes = {}
box = driver:create {
  id = "net", hostname = "net", network = true,
  network_rules = { allowlist = { "198.51.100.2" } },
  log = function(line)
    notes[#notes + 1] = line
  end,
}
local _ <close> = setmetatable({}, {
  __close = function()
    box:kill()
    driver:close()
  end,
})
assert(box.network_enforced, table.concat(notes, "\n"))

-- From the very start, one address and no other.
assert(look("198.51.100.2", "198.51.100.3") == "198.51.100.2 198.51.100.2; 198.51.100.3 no; ")

local all = { "198.51.100.2", "198.51.100.3", "198.51.100.4", "three.test" }
expect({ denylist = {} }, "198.51.100.2 198.51.100.2; 198.51.100.3 198.51.100.3; "
  .. "198.51.100.4 198.51.100.4; three.test 198.51.100.3; ", table.unpack(all))
-- This machine, private networks, and whatever they are called, stay fenced off.
expect({ denylist = {} }, "198.51.100.1 no; 10.9.9.9 no; private.test no; machine.test no; "
  .. "10.0.2.2 no; 127.0.0.1 no; 169.254.169.254 no; ", "198.51.100.1", "10.9.9.9", "private.test",
  "machine.test", "10.0.2.2", "127.0.0.1", "169.254.169.254")
expect({ allowlist = { "10.0.0.0/8", "198.51.100.1", "0.0.0.0/0", "private.test", "machine.test",
  "10.9.9.9" } }, "198.51.100.1 no; 10.9.9.9 no; private.test no; 198.51.100.4 198.51.100.4; ",
  "198.51.100.1", "10.9.9.9", "private.test", "198.51.100.4")
expect({ allowlist = { " three.test " } }, "198.51.100.2 no; 198.51.100.3 198.51.100.3; "
  .. "198.51.100.4 no; three.test 198.51.100.3; ", table.unpack(all))
expect({ allowlist = { "198.51.100.2/31" } }, "198.51.100.2 198.51.100.2; "
  .. "198.51.100.3 198.51.100.3; 198.51.100.4 no; three.test 198.51.100.3; ", table.unpack(all))
-- Host bits may be set.
expect({ denylist = { "198.51.100.3/31" } }, "198.51.100.2 no; 198.51.100.3 no; "
  .. "198.51.100.4 198.51.100.4; three.test no; ", table.unpack(all))
expect({ denylist = { "three.test" } }, "198.51.100.2 198.51.100.2; 198.51.100.3 no; "
  .. "198.51.100.4 198.51.100.4; three.test no; ", table.unpack(all))
expect({ denylist = { "0.0.0.0/0" } }, "198.51.100.2 no; ", "198.51.100.2")
-- Nothing at all: no names either.
expect({ allowlist = {} }, "198.51.100.2 no; three.test unknown; ", "198.51.100.2", "three.test")
expect({ allowlist = { "nowhere.test" } }, "198.51.100.2 no; three.test no; ", "198.51.100.2",
  "three.test")
assert(table.concat(notes, "\n"):find("nowhere.test has no IPv4 address now", 1, true))

-- A rule without addresses changes nothing.
box:set_network { allowlist = { "198.51.100.4" } }
local ok, failure = pcall(box.set_network, box, { allowlist = { "*.test" } })
assert(not ok and errors.is_error(failure) and failure.kind == "unsupported")
assert(look("198.51.100.4", "198.51.100.2") == "198.51.100.4 198.51.100.4; 198.51.100.2 no; ")

-- Nobody inside may change any of it.
local result = box.agent:exec {
  timeout = 10, command = "ip rule del pref 4100; ip route add default via 10.0.2.2;"
    .. " ip route flush table 4101; ip link set tap0 down",
}
assert(result.exit_code ~= 0)
assert(look("198.51.100.4", "198.51.100.2") == "198.51.100.4 198.51.100.4; 198.51.100.2 no; ")

-- One that was created without gets a network later, and loses it again.
box:kill()
box = driver:create { id = "later", hostname = "later", network = false }
expect({ allowlist = {} }, "198.51.100.2 no; ", "198.51.100.2")
expect({ denylist = {} }, "198.51.100.2 198.51.100.2; three.test 198.51.100.3; ", "198.51.100.2",
  "three.test")
expect({ allowlist = {} }, "198.51.100.2 no; three.test unknown; ", "198.51.100.2", "three.test")
io.stdout:write("done\n")
