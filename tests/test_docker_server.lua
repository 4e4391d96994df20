-- The whole API of the local server over real containers.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local images = dofile(here .. "docker_support.lua")
local support = dofile(here .. "server_support.lua")

local docker = require("sbx.server.driver.docker")
local hash = require("sbx.hash")
local http = require("sbx.http")
local process = require("sbx.process")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

-- Runs `fn(gateway, api, object, driver)` with one running sandbox of a small image.
local function with_sandbox(fn, fields)
  images.with_image(function(image)
    local driver = docker.open()
    support.with_server(function(api)
      local all = { docker_image = image, network_access = false }
      for name, value in pairs(fields or {}) do
        all[name] = value
      end
      local object, gateway = api:running(all)
      fn(gateway, api, object, driver)
    end, { driver = driver })
    assert(#images.containers(driver) == 0)
    driver:close()
  end)
end

test("docker server: commands, files and logs, from creation to deletion", function()
  with_sandbox(function(box, api, object, driver)
    assert(object.imageSource == "docker" and object.networkEnforced)
    local status, result = box:exec("pwd; printf err >&2; echo $A; exit 7", { env = { A = "b" } })
    assert(status == 200 and result.exit_code == 7 and result.stderr == "err")
    assert(result.stdout == "/sandbox-workspace\nb\n", result.stdout)

    local bytes = {}
    for code = 0, 255 do
      bytes[#bytes + 1] = string.char(code)
    end
    local content = table.concat(bytes):rep(4096) -- 1 MiB
    assert(box:upload("/tmp/new/all.bin", { data = content }) == 200)
    result = select(2, box:exec("sha256sum < /tmp/new/all.bin"))
    assert(result.stdout:match("^%x+") == hash.sha256(content))
    local res = box:download("/tmp/new/all.bin")
    assert(res.status == 200 and res.body == content)

    local _, logs = api:call("GET", "/sandbox/" .. object.id .. "/logs")
    assert(logs.logs:find("container %x+ started"), logs.logs)

    assert(#images.containers(driver) == 1)
    assert(api:call("DELETE", "/sandbox/" .. object.id) == 200)
    assert(#images.containers(driver) == 0)
    assert(box:exec("true") == 502)
  end)
end)

test("docker server: a command over its time ends with its whole tree", function()
  with_sandbox(function(box)
    local marker = "7" .. math.random(100000, 999999)
    local command = ("setsid sleep %s & sleep %s"):format(marker, marker)
    assert(box:exec(command, { timeout = 1 }) == 408)
    local _, result = box:exec("ps -o args | grep -c '^sleep " .. marker .. "'")
    assert(result.stdout == "0\n", result.stdout)
  end)
end)

test("docker server: big outputs come whole or say that they were cut", function()
  with_sandbox(function(box)
    local _, result = box:exec("yes 0123456 | head -c 8000000; yes | head -c 11000000 >&2")
    assert(#result.stdout == 8000000 and not result.stdout_truncated)
    assert(#result.stderr == 10 * 1024 * 1024 and result.stderr_truncated)
  end)
end)

test("docker server: jobs in the background outlive their command, 64 run at once", function()
  with_sandbox(function(box)
    local _, result = box:exec("sleep 300 >/dev/null 2>&1 & echo $!")
    local pid = result.stdout:match("%d+")
    local numbers = {}
    for i = 1, 64 do
      numbers[i] = i
    end
    local codes = task.map(numbers, function(i)
      local _, answer = box:exec(("echo %d; exit %d"):format(i, i))
      return answer.stdout == i .. "\n" and answer.exit_code
    end, { limit = 64 })
    for i = 1, 64 do
      assert(codes[i] == i)
    end
    _, result = box:exec("kill -0 " .. pid .. " && echo alive")
    assert(result.stdout == "alive\n")
  end)
end)

test("docker server: a port is reached without any network inside", function()
  with_sandbox(function(box, api, object)
    local _, result = box:exec("ip addr | grep -c 'inet ' ; mkdir /www; echo hi > /www/index.html;"
      .. " httpd -p 127.0.0.1:8000 -h /www")
    assert(result.stdout == "1\n", result.stdout .. result.stderr)
    local status, exposed = api:call("POST", "/sandbox/" .. object.id .. "/expose", { port = 8000 })
    assert(status == 200 or status == 201)
    local res = http.get(exposed.url .. "/index.html", { timeout = 60 })
    assert(res.status == 200 and res.body == "hi\n")
  end)
end)

test("docker server: a sandbox out of memory ends, and says so", function()
  with_sandbox(function(box, api, object, driver)
    box:exec("tail /dev/zero")
    local ended = api:await(object.id, "ERROR", "TERMINATED")
    assert(ended.status == "ERROR" and ended.errorType == "OOM_KILLED")
    images.await_none(driver)
  end, { memory_gb = 0.1 })
end)

test("docker server: an image that cannot be had is said so in the engine's words", function()
  images.socket()
  local driver = docker.open()
  support.with_server(function(api)
    for _, name in ipairs { "127.0.0.1:9/no/such:image", "sbxlua-test/../../x:y" } do
      local made = api:create { docker_image = name }
      local object = api:await(made.id, "ERROR", "RUNNING")
      assert(object.status == "ERROR" and object.errorType == "IMAGE_PULL_FAILED")
      assert(object.errorMessage:find("connection refused", 1, true)
        or object.errorMessage:find("no name of an image", 1, true), object.errorMessage)
    end
  end, { driver = driver })
  assert(#images.containers(driver) == 0)
end)

test("docker server: SSH into an image that has none", function()
  with_sandbox(function(_, api, object)
    local client <close> = sandbox.client {
      base_url = api.server.url, api_key = api.server.api_key,
    }
    local session <close> = client:open_ssh_session(object.id)
    local key = session:new_key()
    local function ssh(command, input)
      return process.run(session:argv(key, command), { input = input, timeout = 60 })
    end
    local result = ssh({ "pwd; cat; echo err >&2; exit 7" }, "in\n")
    assert(result.code == 7 and result.stdout == "/sandbox-workspace\nin\n", result.stderr)
    assert(result.stderr:find("err\n", 1, true))
    local argv = session:argv(key)
    table.insert(argv, 2, "-tt")
    result = process.run(argv, { input = "tty; exit 3\n", timeout = 60 })
    assert(result.code == 3 and result.stdout:find("/dev/pts/", 1, true), result.stdout)
  end)
end)
