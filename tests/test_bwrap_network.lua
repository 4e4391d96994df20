-- What a sandbox may reach: the routes that rules come to, and, on a network made for
-- the test beside that of this machine, that they hold.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local network = require("sbx.server.driver.bwrap_network")
local policy = require("sbx.server.driver.bwrap_policy")
local process = require("sbx.process")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""

test("bwrap network: addresses and networks", function()
  local known = {
    ["192.0.2.7"] = "192.0.2.7/32", ["192.0.2.7/24"] = "192.0.2.0/24", ["0.0.0.0/0"] = "0.0.0.0/0",
    ["255.255.255.255"] = "255.255.255.255/32", ["10.1.2.3/31"] = "10.1.2.2/31",
  }
  for text, wanted in pairs(known) do
    local first, length = policy.parse(text)
    assert(first and policy.format(first, length) == wanted, text)
  end
  for _, text in ipairs {
    "", "192.0.2", "192.0.2.7.1", "192.0.2.256", "192.0.2.7/33", "192.0.2.7/", "192.0.2.7/x", "::1",
    "192.0.2.7 ", "a.b.c.d", "1..2.3", "192.0.2.0/24/8", "0x7f.0.0.1", "192.0.2.1111",
  } do
    assert(not policy.parse(text), text)
  end
end)

local function routes(rules)
  return table.concat(policy.routes(policy.plan(rules), {
    table = 7, out = "OUT", nameserver = "10.0.2.3", own = { "203.0.113.5/32" },
  }))
end

local function has(text, line)
  return ("\n" .. text):find("\nroute replace " .. line .. " table 7\n", 1, true) ~= nil
end

test("bwrap network: rules become routes; what is fenced stays so", function()
  for _, rules in ipairs {
    {}, { denylist = {} }, { allowlist = { "0.0.0.0/0", "10.0.0.0/8", "10.1.2.3", "203.0.113.5" } },
    { allowlist = { "203.0.113.0/24", "8.0.0.0/5" } }, { denylist = { "192.0.2.0/24" } },
    { allowlist = {} },
  } do
    local text = routes(rules)
    for _, fenced in ipairs {
      "10.0.0.0/8", "192.168.0.0/16", "169.254.0.0/16", "172.16.0.0/12", "203.0.113.5/32",
    } do
      assert(has(text, "unreachable " .. fenced), text)
      assert(not has(text, fenced .. " OUT"), text)
    end
    assert(not text:find("10.1.2.3", 1, true), text)
  end
  assert(has(routes {}, "default OUT") and has(routes {}, "10.0.2.3/32 OUT"))
  assert(has(routes { allowlist = {} }, "unreachable default"))
  assert(not routes({ allowlist = {} }):find("OUT", 1, true))
  local some = routes { allowlist = { "192.0.2.1", "198.51.100.0/24", "192.0.2.1/32" } }
  assert(has(some, "unreachable default") and has(some, "192.0.2.1/32 OUT"))
  assert(has(some, "198.51.100.0/24 OUT") and has(some, "10.0.2.3/32 OUT"))
  local _, count = some:gsub("192%.0%.2%.1/32", "")
  assert(count == 1)
  local denied = routes { denylist = { "192.0.2.77/24" } }
  assert(has(denied, "default OUT") and has(denied, "unreachable 192.0.2.0/24"))
  for _, bad in ipairs { "*.example.com", "a*b" } do
    local ok, failure = pcall(policy.plan, { allowlist = { bad } })
    assert(not ok and failure.kind == "unsupported")
  end
end)

local TRIE = [[
Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 203.0.113.0/24 2 0 2
        |-- 203.0.113.0
           /24 link UNICAST
           /28 host LOCAL
        |-- 203.0.113.77
           /32 host LOCAL
Local:
  +-- 203.0.113.0/24 2 0 2
     |-- 203.0.113.77
        /32 host LOCAL
     |-- 198.51.100.9
        /32 link UNICAST
        /32 host LOCAL
]]

test("bwrap network: this machine's own addresses", function()
  local found = network.own_networks(TRIE)
  assert(table.concat(found, " ") == "203.0.113.0/28 203.0.113.77/32 198.51.100.9/32",
    table.concat(found, " "))
  assert(#network.own_networks("") == 0)
end)

test("bwrap network: where there is no sandbox there is no way out, and nothing stays", function()
  if not process.which("slirp4netns") or not process.which("ip") then return end
  local ended = process.spawn { "true" }
  ended:wait()
  local plan = network.plan { denylist = {} }
  local helper, failure = errors.try(network.attach, ended.pid, true, false, plan)
  assert(helper == nil and failure.kind == "process", tostring(failure))
  local left = process.run { "pgrep", "-f", ("slirp4netns.*/proc/%d/ns/net"):format(ended.pid) }
  assert(left.code == 1, left.stdout)
end)

-- A shared mount with another one on it, as Docker has them, around a sandbox with a network.
local SHARED = [[
mount -t tmpfs shared "$1" && mount --make-shared "$1" && mkdir "$1/inner" &&
mount -t tmpfs inner "$1/inner" && echo kept > "$1/inner/file" && "$2" "$3" && cat "$1/inner/file"
]]

test("bwrap network: what is mounted on this machine stays mounted", function()
  if fs.stat("/proc/self").uid ~= 0 or not process.which("slirp4netns") then return end
  local folder <close> = fs.tmpdir { prefix = "mounts-" }
  local script <close> = fs.tmpdir { prefix = "script-" }
  fs.write(script.path .. "/box.lua", [[
local driver = require("sbx.server.driver.bwrap").open {}
local box = driver:create { id = "net", hostname = "net", network = true }
assert(box.network_enforced)
print(box.agent:exec({ command = "test -e /sys/class/net/tap0 || ip link show tap0 >&2",
  timeout = 60 }).exit_code)
box:kill()
driver:close()]])
  local result = process.run({
    "unshare", "--mount", "--propagation", "private", "sh", "-c", SHARED, "sh", folder.path,
    host.executable(), script.path .. "/box.lua",
  }, { timeout = 60 })
  assert(result.code == 0 and result.stdout:find("kept\n$"), result.stdout .. result.stderr)
end)

test("bwrap network: the rules hold, on a network of the test's own", function()
  if fs.stat("/proc/self").uid ~= 0 then return end
  local folder <close> = fs.tmpdir { prefix = "resolv-" }
  local result = process.run({
    "unshare", "--net", "--mount", "--propagation", "private", "sh", "-c",
    'echo nameserver 198.51.100.2 > "$1/resolv"; mount --bind "$1/resolv" /etc/resolv.conf &&'
      .. ' exec "$2" "$3"',
    "sh", folder.path, host.executable(), here .. "bwrap_network_host.lua",
  }, { timeout = 60 })
  assert(result.code == 0 and result.stdout == "done\n", result.stdout .. result.stderr)
end)
