-- Containers whose server is killed: they end with it, or live on for the next one.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "docker_support.lua")

local server_support = dofile(here .. "server_support.lua")

local container = require("sbx.server.driver.docker.container")
local docker = require("sbx.server.driver.docker")
local engines = require("sbx.server.driver.docker.engine")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local task = require("sbx.task")

-- A server of its own with one sandbox, in which a command never ends and an upload is
-- under way; it prints what it would save.
local KEEPER = [[
local docker = require("sbx.server.driver.docker")
local json = require("sbx.json")
local support = dofile(os.getenv("DOCKER_SUPPORT"))
local task = require("sbx.task")
local driver = docker.open { folder = os.getenv("KEEP_FOLDER"), keep = os.getenv("KEEP") == "yes" }
local box = driver:create(support.spec(os.getenv("IMAGE"), { id = os.getenv("ID") }))
task.spawn(box.agent.exec, box.agent, {
  command = "echo begun > /tmp/begun; sleep 2; echo done > /tmp/done; yes",
  max_output = 1 << 30,
})
task.spawn(box.agent.put, box.agent, "/tmp/up", function()
  return ("x"):rep(100000)
end)
while not pcall(box.agent.stat, box.agent, "/tmp/begun") do
  task.sleep(0.01)
end
print(json.encode { container = box.container, saved = box.saved or json.null })
task.sleep(60)
]]

-- Starts the keeper, waits for its line, kills it and returns what the line said.
local function killed_keeper(folder, image, id, keep)
  fs.write(folder .. "/keeper.lua", KEEPER)
  local child <close> = process.spawn({ host.executable(), folder .. "/keeper.lua" }, {
    env = {
      DOCKER_SUPPORT = fs.realpath(here .. "docker_support.lua"), KEEP_FOLDER = folder,
      KEEP = keep and "yes" or "no", IMAGE = image, ID = id,
    },
    stdout = "pipe",
  })
  local line = task.timeout(60, child.stdout.line, child.stdout)
  child:kill("KILL")
  child:wait()
  return json.decode(line)
end

local function await_removed(id)
  local engine = engines.open(support.socket())
  task.timeout(60, function()
    while container.inspect(engine, id) do
      task.sleep(0.02)
    end
  end)
end

test("docker: a server that is killed takes its containers along", function()
  support.with_image(function(image)
    local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
    local said = killed_keeper(folder.path, image, "killed-1", false)
    assert(said.saved == json.null)
    await_removed(said.container)
  end)
end)

test("docker: kept containers live on and are taken up again, with what runs in them", function()
  support.need_keeping()
  support.with_image(function(image)
    local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
    local said = killed_keeper(folder.path, image, "kept-1", true)
    local spec = support.spec(image, { id = "kept-1" })
    local driver = docker.open { folder = folder.path, keep = true }
    assert(driver:sweep { ["kept-1"] = true } == 0)
    task.scope(function()
      local box = assert(driver:adopt(spec, said.saved))
      assert(box.image_source == "docker" and box.limits.memory)
      local run = box.agent:exec {
        command = "while ! test -e /tmp/done; do sleep 0.1; done; cat /tmp/done", timeout = 60,
      }
      assert(run.stdout == "done\n", run.stderr)
      -- Let go of and taken up once more.
      box:release()
      local again = assert(driver:adopt(spec, said.saved))
      assert(again.agent:exec({ command = "cat /tmp/begun" }).stdout == "begun\n")
      again:kill()
    end)
    assert(#support.containers(driver) == 0)
    driver:close()
  end)
end)

test("docker: what cannot be taken up again is said, and not touched when not ours", function()
  support.need_keeping()
  support.with_image(function(image)
    local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
    local driver = docker.open { folder = folder.path, keep = true }
    task.scope(function()
      local box = driver:create(support.spec(image, { id = "kept-2" }))
      local spec = support.spec(image, { id = "kept-2" })
      local other = docker.open { keep = true }
      local none, problem = other:adopt(spec, box.saved)
      assert(none == nil and problem:find("not one of this server", 1, true))
      assert(box.agent:exec({ command = "echo alive" }).stdout == "alive\n")
      box:kill()
      none, problem = driver:adopt(spec, box.saved)
      assert(none == nil and problem:find("gone", 1, true))
      assert(select(2, driver:adopt(spec, { container = "../x" })):find("damaged", 1, true))
    end)
    driver:close()
  end)
end)

test("docker: a kept container that the next server does not know is swept", function()
  support.need_keeping()
  support.with_image(function(image)
    local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
    local said = killed_keeper(folder.path, image, "kept-3", true)
    local driver = docker.open { folder = folder.path, keep = true }
    assert(driver:sweep {} == 1)
    await_removed(said.container)
    driver:close()
  end)
end)

-- `sbxlua serve` as people start it; returns the process, and where it listens.
local function serve(folder)
  local child = process.spawn({
    host.executable(), "serve", "--driver", "docker", "--listen", "127.0.0.1:0", "--keep",
    "--state", folder .. "/state",
  }, { env = { PRIME_API_KEY = "test-key" }, stderr = "pipe" })
  local url = task.timeout(60, function()
    for line in child:lines("stderr") do
      local found = line:match("listening on (http://[%d.:]+)")
      if found then return found end
    end
  end)
  return child, server_support.api { url = assert(url), api_key = "test-key" }
end

test("docker: `serve --keep` killed outright and started again has its sandboxes", function()
  support.need_keeping()
  support.with_image(function(image)
    local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
    local id
    do
      local child <close>, api = serve(folder.path)
      local object, box = api:running { docker_image = image, network_access = false }
      id = object.id
      assert(box:exec("echo kept > /tmp/f; sleep 300 >/dev/null 2>&1 &") == 200)
      child:kill("KILL")
      child:wait()
    end
    local child <close>, api = serve(folder.path)
    local object = api:await(id, "RUNNING", "ERROR", "TERMINATED")
    assert(object.status == "RUNNING", object.terminationReason)
    local _, result = api:gateway(id):exec("cat /tmp/f; ps -o args | grep -c '^sleep 300'")
    assert(result.stdout == "kept\n1\n", result.stdout)
    assert(api:call("DELETE", "/sandbox/" .. id) == 200)
    child:kill("TERM")
    assert(child:wait() == 0)
  end)
end)
