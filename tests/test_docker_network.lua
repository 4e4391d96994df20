-- What a container reaches.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "docker_support.lua")

local docker = require("sbx.server.driver.docker")
local doctor = require("sbx.cli.doctor.engine")
local engines = require("sbx.server.driver.docker.engine")
local fence = require("sbx.server.driver.docker.fence")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local json = require("sbx.json")
local network = require("sbx.server.driver.docker.network")
local process = require("sbx.process")
local skip = require("sbx.test").skip
local task = require("sbx.task")

local with_box, with_image = support.with_box, support.with_image

-- Runs fn(box, sh) with a sandbox that has a network, where there can be a fence.
local function with_fenced(fn)
  if engines.open(support.socket()):is_podman() then skip("Podman's are not fenced off") end
  if fs.stat("/proc/self").uid ~= 0 then skip("only root can fence off other networks") end
  with_image(function(image)
    with_box(image, fn, { network = true, notice = error })
  end)
end

test("docker: without a network there is only the loopback, with one a way out", function()
  with_image(function(image)
    with_box(image, function(_, sh)
      assert(sh("ls /sys/class/net").stdout == "lo\n")
    end)
    with_box(image, function(_, sh, driver)
      assert(sh("ls /sys/class/net | wc -l").stdout == "2\n")
      local gateway = sh("ip route | awk '/default/ { print $3 }'").stdout:match("%S+")
      assert(gateway, "no route")
      -- Others on the same bridge are not to be reached.
      task.scope(function()
        local other = driver:create(support.spec(image, { network = true }))
        local address = other.agent:exec { command = "hostname -i; nc -ll -p 99 -e true &" }
          .stdout:match("%S+")
        assert(sh("nc -w 2 " .. address .. " 99 </dev/null").exit_code ~= 0)
        other:kill()
      end)
    end, { network = true })
  end)
end)

test("docker: with a network there is none to this machine, nor to private ones", function()
  with_fenced(function(box, sh)
    assert(box.network_enforced and box.limits.network == "public addresses")
    assert(doctor.try().state == "ok")
    local way = sh("ip route get 198.51.100.7; ip route | grep default").stdout
    assert(way:match("via (%S+) dev eth0") == way:match("default via (%S+)"), way)
    for address in ("10.1.2.3 172.17.0.1 192.168.1.1 169.254.169.254 100.64.0.1 172.31.255.254")
      :gmatch("%S+") do
      local result = sh("ip route get " .. address)
      assert(result.exit_code ~= 0 and result.stdout == "", address .. ": " .. result.stdout)
    end
    local gateway = way:match("default via (%S+)")
    assert(sh("ip route get " .. gateway).exit_code ~= 0)
    -- Nobody inside takes the fence down.
    assert(sh("ip rule del pref 4100; ip rule flush; ip route flush table 4101").exit_code ~= 0)
    assert(sh("ip route get 10.1.2.3").exit_code ~= 0)
  end)
end)

test("docker: names are looked up at the port for it, and nothing else is let through", function()
  local text = fence.lines("172.18.0.1", { "192.0.2.2/32" }, { ["10.0.0.53"] = true })
  local last
  for line in text:gmatch("[^\n]+") do
    if line:find("10.0.0.53", 1, true) then
      assert(line:find("^rule add pref 4099 to 10.0.0.53/32 ipproto %l+ dport 53 table main$"),
        line)
    end
    last = line
  end
  assert(text:find("route replace unreachable 192.0.2.2/32 table 4101\n", 1, true))
  assert(text:find("route replace default via 172.18.0.1 dev eth0 onlink table 4101\n", 1, true))
  assert(last == "rule add pref 4100 table 4101", last) -- once the table is filled
end)

-- What may talk to the engine, but is not root, in a program of its own.
local UNFENCED = [[
local docker = require("sbx.server.driver.docker")
local support = dofile(os.getenv("DOCKER_SUPPORT"))
local driver = docker.open()
local box = driver:create(support.spec(os.getenv("IMAGE"), {
  network = true, notice = function(line) print(line) end,
}))
print(box.network_enforced, box.limits.network)
print(require("sbx.cli.doctor.engine").try().state)
box:kill()
driver:close()
]]

test("docker: where nothing can be fenced off, that is said", function()
  local path = support.socket()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  fs.chmod(folder.path, 493) -- 0755
  if fs.stat("/proc/self").uid ~= 0 then skip("only root becomes others") end
  if fs.stat(path).mode & 54 ~= 48 then skip("the engine's socket is not for its group alone") end
  fs.write(folder.path .. "/try.lua", UNFENCED, { mode = 420 })
  fs.write(folder.path .. "/support.lua", fs.read(here .. "docker_support.lua"), { mode = 420 })
  with_image(function(image)
    local result = process.run({ host.executable(), folder.path .. "/try.lua" }, {
      uid = 65534, gid = fs.stat(path).gid, cwd = "/", timeout = 60,
      env = { DOCKER_SUPPORT = folder.path .. "/support.lua", IMAGE = image },
    })
    assert(result.code == 0, result.stderr)
    assert(result.stdout:find("only root can fence off other networks\n", 1, true), result.stdout)
    assert(result.stdout:find("\nfalse\tall but neighbours\nweak\n", 1, true), result.stdout)
  end)
end)

test("docker: what is kept is still fenced off, and says so", function()
  support.need_keeping()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  with_image(function(image)
    local driver = docker.open { folder = folder.path, keep = true }
    task.scope(function()
      local spec = support.spec(image, { network = true })
      local first = driver:create(spec)
      first:release()
      local again = assert(driver:adopt(spec, first.saved))
      assert(again.network_enforced == first.network_enforced)
      assert(again.limits.network == "public addresses", again.limits.network)
      assert(again.agent:exec({ command = "ip route get 10.1.2.3", timeout = 20 }).exit_code ~= 0)
      local saved = first.saved
      saved.network_enforced = nil -- from before there was a fence
      again:release()
      again = assert(driver:adopt(spec, saved))
      assert(again.network_enforced == false)
      again:kill()
    end)
    support.await_none(driver)
    driver:close()
  end)
end)

-- Among bridges of the test's own, which are gone afterwards.
local function with_bridges(fn)
  local engine, usual = engines.open(support.socket()), network.LABEL
  network.LABEL = "sbxlua.test-" .. hash.random_hex(6)
  local _ <close> = setmetatable({}, {
    __close = function()
      network.drop(engine)
      network.LABEL = usual
    end,
  })
  fn(engine, function()
    return #engine:get("/networks", "count", {
      filters = json.encode { label = { network.LABEL } },
    })
  end)
end

test("docker: servers that make the bridge at the same moment end up on one", function()
  with_bridges(function(engine, count)
    for _ = 1, 3 do
      local together = { 1, 2, 3, 4, 5, 6, 7, 8 }
      local function ensure()
        return network.ensure(engine)
      end
      -- Each has one that works, or that was taken away since: such a start is tried again.
      task.map(together, ensure)
      local names = task.map(together, ensure)
      for _, name in ipairs(names) do
        assert(name == names[1] and engine:get("/networks/" .. name, "look"), name)
      end
      network.drop(engine)
      assert(count() == 0)
    end
  end)
end)

test("docker: several bridges of ours are no obstacle", function()
  with_bridges(function(engine, count)
    local first = network.ensure(engine)
    for number = 1, 2 do
      engine:call("POST", "/networks/create", {
        what = "make another",
        json = {
          Name = first .. "-" .. number, Driver = "bridge", Labels = { [network.LABEL] = "1" },
        },
      })
    end
    assert(count() == 3 and network.ensure(engine) == first)
    with_image(function(image)
      with_box(image, function(_, sh)
        assert(sh("ls /sys/class/net | wc -l").stdout == "2\n")
      end, { network = true })
    end)
    assert(count() == 0)
  end)
end)
