-- What there is around sandboxes: many jobs at once, registries, images and builds, and
-- what the server does not have.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")
local image_driver = dofile(here .. "peers/image_driver.lua")
local own = dofile(here .. "images_support.lua")

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local importer = require("sbx.server.images_import")
local json = require("sbx.json")
local net = require("sbx.net")
local process = require("sbx.process")
local registry = require("sbx.server.services.registry")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local function client_of(api)
  return sandbox.client { base_url = api.server.url, api_key = api.server.api_key }
end

local function raises(kind, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "it was to fail")
  assert(errors.is_error(err) and err:is(kind), tostring(err))
  return err
end

-- ----------------------------------------------------------------------------- jobs

test("services: what became of many jobs, in one question", function()
  support.with_server(function(api)
    local client <close> = client_of(api)
    local box <close> = client:create { name = "vm", docker_image = "i", vm = true }
    box:wait()
    local container = api:running { vm = false }
    local gone = api:create { vm = true }
    api:call("DELETE", "/sandbox/" .. gone.id)

    box:upload_bytes("/tmp/job_00000001.exit", " 5\n")
    box:upload_bytes("/tmp/job_00000002.exit", "")
    box:upload_bytes("/tmp/job_00000003.exit", ("9"):rep(100))
    box:exec("mkfifo /tmp/job_00000004.exit; mkdir /tmp/job_00000005.exit")
    local list = {}
    for index = 1, 6 do
      list[index] = { sandbox_id = box.id, job_id = "0000000" .. index }
    end
    for _, id in ipairs { container.id, gone.id, "sbx-none" } do
      list[#list + 1] = { sandbox_id = id, job_id = "0000000a" }
    end
    local path = "/sandbox/background-jobs/status:batchGet"
    local status, body = api:call("POST", path, { jobs = list })
    assert(status == 200, json.encode(body))
    local said = {}
    for _, one in ipairs(body.statuses) do
      local code = one.exit_code
      said[one.sandbox_id .. one.job_id] = one.completed and code or code == json.null
    end
    for _, one in ipairs(body.errors) do
      said[one.sandbox_id .. one.job_id] = one.code
    end
    local expected = { 5, true, true, "RUNTIME_ERROR", "RUNTIME_ERROR", true, "NOT_VM",
      "NOT_RUNNING", "NOT_FOUND" }
    for index, job in ipairs(list) do
      local found = said[job.sandbox_id .. job.job_id]
      assert(found == expected[index], index .. ": " .. tostring(found))
    end

    for _, jobs in ipairs {
      json.array {}, { list[1], list[1] }, { { sandbox_id = box.id } },
      { { sandbox_id = box.id, job_id = "../../etc" } }, { { job_id = "00000001" } }, "x",
      { "x" }, { { sandbox_id = box.id, job_id = "0000000G" } },
    } do
      assert(api:call("POST", path, { jobs = jobs }) == 422, json.encode(jobs))
    end
    local many = {}
    for index = 1, 101 do
      many[index] = { sandbox_id = box.id, job_id = ("%08x"):format(index) }
    end
    assert(api:call("POST", path, { jobs = many }) == 422)
    many[101] = nil
    assert(api:call("POST", path, { jobs = many }) == 200)
  end, { profile = "both" })
end)

test("services: our client asks about many jobs at once", function()
  support.with_server(function(api)
    local client <close> = client_of(api)
    local box <close> = client:create { name = "vm", docker_image = "i", vm = true }
    box:wait()
    local jobs = {
      box:start_background_job("exit 3"), box:start_background_job("sleep 1000"),
    }
    task.timeout(60, function()
      local statuses
      repeat
        statuses = client:get_background_jobs(jobs)
      until statuses[1].completed
      assert(statuses[1].exit_code == 3 and not statuses[2].completed)
    end)
  end, { profile = "both" })
end)

-- --------------------------------------------------------------- what is missing

test("services: what is missing is told, with what there is instead", function()
  support.with_server(function(api)
    local client <close> = client_of(api)
    local box <close> = client:create { name = "c", docker_image = "i" }
    box:wait()
    local err = raises("unsupported", client.list_images, client)
    assert(err.message:find("bwrap", 1, true))
    for _, path in ipairs {
      "/sandbox/networks", "/sandbox/networks/n/members/" .. box.id, "/sandbox/volumes/v",
      "/sandbox/" .. box.id .. "/checkpoints",
    } do
      local status, body = api:call("PUT", path, json.object {})
      assert(status == 501 and body.error == "unsupported", path)
    end
    assert(api:call("GET", "/nothing") == 404)
  end)
end)

-- -------------------------------------------------------------------- registries

local function with_logins(entries, fn, options)
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/logins.json"
  fs.write(path, json.encode { credentials = json.array(entries) }, { mode = 384 })
  local opts = { logins = registry.load(path), driver = image_driver.open { ["a:1"] = 1 } }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  support.with_server(fn, opts)
end

test("services: logins are listed by name, and chosen by the registry in an image's name",
  function()
    local entries = {
      { id = "c1", name = "mine", server = "https://registry.example:5000/v2/", username = "u1",
        password = "secret-1" },
      { id = "c2", server = "index.docker.io", username = "u2", password = "secret-2" },
    }
    with_logins(entries, function(api)
      local client <close> = client_of(api)
      local list = client:list_registry_credentials()
      assert(#list == 2 and list[1].id == "c1" and list[2].name == "c2")
      local _, _, res = api:call("GET", "/template/registry-credentials")
      assert(not res.body:find("secret", 1, true) and not res.body:find("u1", 1, true))

      local logins = api.server.logins
      assert(logins:find("registry.example:5000/app:1").password == "secret-1")
      assert(logins:find("python:3.11").username == "u2")
      assert(logins:find("docker.io/library/python").username == "u2")
      assert(logins:find("team/app").username == "u2")
      assert(logins:find("other.example/app") == nil)

      local fields = { name = "x", docker_image = "i", registry_credentials_id = "c2" }
      assert(api:call("POST", "/sandbox", fields) == 201)
      fields.registry_credentials_id = "c9"
      local status, refusal = api:call("POST", "/sandbox", fields)
      assert(status == 422 and refusal.errors[1].param == "registry_credentials_id")
    end)
  end)

test("services: a file of logins is its owner's alone, and as it should be", function()
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/logins.json"
  local good = { id = "a", server = "s", username = "u", password = "p-4711" }
  local function try(text, mode)
    fs.write(path, text, { mode = 384 })
    fs.chmod(path, mode or 384)
    local err = raises("usage", registry.load, path)
    assert(not err.message:find("p-4711", 1, true), err.message)
    return err.message
  end
  assert(try(json.encode { credentials = json.array { good } }, 420):find("chmod 600", 1, true))
  -- The server refuses to start with it.
  fs.write(path, json.encode { credentials = json.array { good } })
  fs.chmod(path, 420)
  local result = process.run({
    host.executable(), "serve", "--no-state", "--listen", "127.0.0.1:0", "--registry-credentials",
    path,
  }, { timeout = 60, env = { PRIME_API_KEY = "k", SBXLUA_LUA = os.getenv("SBXLUA_LUA") } })
  assert(result.code == 2 and result.stderr:find("chmod 600", 1, true), result.stderr)
  assert(not result.stderr:find("p-4711", 1, true))
  try("{ \"password\": \"p-4711\" ")
  try("[]")
  try("{}")
  try(json.encode { credentials = { good, good } })
  try(json.encode { credentials = { { id = "a", server = "s", password = "p-4711" } } })
end)

test("services: whether an image can be had", function()
  with_logins({ { id = "c1", server = "s", username = "u", password = "p" } }, function(api)
    local client <close> = client_of(api)
    assert(client:check_docker_image("a:1") == true)
    assert(client:check_docker_image("b:1", { registry_credentials_id = "c1" }) == false)
    local accessible, details = client:check_docker_image("broken")
    assert(accessible == false and details:find("down", 1, true))
    local path = "/template/check-docker-image"
    for _, body in ipairs {
      json.object {}, { image = "" }, { image = "a b" }, { image = 1 },
      { image = "a:1", registry_credentials_id = "c2" },
    } do
      assert(api:call("POST", path, body) == 422)
    end
  end)
end)

-- ------------------------------------------------------------------------- images

local function with_images(images, fn)
  local driver = image_driver.open(images)
  support.with_server(function(api)
    local client <close> = client_of(api)
    fn(client, driver, api)
  end, { driver = driver, profile = "both" })
end

test("services: images are listed, searched and paged", function()
  with_images({ ["app:v1"] = 10, ["app:v2"] = 20, ["other/tool:x"] = 30 }, function(client, _, api)
    local list = client:list_images()
    assert(#list == 3 and list[1].image_name == "app" and list[1].image_tag == "v1")
    assert(list[1].size_bytes == 10 and list[3].full_image_path == "other/tool:x")
    assert(#client:list_images { search = "TOOL" } == 1)
    assert(#client:list_images { platform = true } == 0)
    local seen = {}
    for image in client:each_image { limit = 2 } do
      seen[#seen + 1] = image.display_ref
    end
    assert(table.concat(seen, " ") == "app:v1 app:v2 other/tool:x")
    assert(api:call("GET", "/images?limit=0") == 422)
    assert(api:call("GET", "/images?limit=251") == 422)
  end)
end)

test("services: images are renamed, in a rehearsal and for good", function()
  with_images({ ["app:v1"] = 10, ["app:v2"] = 20 }, function(client, driver)
    local updates = {
      { source = "app:v1", set = { name = "team/app", tag = "new" } },
      { source = "none:x", set = { tag = "y" } },
      { source = { owner = "personal", name = "team/app", tag = "new" }, set = { tag = "v2" } },
      { source = "app:v2", set = { name = "team/app", tag = "new" } },
      { source = "app:v2", set = { visibility = "PUBLIC" } },
      { source = "app:v2", set = { visibility = "PRIVATE" } },
      { source = "app:v2", set = { name = "../x" } },
    }
    local codes = { "", "NOT_FOUND", "", "", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND" }
    for _, is_dry in ipairs { true, false } do
      local found = client:update_images(updates, { dry_run = is_dry })
      assert(found.success == false and #found.results == 7)
      for index, one in ipairs(found.results) do
        local code = one.error and one.error.code or ""
        assert(code == codes[index], index .. " " .. code)
      end
      assert(found.results[1].before.name == "app" and found.results[1].after.tag == "new")
      assert((driver.images["app:v1"] == 10) == is_dry)
    end
    assert(driver.images["team/app:v2"] == 10 and driver.images["team/app:new"] == 20)
    local same = { source = "team/app:v2", set = { visibility = "PRIVATE" } }
    assert(client:update_images({ same }).success)
    for code, set in pairs {
      UNSUPPORTED = { visibility = "PUBLIC" }, INVALID = { name = "../x" },
      CONFLICT = { tag = "new" },
    } do
      local refused = client:update_images { { source = "team/app:v2", set = set } }
      assert(refused.results[1].error.code == code, code)
    end
  end)
end)

-- ------------------------------------------------------------------------- builds

local function folder_with(text)
  local folder = fs.tmpdir()
  fs.write(folder.path .. "/Dockerfile", text)
  return folder
end

test("services: an image is built of what is sent, and looked at until its end", function()
  with_images({}, function(client, driver)
    local folder <close> = folder_with("FROM scratch\n")
    local seen = {}
    local build = client:build_image {
      name = "mine", tag = "v1", context = folder.path,
      on_progress = function(status) seen[#seen + 1] = status end,
    }
    assert(build.status == "COMPLETED" and build.full_image_path == "mine:v1")
    local made = driver.built[1]
    assert(made.options.name == "mine:v1" and made.options.dockerfile == "Dockerfile")
    assert(made.bytes:find("FROM scratch", 1, true) and build.size_bytes == #made.bytes)
    assert(not fs.exists(made.path), "the context is left behind")
    local bad <close> = folder_with("RUN no such command\n")
    local err = raises("image_build", client.build_image, client, {
      name = "mine", context = bad.path,
    })
    assert(err.message:find("step 1 failed", 1, true))
  end)
end)

test("services: images are taken over from elsewhere, one and many", function()
  with_images({ ["here:1"] = 1 }, function(client, driver)
    local build = client:build_image { name = "mine", tag = "v2", source_image = "far.example/a:1" }
    assert(build.full_image_path == "mine:v2" and driver.images["mine:v2"] == 7)
    local err = raises("image_build", client.build_image, client, {
      name = "mine", source_image = "missing",
    })
    assert(err.message:find("no such image", 1, true))
    local rows = client:transfer_images({ "far.example/b:1", "FAR/UPPER" })
    assert(rows[1].success and not rows[2].success, json.encode(rows))
    assert(client:build_vm_image("here", "1").status == "COMPLETED")
    raises("api", client.build_vm_image, client, "team/none", "1")
  end)
end)

test("services: the address of a context is good for that alone, once", function()
  with_images({}, function(_, _, api)
    local function order(more)
      local body = { image_name = "mine" }
      for name, value in pairs(more or {}) do
        body[name] = value
      end
      return api:call("POST", "/images/build", body)
    end
    local status, made = order()
    assert(status == 200 and made.upload_url:find(api.server.url, 1, true) == 1)
    local build = "/images/build/" .. made.build_id
    assert(api:call("POST", build .. "/start", { context_uploaded = true }) == 409)
    local function put(address, options)
      options = options or { body = "context" }
      options.timeout = 60
      return http.request("PUT", address, options).status
    end
    assert(put(api.server.url .. "/image-context/" .. ("0"):rep(64)) == 404)
    assert(put(made.upload_url, { body = "x", headers = { Host = "evil.example" } }) == 403)
    do -- one that is announced to be too large is refused before it comes
      local stream <close> = net.connect("127.0.0.1", api.server.port)
      stream:write(("PUT %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000000\r\n\r\n")
        :format(made.upload_url:match("^http://[^/]*(.*)$")))
      assert(stream:read():find("^HTTP/1.1 413"))
    end
    assert(put(made.upload_url) == 200 and put(made.upload_url) == 404)
    local _, _, res = api:call("GET", build)
    assert(not res.body:find(made.upload_url:match("[^/]*$"), 1, true))
    assert(api:call("POST", build .. "/start", { context_uploaded = true }) == 200)
    assert(api:call("GET", "/images/build/build-none") == 404)

    for _, more in ipairs {
      { image_name = "Upper" }, { image_name = "a b" }, { image_name = "../x" },
      { image_tag = "a/b" }, { dockerfile_path = "../Dockerfile" }, { dockerfile_path = "/etc" },
      { visibility = "PUBLIC" },
    } do
      assert(order(more) == 422, json.encode(more))
    end
    local last
    for _ = 1, 20 do
      last = order()
    end
    assert(last == 429)
  end)
end)

test("services: a driver that builds nothing says what to do", function()
  local driver = image_driver.open {}
  driver.build_image, driver.pull_image = false, false
  support.with_server(function(api)
    for _, body in ipairs { { image_name = "a" }, { image_name = "a", source_image = "b" } } do
      local status, said = api:call("POST", "/images/build", body)
      assert(status == 422 and said.detail:find("sbxlua image import", 1, true))
    end
  end, { driver = driver })
end)

test("services: the images of this machine's own store are listed and renamed, and run", function()
  own.with_store(function(store, place)
    own.python(place, "root('r')")
    importer.import(store, "tools:1", place .. "/r")
    support.with_server(function(api)
      local client <close> = client_of(api)
      local list = client:list_images()
      assert(#list == 1 and list[1].display_ref == "tools:1" and list[1].size_bytes > 0)
      local set = { name = "team/tools", tag = "2" }
      assert(client:update_images({ { source = "tools:1", set = set } }).success)
      assert(not store:find("tools:1"))
      assert(client:list_images()[1].full_image_path == "team/tools:2")
      assert(client:build_vm_image("team/tools", "2").status == "COMPLETED")
      assert(client:check_docker_image("team/tools:2"))
      local status, said = api:call("POST", "/images/build", { image_name = "a" })
      assert(status == 422 and said.detail:find("sbxlua image import", 1, true))

      local box <close> = client:create { name = "b", docker_image = "team/tools:2", vm = true }
      box:wait() -- by sh: there is no bash in it
      assert(box:exec("cat /etc/marker").stdout == "from the image\n")
    end, { driver = bwrap.open { images = store }, profile = "both" })
  end)
end)
