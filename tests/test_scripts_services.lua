-- scripts/preview.lua, release_image.lua and mirror_images.lua, as people run them.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local http = require("sbx.http")
local net = require("sbx.net")
local scripts = dofile(here .. "scripts_support.lua")
local watch = dofile(here .. "leftover_support.lua")
local run_local = scripts.run_local

---@async
local function run_against(server, name, words)
  return scripts.run_against({ url = server.url, api_key = api.KEY }, name, words)
end

-- ------------------------------------------------------------------ preview

test("preview: a folder is shown until Ctrl-C, and then nothing is left", function()
  local folder <close> = fs.tmpdir()
  scripts.write_tree(folder.path, { ["sub/page.html"] = "hello" })
  watch.run(function(start, look)
    local going <close> = start(scripts.argv("preview", { folder.path }))
    local url = going:await("stdout", "(http://%S+)\n")
    assert(http.get(url .. "sub/page.html").body == "hello")
    assert(look(going.pid) >= 4)
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
    assert(not pcall(http.get, url, { timeout = 5 }))
  end)
end)

test("preview: what is no HTTP is reachable, too; it ends by itself", function()
  local folder <close> = fs.tmpdir()
  local program = [[
import os, socket
server = socket.create_server(("", 7000))
while True:
    peer = server.accept()[0]
    peer.sendall(os.environ["WORD"].encode() + b"\n")
    peer.recv(1)
]]
  scripts.write_tree(folder.path, { ["server.py"] = program })
  watch.run(function(start)
    local going <close> = start(scripts.argv("preview", {
      folder.path, "--tcp", "--port", "7000", "--start", "python server.py", "--for", "500ms",
      "-e", "WORD=it's me",
    }))
    local port = going:await("stdout", "127%.0%.0%.1:(%d+)\n")
    do
      local stream <close> = net.connect("127.0.0.1", tonumber(port))
      assert(stream:read() == "it's me\n")
    end
    assert(going:finish() == 0, going.text.stderr)
  end)
end)

test("preview: of a service that does not start, its words are shown", function()
  local folder <close> = fs.tmpdir()
  scripts.write_tree(folder.path, { a = "" })
  local result = run_local("preview",
    { folder.path, "--wait", "300ms", "--start", "echo cannot start >&2; false" })
  assert(result.code == 1 and result.stdout == "", result.stdout)
  assert(result.stderr:find("cannot start\n", 1, true), result.stderr)
end)

test("preview: shows what is exposed by any sandbox", function()
  local server <close> = api.start()
  local result = run_against(server, "preview", { "--list" })
  assert(result.code == 0 and result.stdout == "sbx-1\t8000\thttp://127.0.0.1:1/x/exp-1/\n")
end)

test("preview: lets the owner of a key in for as long as it runs", function()
  local folder <close> = fs.tmpdir()
  local key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVx me@here"
  scripts.write_tree(folder.path, { ["site/a"] = "", ["id.pub"] = key .. "\n" })
  scripts.with_box(function(box)
    local handlers = scripts.gateway_to(box, api)
    handlers.expose = function(call, server)
      return 200, {
        exposure_id = "exp-7", sandbox_id = call.id, port = call.body.port, url = server.url .. "/",
      }
    end
    local server <close> = api.start(handlers)
    local result = run_against(server, "preview", {
      folder.path .. "/site", "--ssh-key", folder.path .. "/id.pub", "--for", "100ms",
    })
    assert(result.code == 0, result.stderr)
    assert(result.stderr:find("ssh -p 2222 ssh-1@127.0.0.1\n", 1, true), result.stderr)
    local sent
    for _, call in ipairs(server.calls) do
      if call.op == "authorize" then sent = call.body.public_key end
    end
    assert(sent == key and server:count("close_ssh") == 1 and server:count("unexpose") == 1)
    assert(next(server.sandboxes) == nil)
  end)
end)

-- ------------------------------------------------------------ release_image

---A folder to build from.
---@async
local function with_context(fn)
  local folder <close> = fs.tmpdir()
  scripts.write_tree(folder.path, { Dockerfile = "FROM x\n", [".git/x"] = "" })
  return fn(folder.path)
end

test("release_image: is built, tried, and made public; the sandbox is deleted", function()
  local order = {}
  local function note(call) order[#order + 1] = call.op end
  scripts.with_box(function(box)
    local handlers = scripts.gateway_to(box, api)
    handlers.check_image, handlers.build, handlers.create = note, note, note
    handlers.update_images, handlers.build_vm = note, note
    local server <close> = api.start(handlers)
    local result = with_context(function(folder)
      return run_against(server, "release_image", {
        folder, "my-tools:v2", "--test", "echo v2 works", "--base", "registry.example/base:1",
        "--registry", "mine", "--vm", "--publish", "-x", ".git",
      })
    end)
    assert(result.code == 0 and result.stderr:find("v2 works\n", 1, true), result.stderr)
    local line = scripts.lines(result.stdout)[1]
    assert(line.image == "my-tools:v2" and line.path == "registry.example/app:v1")
    assert(line.build_id == "build-1", result.stdout)
    assert(result.stderr:find("release_image: BUILDING\n", 1, true), result.stderr)
    local said = table.concat(order, " ")
    assert(said == "check_image build build_vm create update_images update_images", said)
    local dry = {}
    for _, call in ipairs(server.calls) do
      if call.op == "create" then assert(call.body.docker_image == "registry.example/app:v1") end
      if call.op == "check_image" then assert(call.body.registry_credentials_id == "cred-1") end
      if call.op == "update_images" then dry[#dry + 1] = tostring(call.body.dryRun) end
    end
    assert(table.concat(dry, " ") == "true false" and next(server.sandboxes) == nil)
  end)
end)

test("release_image: what fails the test is not made public", function()
  scripts.with_box(function(box)
    local handlers = scripts.gateway_to(box, api)
    handlers.get_build = function(call)
      return 200, { id = call.id, status = "COMPLETED", fullImagePath = "registry.example/app:v1" }
    end
    local server <close> = api.start(handlers)
    local result = with_context(function(folder)
      return run_against(server, "release_image",
        { folder, "app:v0", "--test", "echo 1 failed >&2; exit 2", "--publish" })
    end)
    assert(result.code == 1 and result.stdout == "", result.stderr)
    assert(result.stderr:find("1 failed\n.*exit code 2\n"), result.stderr)
    assert(server:count("update_images") == 0 and next(server.sandboxes) == nil)
  end)
end)

test("release_image: a version that exists, a base or a key that does not, end it", function()
  with_context(function(folder)
    local server <close> = api.start({
      check_image = function() return 200, { accessible = false, details = "no such image" } end,
      get_build = function(call)
        return 200, { id = call.id, status = "FAILED", errorMessage = "step 3 failed" }
      end,
    })
    server.image_count = 2
    for _, case in ipairs({
      { "app:v2", {}, "app:v2 exists already" },
      { "app:v3", { "--base", "a:b" }, "cannot have a:b: no such image" },
      { "app:v3", { "--base", "a:b", "--registry", "no" }, "there are: mine" },
      { "app:v3", {}, "step 3 failed", 1 },
    }) do
      local result = run_against(server, "release_image",
        { folder, case[1], "--test", "true", table.unpack(case[2]) })
      assert(result.code == 1 and result.stdout == "", result.stderr)
      assert(result.stderr:find(case[3], 1, true), result.stderr)
      assert(server:count("build") == (case[4] or 0) and server:count("create") == 0)
    end
  end)
end)

-- ------------------------------------------------------------ mirror_images

test("mirror_images: takes over what is not there; what may do better is tried again", function()
  local orders = {}
  local server <close> = api.start({
    images = function()
      return 200, {
        data = { { id = "i", imageName = "base", imageTag = "1", status = "COMPLETED",
          artifactType = "CONTAINER_IMAGE", fullImagePath = "mine/base:1" } },
        totalCount = 1, offset = 0, limit = 100,
      }
    end,
    build = function(call)
      table.insert(orders, call.body.source_image)
      local results = {}
      for source in call.body.source_image:gmatch("[^,]+") do
        local fine = source:find("good", 1, true) or (call.n == 2 and source:find("busy", 1, true))
        table.insert(results, {
          sourceImage = source, success = fine and true or false, buildId = fine and "b1" or nil,
          error = not fine and "not now" or nil, retryable = source:find("busy", 1, true) ~= nil,
        })
      end
      return 200, { results = results }
    end,
    get_build = function(call)
      return 200, { id = call.id, status = "COMPLETED", fullImagePath = "mine/app:1" }
    end,
  })
  local folder <close> = fs.tmpdir()
  fs.write(folder.path .. "/list", "# ours\nr.example/busy:1\n\n  r.example/bad\n")
  local result = run_against(server, "mirror_images",
    { "r.example/x/base:1", "r.example/good:2", "--file", folder.path .. "/list" })
  assert(result.code == 1, result.stderr)
  local rows = {}
  for _, row in ipairs(scripts.rows(result.stdout)) do rows[row.image] = row end
  assert(rows["r.example/x/base:1"].path == "mine/base:1", result.stdout)
  assert(rows["r.example/good:2"].path == "mine/app:1", result.stdout)
  assert(rows["r.example/busy:1"].path == "mine/app:1", result.stdout)
  assert(rows["r.example/bad"].path == "" and rows["r.example/bad"].error == "not now")
  assert(#orders == 2 and orders[1] == "r.example/good:2,r.example/busy:1,r.example/bad")
  assert(orders[2] == "r.example/busy:1", orders[2])
  assert(run_against(server, "mirror_images", {}).code == 2)
end)
