-- What a container reaches.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "docker_support.lua")

local engines = require("sbx.server.driver.docker.engine")
local hash = require("sbx.hash")
local json = require("sbx.json")
local network = require("sbx.server.driver.docker.network")
local task = require("sbx.task")

local with_box, with_image = support.with_box, support.with_image

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
