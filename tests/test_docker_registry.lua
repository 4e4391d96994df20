-- Images that only a login gets out of a registry: a real engine pulls them from one of
-- the test's own.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local images = dofile(here .. "docker_support.lua")
local registries = dofile(here .. "peers/registry.lua")
local support = dofile(here .. "server_support.lua")

local docker = require("sbx.server.driver.docker")
local engines = require("sbx.server.driver.docker.engine")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local json = require("sbx.json")
local logins = require("sbx.server.services.registry")
local process = require("sbx.process")
local skip = require("sbx.test").skip
local task = require("sbx.task")

local SECRET, OTHER = "s3cret-of-ann", "s3cret-of-bob"

-- Runs fn(registry, image): a registry in which ann may have the image, and bob nothing.
local function with_registry(fn)
  local engine = engines.open(images.socket())
  if engine:is_podman() then skip("Podman wants TLS of registries") end
  local layer = images.root()
  registries.run({
    layer = layer, config = images.image_config(layer),
    users = { ["ann:" .. SECRET] = "all", ["bob:" .. OTHER] = "nothing" },
  }, function(registry)
    local image = registry.host .. "/team/app:v1"
    local _ <close> = setmetatable({}, {
      __close = function()
        local found = engine:get("/images/" .. image .. "/json", "look")
        if found then images.remove_image(engine, image, found.Id) end
      end,
    })
    fn(registry, image)
  end)
end

local function login(id, server, user, password)
  return { id = id, server = server, username = user, password = password }
end

-- The path of a file with logins.
local function file_of(folder, list)
  local path = folder .. "/logins.json"
  fs.write(path, json.encode { credentials = json.array(list) }, { mode = 384 })
  return path
end

local function shows_no_secret(text)
  for _, pair in ipairs { "ann:" .. SECRET, "bob:" .. OTHER } do
    assert(not text:find(pair:match(":(.*)"), 1, true), text)
    assert(not text:find(hash.base64(pair), 1, true), text)
  end
end

-- A sandbox of the image by an API: what became of it, and all that the API says of it.
local function try(api, image, id)
  local made = api:create { docker_image = image, registry_credentials_id = id }
  local object = api:await(made.id, "RUNNING", "ERROR")
  local said = {}
  for _, path in ipairs {
    "/sandbox", "/sandbox/" .. made.id, "/sandbox/" .. made.id .. "/logs",
    "/sandbox/" .. made.id .. "/error-context", "/template/registry-credentials",
  } do
    local _, _, res = api:call("GET", path)
    assert(res.status == 200, path)
    said[#said + 1] = res.body
  end
  local text = table.concat(said, "\n")
  shows_no_secret(text)
  return object, text
end

local function fails(api, image, words, id)
  local object, text = try(api, image, id)
  assert(object.status == "ERROR" and object.errorType == "IMAGE_PULL_FAILED", object.status)
  assert(object.errorMessage:find(image, 1, true), object.errorMessage)
  assert(object.errorMessage:find(words, 1, true), object.errorMessage)
  return text
end

-- Runs fn(api) with a server in this process that has these logins.
local function with_server(list, fn)
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local known = logins.load(file_of(folder.path, list))
  local driver = docker.open { credentials = function(...) return known:find(...) end }
  support.with_server(fn, { driver = driver, logins = known })
  images.await_none(driver)
  driver:close()
end

-- Runs fn(api) with `sbxlua serve` on the file of logins; returns what it has written.
local function with_program(path, fn)
  local child <close> = process.spawn({
    host.executable(), "serve", "--driver", "docker", "--no-state", "--listen", "127.0.0.1:0",
    "--registry-credentials", path,
  }, { stderr = "pipe", stdout = "null", env = { PRIME_API_KEY = "any" } })
  local text = ""
  task.timeout(60, function()
    while not text:find("Ctrl-C", 1, true) do
      text = text .. assert(child.stderr:read(), text)
    end
  end)
  local fine, failure = pcall(fn, support.api {
    url = text:match("http://127%.0%.0%.1:%d+"), api_key = "any",
  })
  child:kill("TERM")
  task.timeout(60, function()
    for bytes in function() return child.stderr:read() end do
      text = text .. bytes
    end
    assert(child:wait() == 0 and fine, tostring(failure) .. "\n" .. text)
  end)
  return text
end

test("docker registry: serve pulls with the login that it was given, and shows it nowhere",
  { timeout = 400 }, function()
    with_registry(function(registry, image)
      local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
      local path = file_of(folder.path, { login("mine", registry.host, "ann", SECRET) })
      local written = with_program(path, function(api)
        local _, answer, res = api:call("POST", "/template/check-docker-image", {
          image = image, registry_credentials_id = "mine",
        })
        assert(answer.accessible, res.body)
        shows_no_secret(res.body)
        local object = try(api, image, "mine")
        assert(object.status == "RUNNING", object.errorMessage)
        local _, result = api:gateway(object.id):exec("id -u")
        assert(result.stdout == "0\n", json.encode(result))
        assert(api:call("DELETE", "/sandbox/" .. object.id) == 200)
      end)
      shows_no_secret(written)
      assert(registry.logins[#registry.logins] == "ann:" .. SECRET)
    end)
  end)

test("docker registry: without a login, or with a wrong one, the failure says so", function()
  with_registry(function(registry, image)
    with_server({}, function(api)
      fails(api, image, "this server has no login for the registry")
      local _, answer = api:call("POST", "/template/check-docker-image", { image = image })
      assert(not answer.accessible and answer.details:find("no login for the registry", 1, true))
    end)
    for _, sent in ipairs(registry.logins) do
      assert(sent == "", sent)
    end
    registry.echo = true
    for user, password in pairs { ann = OTHER, bob = OTHER } do
      with_server({ login("a", registry.host, user, password) }, function(api)
        local text = fails(api, image, "the login that this server has for the registry was sent")
        assert(not text:find(hash.base64(user .. ":" .. password), 1, true), text)
      end)
    end
  end)
end)

test("docker registry: of several logins the named one is sent, and none to others", function()
  with_registry(function(registry, image)
    local list = {
      login("first", registry.host, "bob", OTHER), login("second", registry.host, "ann", SECRET),
      login("elsewhere", "registry.example", "ann", SECRET),
    }
    with_server(list, function(api)
      fails(api, image, "was sent")
      local text = fails(api, image, "'elsewhere' are not for " .. registry.host, "elsewhere")
      assert(text:find("not sent there", 1, true), text)
      for _, sent in ipairs(registry.logins) do
        assert(sent == "" or sent == "bob:" .. OTHER, sent)
      end
      local object = try(api, image, "second")
      assert(object.status == "RUNNING", object.errorMessage)
    end)
    with_server({ list[3] }, function(api)
      local seen = #registry.logins
      local object = try(api, image) -- which the engine has by now
      assert(object.status == "RUNNING", object.errorMessage)
      assert(#registry.logins == seen)
      fails(api, registry.host .. "/team/app:v2", "'elsewhere' are not for", "elsewhere")
      for index = seen + 1, #registry.logins do
        assert(registry.logins[index] == "", registry.logins[index])
      end
    end)
  end)
end)
