local errors = require("sbx.errors")
local json = require("sbx.json")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local IMAGE = "python:3.11-slim"

local function raises(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "expected an error")
  assert(tostring(err):find(pattern, 1, true), "unexpected error: " .. tostring(err))
end

test("sandbox: create sends the documented body and maps the answer", function()
  local server <close> = api.start()
  local client <close> = server:client({ team_id = "team-1" })
  local box = client:create({
    name = "sdk-demo",
    docker_image = IMAGE,
    labels = { "experiment", "ml" },
    environment_vars = { MODE = "dev" },
    timeout_minutes = 120,
  })

  local call = server.calls[1]
  assert(call.headers.authorization == "Bearer " .. api.KEY)
  assert(call.headers["content-type"] == "application/json")
  local body = call.body
  assert(body.name == "sdk-demo" and body.docker_image == IMAGE)
  assert(body.timeout_minutes == 120 and body.network_access == true)
  assert(body.team_id == "team-1" and body.environment_vars.MODE == "dev")
  assert(body.labels[1] == "experiment" and body.labels[2] == "ml")
  local run, slot = body.idempotency_key:match("^(%d+%-%d+%-%x+)%-(%d+)$")
  assert(run and tonumber(slot) >= 1 and body.labels[3] == "sbxlua-run=" .. run)
  assert(body.keep == nil and body.secrets == nil)

  assert(box.id == "sbx-1" and box.name == "sdk-demo" and box.status == "PENDING")
  assert(box.docker_image == IMAGE and box.memory_gb == 2 and box.disk_size_gb == 5)
  assert(box.started_at == nil, "null is no value")
  assert(tostring(box):find("sbx-1", 1, true))
end)

test("sandbox: fields in snake_case are taken as well, unknown ones are not", function()
  local server <close> = api.start({
    get = function()
      return 200, {
        id = "sbx-9", status = "RUNNING", docker_image = "x", memory_gb = 3,
        delete = "not a method", wait = 1,
      }
    end,
  })
  local client <close> = server:client()
  local box = client:get("sbx-9")
  assert(box.docker_image == "x" and box.memory_gb == 3)
  assert(type(box.delete) == "function" and type(box.wait) == "function")
end)

test("sandbox: of two spellings the API's own counts, and null hides none", function()
  local server <close> = api.start({
    create = function()
      local answer = api.object("sbx-9", {
        memory_gb = 7, cpuCores = json.null, cpu_cores = 3, error_type = json.null,
        errorType = "OOM_KILLED", disk_size_gb = 9, ID = "../sbx-1", Delete = "mine",
      })
      return 201, answer
    end,
  })
  local client <close> = server:client()
  local box = client:create({ name = "a", docker_image = "b" })
  assert(box.id == "sbx-9" and box.memory_gb == 2 and box.disk_size_gb == 5)
  assert(box.cpu_cores == 3 and box.error_type == "OOM_KILLED")
  assert(type(box.delete) == "function")
end)

test("sandbox: a misspelt option raises and names the right one", function()
  local server <close> = api.start()
  local client <close> = server:client()
  raises("did you mean 'docker_image'", client.create, client, { name = "a", docker_imge = IMAGE })
  raises("did you mean 'timeout'", client.execute_command, client, "sbx-1", "x", { timout = 1 })
  raises("did you mean 'api_key'", sandbox.client, { api_kee = "x" })
  assert(#server.calls == 0, "nothing may be sent")
end)

test("sandbox: misuse is named before anything is sent", function()
  local server <close> = api.start()
  local client <close> = server:client()
  raises("name: expected a string", client.create, client, { docker_image = IMAGE })
  raises("docker_image", client.create, client, { name = "a" })
  raises("network_access: expected true or false", client.create, client,
    { name = "a", docker_image = IMAGE, network_access = "no" })
  raises("labels[2]: expected a string", client.create, client,
    { name = "a", docker_image = IMAGE, labels = { "x", 1 } })
  raises("environment_vars.A: expected a string", client.create, client,
    { name = "a", docker_image = IMAGE, environment_vars = { A = 1 } })
  raises("gpu_type", client.create, client, { name = "a", docker_image = IMAGE, gpu_type = "H100" })
  raises("timeout_minutes", client.create, client,
    { name = "a", docker_image = IMAGE, timeout_minutes = 0 })
  raises("expected a sandbox or its id", client.get, client, nil)
  raises("expected a sandbox or its id", client.delete, client, "")
  raises("not a sandbox id", client.get, client, "..")
  raises("command: expected a string", client.execute_command, client, "sbx-1", nil)
  raises("NUL", client.execute_command, client, "sbx-1", "a\0b")
  raises("port", client.expose, client, "sbx-1", 70000)
  assert(#server.calls == 0, "nothing may be sent")
end)

test("sandbox: misuse is reported at the line of the caller", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local ok, err = pcall(function() client:create({ name = 1 }) end)
  assert(not ok and err:find("test_sandbox.lua:", 1, true), err)
end)

test("sandbox: an id is percent-encoded in the path", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local err = api.failure(client.get, client, "a/b?c#d e")
  assert(err.status == 404)
  assert(server.last_path:find("/sandbox/a%2Fb%3Fc%23d%20e", 1, true), server.last_path)
end)

test("sandbox: a wrong key is unauthorized and says what to check", function()
  local server <close> = api.start({
    get = function() return 401, { detail = "Invalid API key" } end,
  })
  local client <close> = server:client({ api_key = "wrong-key-0815" })
  local err = api.failure(client.get, client, "sbx-1")
  assert(err.kind == "unauthorized" and err:is("api") and err.status == 401)
  assert(err.detail == "Invalid API key" and err.message:find("PRIME_API_KEY", 1, true))
  assert(server:count("get") == 1, "a refused key is not tried again")
end)

test("sandbox: an error carries status, detail, request id and attempts", function()
  local server <close> = api.start({
    create = function()
      return 422, {
        detail = json.array({
          { loc = json.array({ "body", "secrets" }), msg = "too long", input = "hunter2hunter2" },
        }),
      }, { ["x-request-id"] = "req-77" }
    end,
  })
  local client <close> = server:client()
  local err = api.failure(client.create, client, {
    name = "a", docker_image = IMAGE, secrets = { PASS = "hunter2hunter2" },
  })
  assert(err.kind == "api" and err.status == 422 and err.attempts == 1)
  assert(err.request_id == "req-77" and err.op == "create")
  assert(err.detail == "body.secrets: too long", err.detail)
  for _, value in pairs(err) do
    assert(not tostring(value):find("hunter2", 1, true), "a secret shows in an error")
  end
end)

test("sandbox: the key never shows in an error, even when the server echoes it", function()
  local server <close> = api.start({
    get = function(call) return 403, "you sent " .. call.headers.authorization .. "\27[31m\n" end,
  })
  local client <close> = server:client()
  local err = api.failure(client.get, client, "sbx-1")
  for name, value in pairs(err) do
    assert(not tostring(value):find(api.KEY, 1, true), "the key shows in " .. name)
    assert(not tostring(value):find("[\27\n]"), "control characters show in " .. name)
  end
  assert(not tostring(client):find(api.KEY, 1, true))
end)

test("sandbox: 502 is tried again where that is safe", function()
  local server <close> = api.start({
    get = function(call) if call.n < 3 then return 502, "bad gateway" end end,
    expose = function() return 502, "bad gateway" end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:get("sbx-1").id == "sbx-1" and server:count("get") == 3)

  local err = api.failure(client.expose, client, "sbx-1", 8000)
  assert(err.status == 502 and err.attempts == 1 and err.outcome == "unknown")
  assert(server:count("expose") == 1)
end)

test("sandbox: 500 and 404 are not tried again", function()
  local server <close> = api.start({
    get = function(call) return call.id == "a" and 500 or 404, { detail = "no" } end,
  })
  local client <close> = server:client()
  assert(api.failure(client.get, client, "a").attempts == 1)
  assert(api.failure(client.get, client, "b").attempts == 1)
  assert(server:count("get") == 2)
end)

test("sandbox: a create that is repeated sends the same idempotency key", function()
  local keys = {}
  local server <close> = api.start({
    create = function(call)
      keys[#keys + 1] = call.body.idempotency_key
      if call.n < 3 then return 503, "busy" end
    end,
  })
  local client <close> = server:client()
  client:create({ name = "a", docker_image = IMAGE })
  client:create({ name = "b", docker_image = IMAGE })
  assert(#keys == 4 and keys[1] == keys[2] and keys[2] == keys[3])
  assert(keys[4] ~= keys[1])
end)

test("sandbox: an answer that is no JSON object is an api error", function()
  for _, body in ipairs({ "<html>", "[]", "", "42", '{"id": 1}', '{"id": "", "status": "x"}' }) do
    local server <close> = api.start({ get = function() return 200, body end })
    local client <close> = server:client()
    local err = api.failure(client.get, client, "sbx-1")
    assert(err.kind == "api" and err.code == "BAD_ANSWER", tostring(err))
  end
end)

test("sandbox: a refused connection is an api error caused by connect", function()
  local client <close> = sandbox.client({ api_key = "k-123456", base_url = api.dead_url() })
  local err = api.failure(client.get, client, "sbx-1")
  assert(err.kind == "api" and err:is("connect") and err.attempts == 3, tostring(err))
  assert(err.outcome == nil)
end)

test("sandbox: a server that never answers ends with the deadline around it", function()
  local server <close> = api.start({ get = function() return api.HANG end })
  local client <close> = server:client()
  local err = api.failure(task.timeout, 0.2, client.get, client, "sbx-1")
  assert(err.kind == "timeout")
end)

test("sandbox: 429 is waited out with growing pauses and Retry-After", function()
  local server <close> = api.start({
    get = function(call)
      if call.n <= 3 then return 429, { detail = "slow down" } end
      if call.n == 4 then return 429, { detail = "slow" }, { ["retry-after"] = "1" } end
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local start = task.now()
  client:get("sbx-1")
  assert(server:count("get") == 5)
  assert(task.now() - start >= 1, "Retry-After was not honoured")
end)

test("sandbox: a 429 that would last longer than patience is raised", function()
  local server <close> = api.start({
    get = function() return 429, { detail = "later" }, { ["retry-after"] = "600" } end,
  })
  local client <close> = server:client({ throttle_timeout = 5 })
  local err = api.failure(client.get, client, "sbx-1")
  assert(err.status == 429 and err.retry_after == 600 and err.retryable)
  assert(server:count("get") == 1)
end)

test("sandbox: a throttled create can be cancelled and makes nothing", function()
  local server <close> = api.start({
    create = function() return 429, { detail = "later" }, { ["retry-after"] = "30" } end,
  })
  local client <close> = server:client()
  local err = api.failure(task.timeout, 0.2, client.create, client,
    { name = "a", docker_image = IMAGE })
  assert(err.kind == "timeout" and server.created == 0)
end)

test("sandbox: list reads all pages and sends one parameter per label", function()
  local server <close> = api.start()
  local client <close> = server:client({ team_id = "" })
  for i = 1, 7 do
    server:add("sbx-" .. i, { labels = { "c", "a b", "d" } })
  end
  local all = client:list({ per_page = 3, labels = { "a b", "c" }, exclude_terminated = true })
  assert(#all == 7 and all.total == 7 and not all.has_next)
  local query = server.calls[1].query
  assert(query.labels[1] == "a b" and query.labels[2] == "c")
  assert(query.is_active[1] == "true" and query.team_id == nil)

  local page = client:list({ page = 2, per_page = 3 })
  assert(#page == 3 and page.has_next and page[1].id == "sbx-4")
end)

test("sandbox: list takes the other spelling of the paging fields", function()
  local server <close> = api.start({
    list = function(call)
      local id = "sbx-" .. call.query.page[1]
      return 200, {
        sandboxes = json.array({ api.object(id) }), total = 2, hasNext = call.n == 1,
      }
    end,
  })
  local client <close> = server:client()
  local all = client:list()
  assert(#all == 2 and all[2].id == "sbx-2")
end)

test("sandbox: delete, and deleting what is gone", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local box = client:create({ name = "a", docker_image = IMAGE })
  box:delete()
  assert(box.status == "TERMINATED" and next(server.sandboxes) == nil)
  box:delete()
  assert(server:count("delete") == 1)
  local err = api.failure(client.delete, client, "sbx-none")
  assert(err.status == 404)
end)

test("sandbox: after a lost answer, not found is what success looks like", function()
  local server <close> = api.start({
    delete = function(call, server)
      if call.n == 1 then
        server.sandboxes[call.id] = nil
        return 503, "lost"
      end
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  client:delete("sbx-1")
  assert(server:count("delete") == 2)
end)

test("sandbox: bulk_delete takes objects, ids and labels, in batches", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local targets = {}
  for i = 1, 250 do
    targets[i] = server:add("sbx-" .. i)
  end
  targets[250] = "sbx-none"
  local result = client:bulk_delete(targets)
  assert(#result.succeeded == 249 and #result.failed == 1)
  assert(result.failed[1].sandbox_id == "sbx-none" and server:count("bulk_delete") == 3)

  client:bulk_delete({ labels = { "old" } })
  assert(server.calls[#server.calls].body.labels[1] == "old")
  raises("either", client.bulk_delete, client, { sandbox_ids = { "a" }, labels = { "b" } })
end)

test("sandbox: logs, expose, list_exposed_ports and unexpose", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local box = client:create({ name = "a", docker_image = IMAGE })
  assert(box:logs() == "boot ok\n")
  local exposed = box:expose(8000, { name = "web" })
  assert(exposed.exposure_id == "exp-1" and exposed.port == 8000 and exposed.name == "web")
  assert(exposed.external_port == nil)
  assert(#box:list_exposed_ports() == 1 and #client:list_exposed_ports() == 1)
  box:unexpose(exposed)
  assert(server.calls[#server.calls].path:find("/expose/exp%-1$"))
end)

test("sandbox: no exposure id reaches another path", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  for _, id in ipairs({ "", ".", "..", ("x"):rep(300) }) do
    local ok, err = pcall(client.unexpose, client, "sbx-1", id)
    assert(not ok and tostring(err):find("not an exposure id", 1, true), id)
  end
  assert(#server.calls == 0)
end)

test("sandbox: network_access = false must be confirmed by the server", function()
  local confirmed = true
  local server <close> = api.start({
    create = function(call, server)
      server:add("sbx-1")
      return 201, api.object("sbx-1", { networkAccess = not confirmed, name = call.body.name })
    end,
  })
  local client <close> = server:client()
  local wanted = { name = "a", docker_image = IMAGE, network_access = false }
  client:create(wanted):delete()

  confirmed = false
  local err = api.failure(client.create, client, wanted)
  assert(err.code == "NETWORK_NOT_ISOLATED" and err.sandbox_id == "sbx-1")
  assert(next(server.sandboxes) == nil, "it must be deleted")
end)

test("sandbox: try gives nil and the error, and lets a cancellation through", function()
  local server <close> = api.start({ get = function() return api.HANG end })
  local client <close> = server:client()
  local dead <close> = sandbox.client({ api_key = "k-123456", base_url = api.dead_url() })
  local value, err = errors.try(dead.get, dead, "sbx-1")
  assert(value == nil and err.kind == "api")
  local ok = task.move_on(0.1, errors.try, client.get, client, "sbx-1")
  assert(not ok)
end)

test("sandbox: a closed client refuses, but what is left can be deleted", function()
  local server <close> = api.start()
  local box
  do
    local client <close> = server:client()
    box = client:create({ name = "a", docker_image = IMAGE })
  end
  raises("closed", box.logs, box)
  box:delete()
  assert(next(server.sandboxes) == nil)
end)
