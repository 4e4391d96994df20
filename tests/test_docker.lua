-- Real containers by a real engine, through the driver alone.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "docker_support.lua")

local docker = require("sbx.server.driver.docker")

local with_box, with_image = support.with_box, support.with_image

test("docker: the check finds that it works here", function()
  with_image(function()
    local driver = docker.open()
    local report = driver:check()
    assert(report.ok, table.concat(report.problems, "\n"))
    assert(#support.containers(driver) == 0)
  end)
end)

test("docker: a container has what a script expects of it, and not much more", function()
  with_image(function(image)
    with_box(image, function(box, sh, driver)
      local result = sh("pwd; hostname; id -u; echo err >&2; exit 3")
      assert(result.stdout == "/sandbox-workspace\nbox-1\n0\n", result.stdout .. result.stderr)
      assert(result.stderr == "err\n" and result.exit_code == 3)
      assert(sh("echo x > /bin/x && cat /bin/x").stdout == "x\n")
      assert(sh("chown 1000 /bin/x && start-stop-daemon -S -c guest -x /bin/stat -- -c %u /bin/x")
        .stdout == "1000\n")
      assert(box.image_source == "docker" and box.image_resolved:find(image, 1, true))
      assert(box.network_enforced)
      local labels = support.containers(driver)[1].Labels
      assert(labels["sbxlua.sandbox"] == box.id and labels.team == "red")

      local status = sh("cat /proc/self/status").stdout
      assert(status:find("CapEff:\t00000000000004fb", 1, true), status)
      assert(status:find("CapBnd:\t00000000000004fb", 1, true))
      assert(status:find("NoNewPrivs:\t1", 1, true) and status:find("Seccomp:\t2", 1, true))
    end, { workdir = "/sandbox-workspace", labels = { team = "red" } })
  end)
end)

test("docker: the agent can neither be killed nor read nor spoken to from inside", function()
  with_image(function(image)
    with_box(image, function(box, sh)
      assert(sh("kill -9 1; kill -9 -1").exit_code == 137)
      for _, number in ipairs { "TERM", "USR1", "USR2", "HUP", "INT", "CHLD", "ALRM" } do
        sh("kill -" .. number .. " 1")
      end
      assert(sh("echo alive").stdout == "alive\n")
      assert(sh("cat /proc/1/mem /proc/1/environ /proc/1/maps").stdout == "")
      assert(sh("echo x > /proc/1/fd/0; echo x > /proc/1/fd/3; readlink /proc/1/fd/3").stdout == "")
      assert(sh("echo x > /.sbxlua/agent").exit_code ~= 0)
      assert(sh("rm -f /.sbxlua/agent").exit_code ~= 0)
      assert(sh("echo alive").stdout == "alive\n" and not box.ended)
    end)
  end)
end)

test("docker: of the image counts what it holds, not what it would start", function()
  with_image(function(image)
    with_box(image, function(_, sh)
      assert(sh("id -u; pwd; echo $WORD").stdout == "0\n/workspace\nof-the-image\n")
      assert(sh("ps -o pid,args | grep '^ *1 '").stdout:find("/.sbxlua/agent", 1, true))
    end)
  end, {
    changes = {
      "USER guest", "WORKDIR /tmp", 'ENTRYPOINT ["/bin/false"]', 'CMD ["x"]',
      "ENV WORD=of-the-image", "VOLUME /data",
    },
  })
end)

test("docker: an image without a shell has files, but runs no commands", function()
  with_image(function(image)
    with_box(image, function(box, sh)
      local parts = {}
      box.agent:get("/hello.txt", function(bytes)
        parts[#parts + 1] = bytes
      end)
      assert(table.concat(parts) == "hello\n")
      local ok, failure = pcall(sh, "true")
      assert(not ok and failure.code == "ENOENT", tostring(failure))
    end)
  end, { bare = true })
end)

test("docker: memory runs out for the command alone, and is counted", function()
  with_image(function(image)
    with_box(image, function(box, sh)
      assert(box.limits.memory:find("^cgroup[12]$") and box:memory_kills() == 0)
      assert(sh("tail /dev/zero", 30).exit_code == 137)
      assert(box:memory_kills() == 1)
      assert(sh("echo alive").stdout == "alive\n")
    end, { memory_gb = 0.0625 })
  end)
end)

test("docker: a bomb of processes stays inside", function()
  with_image(function(image)
    with_box(image, function(box, sh)
      local result = sh("for i in $(seq 700); do sleep 100 & done; wait", 20)
      assert(result.stderr:find("fork", 1, true), result.stderr)
      assert(box.agent:stat("/tmp").type == "directory" and not box.ended)
    end)
  end)
end)
