-- Images of a real engine by the API: built, listed, renamed, and run as virtual machines.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local images = dofile(here .. "docker_support.lua")
local support = dofile(here .. "server_support.lua")

local docker = require("sbx.server.driver.docker")
local engines = require("sbx.server.driver.docker.engine")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local sandbox = require("sbx.sandbox")

-- Runs fn(client, base, name): an image that is there, and a name to be used, which is
-- removed from the engine afterwards.
local function with_client(fn)
  images.with_image(function(base)
    local name = "localhost/sbxlua-test-" .. hash.random_hex(6)
    local engine = engines.open(images.socket())
    local _ <close> = setmetatable({}, {
      __close = function()
        for _, tag in ipairs { "v1", "v2", "v3" } do
          engine:call("DELETE", ("/images/%s:%s"):format(name, tag), {
            what = "remove the test's image", query = { force = 1 }, accept = { [404] = true },
          })
        end
      end,
    })
    local driver = docker.open()
    support.with_server(function(api)
      local client <close> = sandbox.client {
        base_url = api.server.url, api_key = api.server.api_key,
      }
      fn(client, base, name)
    end, { driver = driver, profile = "both" })
    driver:close()
  end)
end

local function context(text)
  local folder = fs.tmpdir()
  fs.write(folder.path .. "/Dockerfile", text)
  fs.write(folder.path .. "/note.txt", "from the context\n")
  return folder
end

test("docker images: one is built, listed, renamed and run as a virtual machine",
  { timeout = 400 }, function()
    with_client(function(client, base, name)
      local folder <close> = context("FROM " .. base .. "\nCOPY note.txt /note.txt\n")
      local built = client:build_image { name = name, tag = "v1", context = folder.path }
      assert(built.full_image_path == name .. ":v1" and built.size_bytes > 0)
      assert(client:list_images({ search = name })[1].image_tag == "v1")

      local changed = client:update_images { { source = name .. ":v1", set = { tag = "v2" } } }
      assert(changed.success, changed.results[1].error and changed.results[1].error.message)
      local listed = client:list_images { search = name }
      assert(#listed == 1 and listed[1].display_ref == name .. ":v2")
      assert(client:build_vm_image(name, "v2").status == "COMPLETED")
      local copied = client:build_image { name = name, tag = "v3", source_image = name .. ":v2" }
      assert(copied.status == "COMPLETED" and #client:list_images { search = name } == 2)

      local box <close> = client:create {
        name = "vm", docker_image = name .. ":v3", vm = true, network_access = false,
      }
      box:wait() -- its probe asks for a bash, which this image has not
      assert(box:exec("echo $0").stdout == "/bin/sh\n" and box:logs():find("no /bin/bash", 1, true))
      local p <close> = box:open_process({ "/bin/sh", "-c", "cat /note.txt; read x; exit $x" })
      assert(p:lines()() == "from the context")
      p:write("4\n")
      assert(p:wait().exit_code == 4)
    end)
  end)

test("docker images: a build that fails says what the engine says", function()
  with_client(function(client, base, name)
    local folder <close> = context("FROM " .. base .. "\nRUN /bin/false\n")
    local ok, err = pcall(client.build_image, client, {
      name = name, tag = "v1", context = folder.path,
    })
    assert(not ok and errors.is_error(err) and err.kind == "image_build", tostring(err))
    assert(err.message:find("false", 1, true), err.message)
    ok, err = pcall(client.build_image, client, {
      name = name, tag = "v1", context = folder.path, dockerfile = "Missing",
    })
    assert(not ok and err.message:find("Missing", 1, true), tostring(err))
    assert(#client:list_images { search = name } == 0)
  end)
end)
