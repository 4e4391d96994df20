-- The docker driver over Podman: a service of our own, with storage that goes with it.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local images = dofile(here .. "docker_support.lua")
local support = dofile(here .. "server_support.lua")

local docker = require("sbx.server.driver.docker")
local engines = require("sbx.server.driver.docker.engine")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local http = require("sbx.http")
local process = require("sbx.process")
local skip = require("sbx.test").skip
local task = require("sbx.task")

-- Limits that a process without CAP_SYS_RESOURCE can set, and no daemons.
local CONTAINERS = [[
[containers]
default_ulimits = ["nofile=%d:%d", "nproc=%d:%d"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
]]
local STORAGE = [[
[storage]
driver = "vfs"
graphroot = "%s/graph"
runroot = "%s/run"
]]

-- The hard limit of this process for `name`, at most 20000.
local function hard_limit(name)
  local text = fs.read("/proc/self/limits"):match(name .. "%s+%S+%s+(%d+)")
  return math.min(tonumber(text) or 20000, 20000)
end

local function start(folder)
  local files, processes = hard_limit("Max open files"), hard_limit("Max processes")
  fs.write(folder .. "/containers.conf", CONTAINERS:format(files, files, processes, processes))
  fs.write(folder .. "/storage.conf", STORAGE:format(folder, folder))
  return process.spawn({ "podman", "system", "service", "-t", "0", "unix://" .. folder .. "/s" }, {
    env = {
      CONTAINERS_CONF = folder .. "/containers.conf",
      CONTAINERS_STORAGE_CONF = folder .. "/storage.conf",
      TMPDIR = folder, -- images that it loads stay where it puts them
    },
    cwd = folder, -- where its helpers note a lack of memory
    stdout = "null", stderr = "null",
  })
end

local function await_answer(service, path)
  local engine = engines.open(path)
  return task.move_on(60, function()
    while service.running and not errors.try(engine.ping, engine) do
      task.sleep(0.05)
    end
    return service.running
  end)
end

-- Runs `fn(socket)` while the service answers.
local function with_podman(fn)
  if not process.which("podman") then skip("podman is not installed") end
  if fs.stat("/proc/self").uid ~= 0 then skip("podman's service is tested as root") end
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local service <close> = start(folder.path)
  local _, answers = await_answer(service, folder.path .. "/s")
  if not answers then skip("podman's service does not come up here") end
  images.path = folder.path .. "/s"
  local ok, failure = pcall(fn, images.path)
  images.path = nil
  if not ok then error(failure, 0) end
end

test("docker: over Podman the whole API works as over Docker", function()
  with_podman(function(socket)
    images.with_image(function(image)
      local driver = docker.open { argument = socket }
      local report = driver:check()
      if not report.ok then skip("podman runs no container here: " .. report.problems[1]) end
      support.with_server(function(api)
        local object, box = api:running { docker_image = image, network_access = false }
        local _, result = box:exec("pwd; printf err >&2; exit 7")
        assert(result.stdout == "/sandbox-workspace\n" and result.stderr == "err")
        assert(result.exit_code == 7)
        assert(box:upload("/tmp/new/x", { data = "a\0b" }) == 200)
        assert(box:download("/tmp/new/x").body == "a\0b")
        assert(box:exec("sleep 100", { timeout = 1 }) == 408)
        box:exec("mkdir /www; echo hi > /www/i; httpd -p 127.0.0.1:8000 -h /www")
        local _, exposed = api:call("POST", "/sandbox/" .. object.id .. "/expose", { port = 8000 })
        assert(http.get(exposed.url .. "/i", { timeout = 60 }).body == "hi\n")
        assert(api:call("DELETE", "/sandbox/" .. object.id) == 200)
        assert(#images.containers(driver) == 0)

        object, box = api:running { docker_image = image, network_access = false, memory_gb = 0.1 }
        box:exec("tail /dev/zero")
        assert(api:await(object.id, "ERROR").errorType == "OOM_KILLED")
      end, { driver = driver })
      assert(#images.containers(driver) == 0)
    end)
  end)
end)

test("docker: over Podman a sandbox is not kept, and that is said", function()
  with_podman(function(socket)
    images.with_image(function(image)
      local driver, said = docker.open { argument = socket, keep = true }, {}
      task.scope(function()
        local box = driver:create(images.spec(image, {
          notice = function(line)
            said[#said + 1] = line
          end,
        }))
        assert(box.saved == nil and said[1]:find("will not be kept", 1, true))
        box:release()
      end)
      assert(#images.containers(driver) == 0)
      driver:close()
    end)
  end)
end)
