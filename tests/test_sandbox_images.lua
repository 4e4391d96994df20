-- Images: listed page by page, built of a folder or a file, changed; the address that a
-- context goes to shows nowhere.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local fs = require("sbx.fs")
local json = require("sbx.json")
local process = require("sbx.process")
local task = require("sbx.task")
local temporary = dofile(here .. "temporary_support.lua")

local SECRET = "secret-signature-4713"

-- ---------------------------------------------------------------------- listing

test("images: a page, and all of them", function()
  local server <close> = api.start()
  server.image_count = 25
  local client <close> = server:client({ team_id = "team-1" })
  local page = client:list_images({ limit = 10, offset = 5, search = "a b" })
  assert(#page == 10 and page[1].id == "img-6" and page.total == 25 and page.has_next)
  assert(page[1].image_name == "app" and page[1].size_bytes == 6 and page[1].team_id == nil)
  local query = server.calls[#server.calls].query
  assert(query.teamId[1] == "team-1" and query.search[1] == "a b" and query.ownerScope == nil)
  assert(not client:list_images({ limit = 10, offset = 15, platform = true }).has_next)
  query = server.calls[#server.calls].query
  assert(query.ownerScope[1] == "platform" and query.teamId == nil)
  local count = 0
  for image in client:each_image({ limit = 10 }) do
    count = count + 1
    assert(image.id == "img-" .. count)
  end
  assert(count == 25 and server:count("images") == 5)
end)

test("images: without a total, a short page is the last; a server without end is left", function()
  local server <close> = api.start({
    images = function(call)
      local size = call.query.offset[1] == "0" and 2 or 1
      local data = {}
      for i = 1, size do data[i] = { id = call.query.offset[1] .. "-" .. i } end
      return 200, { data = json.array(data), totalCount = json.null }
    end,
  })
  local client <close> = server:client()
  local ids = {}
  for image in client:each_image({ limit = 2 }) do
    ids[#ids + 1] = image.id
  end
  assert(table.concat(ids, " ") == "0-1 0-2 2-1" and server:count("images") == 2)
  server.handlers.images = function()
    return 200, { data = json.array({}), totalCount = 1 << 40 }
  end
  assert(client:each_image()() == nil, "an empty page is the last one")
end)

test("images: a total that counts images with several rows, and a limit of the server's", function()
  local answer
  local server <close> = api.start({ images = function(call) return 200, answer(call) end })
  local client <close> = server:client()
  -- Each image is there as a container and as a machine.
  local function rows(call)
    local offset, limit = tonumber(call.query.offset[1]), tonumber(call.query.limit[1])
    local data = json.array({})
    for i = offset + 1, math.min(offset + limit, 5) do
      data[#data + 1] = { id = "c" .. i, artifactType = "CONTAINER_IMAGE" }
      data[#data + 1] = { id = "v" .. i, artifactType = "VM_SANDBOX" }
    end
    return { data = data, totalCount = 5, offset = offset, limit = limit }
  end
  local function all(limit)
    local ids = {}
    for image in client:each_image({ limit = limit }) do ids[#ids + 1] = image.id end
    return table.concat(ids, " ")
  end
  answer = rows
  assert(all(2) == "c1 v1 c2 v2 c3 v3 c4 v4 c5 v5", all(2))
  assert(client:list_images({ limit = 2 }).next_offset == 2)
  -- Whole numbers, however they are written.
  answer = function() return '{"data":[{"id":"a","sizeBytes":3e9}],"totalCount":1.0}' end
  local page = client:list_images()
  assert(page.total == 1 and math.type(page[1].size_bytes) == "integer")
  -- Less than was asked for is no last page where the server says so.
  answer = function(call)
    local offset = tonumber(call.query.offset[1])
    local data = json.array({})
    for i = offset + 1, math.min(offset + 3, 7) do data[#data + 1] = { id = "i" .. i } end
    return { data = data, offset = offset, limit = 3 }
  end
  assert(all(100) == "i1 i2 i3 i4 i5 i6 i7", all(100))
end)

-- --------------------------------------------------------------------- building

local function context_folder()
  local folder = fs.tmpdir()
  fs.write(folder.path .. "/Dockerfile", "FROM scratch\nCOPY a.txt /\n")
  fs.write(folder.path .. "/a.txt", ("x"):rep(100000))
  fs.mkdir(folder.path .. "/.git")
  fs.write(folder.path .. "/.git/config", "no")
  return folder
end

test("images: a folder is built, and its progress told", function()
  local server <close> = api.start()
  local client <close> = server:client({ team_id = "team-1" })
  local folder <close> = context_folder()
  local seen = {}
  local build = client:build_image({
    name = "app", tag = "v1", context = folder.path, exclude = { ".git" }, visibility = "PRIVATE",
    on_progress = function(status) seen[#seen + 1] = status end,
  })
  assert(build.status == "COMPLETED" and build.build_id == "build-1")
  assert(build.full_image_path == "registry.example/app:v1")
  assert(table.concat(seen, " ") == "PACKING UPLOADING PENDING BUILDING COMPLETED")

  local sent = {}
  for _, call in ipairs(server.calls) do
    sent[call.op] = call
  end
  assert(sent.build.body.image_name == "app" and sent.build.body.image_tag == "v1")
  assert(sent.build.body.dockerfile_path == "Dockerfile" and sent.build.body.team_id == "team-1")
  assert(sent.build.body.platform == "linux/amd64" and sent.build.body.visibility == "PRIVATE")
  assert(sent.start_build.body.context_uploaded == true)
  assert(sent.store.headers.authorization == nil, "the key is not for the store")
  assert(sent.store.headers["content-type"] == "application/octet-stream")
  assert(tonumber(sent.store.headers["content-length"]) == #server.files.one)
  local archive = folder.path .. "/context.tar"
  fs.write(archive, server.files.one)
  local listed = process.run({ "tar", "-tf", archive }).stdout
  assert(listed:find("Dockerfile\n") and listed:find("a.txt\n") and not listed:find("git"), listed)
end)

test("images: a file is sent as it is, an image taken over without one", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local file <close> = fs.tmpfile()
  fs.write(file.path, "not looked at")
  local build = client:build_image({ name = "app", context = file.path, wait = false })
  assert(build.build_id == "build-1" and server.files.one == "not looked at")
  assert(server:count("get_build") == 0 and server:count("start_build") == 1)
  server.handlers.build = function() return 200, { buildId = "build-2" } end
  assert(client:build_image({ name = "app", source_image = "x:1", wait = false }).build_id
    == "build-2")
  assert(server:count("start_build") == 1 and server:count("store") == 1)
  assert(server.calls[#server.calls].body.source_image == "x:1")
end)

test("images: what was announced stays where the end is silent, and all builds count", function()
  local server <close> = api.start({
    build = function()
      return 200, { build_id = "b1", buildIds = { "b1", "b2" }, fullImagePath = "r/app:v1",
        visibility = "PRIVATE", expires_in = 60 }
    end,
    get_build = function(call)
      return 200, { status = call.id == "b2" and call.n < 3 and "BUILDING" or "COMPLETED",
        visibility = "PUBLIC" }
    end,
  })
  local client <close> = server:client()
  local given = { name = "app", source_image = "x:1", wait = false }
  local build = client:build_image(given)
  assert(build.status == "PENDING" and build.full_image_path == "r/app:v1")
  assert(build.visibility == "PRIVATE" and table.concat(build.build_ids, " ") == "b1 b2")
  given.wait = nil
  build = client:build_image(given)
  assert(build.status == "COMPLETED" and build.full_image_path == "r/app:v1")
  assert(build.visibility == "PUBLIC" and server:count("get_build") == 3)
  server.handlers.get_build = function(call)
    return 200, { status = call.id == "b2" and "FAILED" or "COMPLETED" }
  end
  assert(expect.failure(client.build_image, client, given).build_id == "b2")
end)

test("images: a build that fails says why; one that takes too long can be found again", function()
  local answer
  local server <close> = api.start({ get_build = function() return 200, answer end })
  local client <close> = server:client()
  answer = { id = "build-1", status = "FAILED", errorMessage = "step 2:\27[31m no such file" }
  local err = expect.code("FAILED", client.build_image, client, { name = "a", source_image = "b" })
  assert(err.kind == "image_build" and err.build_id == "build-1")
  assert(err.message:find("no such file", 1, true) and not err.message:find("\27", 1, true))
  answer = { id = "build-1", status = "BUILDING" }
  err = expect.failure(client.build_image, client, {
    name = "a", source_image = "b", timeout = 3,
  })
  assert(err.kind == "timeout" and err.build_id == "build-1" and err.outcome == "unknown")
  assert(not task.move_on(0.2, client.wait_for_build, client, "build-1"))
  answer = { status = "COMPLETED" }
  assert(client:wait_for_build("build-1").build_id == "build-1")
  answer = { status = "CANCELLED" }
  assert(expect.failure(client.wait_for_build, client, "build-1").code == "CANCELLED")
  assert(client:get_build("build-1").status == "CANCELLED")
end)

test("images: a store that stumbles is tried again, and its address never told", function()
  local answer
  local server <close> = api.start({ store = function(call) return answer(call) end })
  local client <close> = server:client()
  local folder <close> = context_folder()
  local given = { name = "a", context = folder.path, wait = false }
  answer = function(call) if call.n < 3 then return 503, "slow down" end end
  client:build_image(given)
  assert(server:count("store") == 3)
  answer = function(call) return 403, "no: " .. call.path end
  local err = expect.failure(client.build_image, client, given)
  assert(err.status == 403 and err.op == "build_image" and err.build_id == "build-1")
  assert(not expect.shows(err, SECRET) and server:count("store") == 4)
  server.handlers.build = function()
    return 200, { build_id = "b", upload_url = api.dead_url() .. "/x?sig=" .. SECRET }
  end
  err = expect.failure(client.build_image, client, given)
  assert(not expect.shows(err, SECRET) and err.kind == "api")
end)

test("images: cancelled while the context is sent, nothing stays behind", function()
  local server <close> = api.start({ store = function() return api.HANG end })
  local client <close> = server:client()
  local folder <close> = context_folder()
  local mine <close> = temporary.own()
  task.scope(function(scope)
    local building = scope:pspawn(client.build_image, client, { name = "a", context = folder.path })
    task.timeout(60, function()
      while server:count("store") == 0 do task.sleep(0.01) end
    end)
    assert(#fs.glob(mine.path .. "/sbxlua-context-*") == 1)
    building:cancel()
    assert(not building:pjoin())
  end)
  assert(server:count("store") == 1 and server:count("start_build") == 0)
  assert(#fs.list(mine.path) == 0)
end)

test("images: a context that cannot be read, and misuse, make no build", function()
  local server <close> = api.start()
  local client <close> = server:client()
  assert(expect.failure(client.build_image, client, { name = "a", context = "/nowhere" }).code
    == "ENOENT")
  local folder <close> = context_folder()
  fs.symlink("/etc/passwd", folder.path .. "/leak")
  expect.code("EXDEV", client.build_image, client, { name = "a", context = folder.path })
  expect.misuse("name", client.build_image, client, { context = "/tmp" })
  expect.misuse("give one of them", client.build_image, client, { name = "a" })
  expect.misuse("give one of them", client.build_image, client, {
    name = "a", context = "/tmp", source_image = "b",
  })
  expect.misuse("visibility", client.build_image, client, {
    name = "a", context = "/tmp", visibility = "public",
  })
  expect.misuse("unknown option", client.build_image, client, { name = "a", contex = "/tmp" })
  expect.misuse("build_id", client.get_build, client, "..")
  expect.misuse("name", client.build_vm_image, client, "a/../b", "v1")
  expect.misuse("tag", client.build_vm_image, client, "a", "")
  assert(#server.calls == 0)
end)

test("images: for virtual machines; the slashes of a name stay", function()
  local server <close> = api.start({
    get_build = function(call) return 200, { buildId = call.id, status = "COMPLETED" } end,
  })
  local client <close> = server:client()
  local build = client:build_vm_image("team/my app", "v1", { owner_scope = "team" })
  assert(build.status == "COMPLETED" and build.build_id == "build-vm")
  local sent = server.calls[1]
  assert(sent.op == "build_vm" and sent.path:find("/images/team/my%20app/v1/vm-build", 1, true))
  assert(sent.body.ownerScope == "team")
  client:build_vm_image("a", "v1", { wait = false })
  assert(server.calls[#server.calls].bytes == "{}")
end)

-- --------------------------------------------------------------------- changing

test("images: changes are made one by one or only tried, and never sent twice", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local done = client:update_images({
    { source = "app:v1", set = { tag = "v2", visibility = "PUBLIC" } },
    { source = { owner = "personal", name = "a", tag = "b" }, set = { owner = { team_id = "t" } } },
  }, { dry_run = true })
  assert(done.success and done.dry_run and #done.results == 2)
  assert(done.results[1].after.tag == "v2" and done.results[1].before == nil)
  local sent = server.calls[1].body
  assert(sent.mode == "explicit" and sent.dryRun == true)
  assert(sent.updates[1].source.reference == "app:v1")
  assert(sent.updates[1].set.visibility == "PUBLIC")
  assert(sent.updates[2].source.owner.type == "personal")
  assert(sent.updates[2].set.owner.teamId == "t" and sent.updates[2].set.owner.type == "team")

  server.handlers.update_images = function() return 200, {
    success = false, dryRun = false,
    results = { { success = false, error = { code = "NOT_FOUND", message = "no such image" } } },
  } end
  done = client:update_images({ { source = "x", set = { name = "y" } } })
  assert(not done.success and done.results[1].error.code == "NOT_FOUND")
  server.handlers.update_images = function() return 502, "bad gateway" end
  local updates = { { source = "x", set = { tag = "y" } } }
  local err = expect.failure(client.update_images, client, updates)
  assert(err.outcome == "unknown" and server:count("update_images") == 3)
end)

test("images: misuse of changes names the entry", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local function misuse(text, update)
    expect.misuse(text, client.update_images, client, { update })
  end
  expect.misuse("updates", client.update_images, client, {})
  misuse("updates[1].source", { set = { tag = "a" } })
  misuse("updates[1].source.tag", { source = { owner = "personal", name = "a" }, set = {} })
  misuse("updates[1].source.owner", { source = { owner = "me", name = "a", tag = "b" }, set = {} })
  misuse("updates[1].set: give at least one", { source = "a", set = {} })
  misuse("updates[1].set.visibility", { source = "a", set = { visibility = "all" } })
  misuse("unknown option 'tagg'", { source = "a", set = { tagg = "b" } })
  assert(#server.calls == 0)
end)

test("images: hostile answers are named by their field", function()
  local answer
  local function say() return 200, answer end
  local server <close> = api.start({
    images = say, get_build = say, build = say, build_vm = say, update_images = say,
  })
  local client <close> = server:client()
  local folder <close> = context_folder()
  local function fails(text, given, name, ...)
    answer = given
    local err = expect.code("BAD_ANSWER", client[name], client, ...)
    assert(err.message:find(text, 1, true), err.message)
    assert(not expect.shows(err, SECRET))
  end
  fails("'data' is not a table", {}, "list_images")
  fails("'data[1].id' is missing", { data = { {} } }, "list_images")
  fails("'data[1].sizeBytes' is not an integer", { data = { { id = "a", sizeBytes = "1" } } },
    "list_images")
  fails("'data' is not a list", { data = json.object({}) }, "list_images")
  fails("'data' is not a list", { data = { id = "a" } }, "list_images")
  fails("'totalCount' is not an integer", { data = json.array({}), totalCount = "9" },
    "list_images")
  fails("'status' is missing", { id = "b" }, "get_build", "b")
  fails("'buildId' is another one", { id = "c", status = "PENDING" }, "get_build", "b")
  fails("'build_id' is missing", {}, "build_vm_image", "a", "b")
  fails("'build_id' is an impossible id", { buildId = ".." }, "build_vm_image", "a", "b")
  local given = { name = "a", context = folder.path }
  fails("'build_id' is missing", {}, "build_image", given)
  fails("'upload_url' is missing", { build_id = "b" }, "build_image", given)
  for _, address in ipairs({
    "file:///etc/x?" .. SECRET, "http://u:" .. SECRET .. "@h/x", "//h/x", "http://h/a b?" .. SECRET,
  }) do
    fails("'upload_url' is no http address", { build_id = "b", upload_url = address },
      "build_image", given)
  end
  local updates = { { source = "a", set = { tag = "b" } } }
  fails("'dryRun' is not what was asked for", {
    success = true, dryRun = true, results = json.array({}),
  }, "update_images", updates)
  fails("'results' is not a list", {
    success = true, dryRun = false, results = { a = { success = true } },
  }, "update_images", updates)
  fails("'results[1].success' is missing", { success = true, dryRun = false, results = { {} } },
    "update_images", updates)
end)
