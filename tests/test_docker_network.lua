-- What a container reaches.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "docker_support.lua")

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
