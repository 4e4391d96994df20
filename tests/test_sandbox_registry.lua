-- Registry credentials, and whether an image can be had.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local json = require("sbx.json")
local task = require("sbx.task")

test("registry: credentials, without what the API does not name", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local list = client:list_registry_credentials()
  assert(#list == 1 and list[1].id == "cred-1" and list[1].server == "registry.example")
  assert(list[1].created_at and list[1].user_id == nil)
  server.handlers.credentials = function() return 200, {} end
  assert(#client:list_registry_credentials() == 0)
end)

test("registry: fields in either spelling, and the known one before the other", function()
  local one = {
    id = "cred-1", name = "mine", server = "registry.example", created_at = "then",
    updatedAt = json.null, updated_at = "later", userId = "u-1", user_id = 7,
    password = "hunter-4714",
  }
  local server <close> = api.start({
    credentials = function() return 200, { credentials = { one } } end,
  })
  local client <close> = server:client()
  local found = client:list_registry_credentials()[1]
  assert(found.created_at == "then" and found.updated_at == "later" and found.user_id == "u-1")
  assert(not expect.shows(found, "hunter-4714"))
end)

test("registry: an image is checked, also when the server stumbles", function()
  local server <close> = api.start({
    check_image = function(call) if call.n == 1 then return 502, "bad gateway" end end,
  })
  local client <close> = server:client()
  local accessible, details = client:check_docker_image("app:v1", {
    registry_credentials_id = "cred-1",
  })
  assert(accessible == true and details == "found" and server:count("check_image") == 2)
  local sent = server.calls[#server.calls].body
  assert(sent.image == "app:v1" and sent.registry_credentials_id == "cred-1")
  server.handlers.check_image = function() return 200, { accessible = false } end
  accessible, details = client:check_docker_image("nope")
  assert(accessible == false and details == "")
end)

test("registry: misuse, refusals, hostile answers and cancelling", function()
  local answer
  local server <close> = api.start({
    check_image = function() return table.unpack(answer) end,
    credentials = function() return table.unpack(answer) end,
  })
  local client <close> = server:client()
  expect.misuse("image", client.check_docker_image, client, "")
  expect.misuse("registry_credentials_id", client.check_docker_image, client, "a", {
    registry_credentials_id = 7,
  })
  assert(#server.calls == 0)
  answer = { 403, { detail = "not yours" } }
  assert(expect.failure(client.list_registry_credentials, client).status == 403)
  local function fails(text, name, given)
    answer = { 200, given }
    local err = expect.code("BAD_ANSWER", client[name], client, "a")
    assert(err.message:find(text, 1, true), err.message)
  end
  fails("'accessible' is not a boolean", "check_docker_image", { accessible = "yes" })
  fails("'accessible' is missing", "check_docker_image", {})
  fails("'details' is not a string", "check_docker_image", { accessible = true, details = {} })
  fails("'credentials' is not a table", "list_registry_credentials", { credentials = 7 })
  fails("'credentials' is not a list", "list_registry_credentials", {
    credentials = json.object({}),
  })
  fails("'credentials[1].server' is missing", "list_registry_credentials", {
    credentials = json.array({ { id = "a", name = "b" } }),
  })
  answer = { api.HANG }
  assert(not task.move_on(0.2, client.check_docker_image, client, "a"))
end)

test("registry: the server of --local says what there is instead", function()
  local server <close> = api.start()
  local client <close> = server:client()
  client.config.is_local = true
  for _, name in ipairs({
    "list_registry_credentials", "check_docker_image", "list_images", "get_build",
  }) do
    local err = expect.failure(client[name], client, name ~= "list_images" and "x" or nil)
    assert(err.kind == "unsupported" and err.message:find("--local", 1, true))
  end
  assert(#server.calls == 0)
end)
