-- The control plane of the local server, by plain HTTP against real sandboxes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local http = require("sbx.http")
local json = require("sbx.json")
local task = require("sbx.task")
local with_server = support.with_server

test("server: a sandbox lives from create to delete", function()
  with_server(function(api)
    local status, made = api:call("POST", "/sandbox", {
      name = "demo-a", docker_image = "python:3.11-slim", cpu_cores = 2, memory_gb = 0.5,
      disk_size_gb = 8, timeout_minutes = 120, labels = { "blue", "x" },
      environment_vars = { MODE = "dev" }, secrets = { DB_PASS = "hidden" },
    })
    assert(status == 201)
    assert(made.name == "demo-a" and made.dockerImage == "python:3.11-slim")
    assert(made.cpuCores == 2 and made.memoryGB == 0.5 and made.diskSizeGB == 8)
    assert(made.timeoutMinutes == 120 and made.labels[1] == "blue" and made.labels[2] == "x")
    assert(made.vm == false and made.networkAccess == true and made.gpuCount == 0)
    assert(made.secrets.DB_PASS == "***" and made.environmentVars.MODE == "dev")
    assert(made.startedAt == json.null and made.createdAt:match("^%d+%-%d%d%-%d%dT[%d:]+Z$"))
    assert(made.status == "PENDING" or made.status == "PROVISIONING")

    local object = api:await(made.id, "RUNNING")
    assert(object.startedAt ~= json.null and object.imageSource ~= json.null)

    local box = api:gateway(made.id)
    local code, result = box:exec("echo $MODE $DB_PASS; echo oops >&2; pwd; exit 3")
    assert(code == 200 and result.exit_code == 3 and result.stderr == "oops\n")
    assert(result.stdout == "dev hidden\n/sandbox-workspace\n", result.stdout)

    local _, logs = api:call("GET", "/sandbox/" .. made.id .. "/logs")
    assert(logs.logs:find("running", 1, true) and not logs.logs:find("hidden", 1, true))

    local deleted, answer = api:call("DELETE", "/sandbox/" .. made.id)
    assert(deleted == 200 and answer.success == true)
    assert(api:call("DELETE", "/sandbox/" .. made.id) == 200)
    local _, after = api:call("GET", "/sandbox/" .. made.id)
    assert(after.status == "TERMINATED" and after.terminatedAt ~= json.null)
    local gone, refused = box:exec("true")
    assert(gone == 502 and refused.error == "sandbox_not_found" and refused.sandboxId == made.id)
  end)
end)

test("server: unknown sandboxes are 404 everywhere", function()
  with_server(function(api)
    for _, one in ipairs {
      { "GET", "" }, { "DELETE", "" }, { "GET", "/logs" }, { "POST", "/auth" },
      { "GET", "/error-context" }, { "GET", "/egress-policy" }, { "GET", "/expose" },
      { "POST", "/expose" }, { "DELETE", "/expose/exp-1" },
    } do
      local status, body = api:call(one[1], "/sandbox/sbx-none" .. one[2])
      assert(status == 404 and body.detail == "Sandbox not found", one[2])
    end
  end)
end)

test("server: a create that is not valid is 422 and names every fault", function()
  with_server(function(api)
    local cases = {
      { {}, "name" },
      { { name = "x" }, "docker_image" },
      { { name = "x", docker_image = "i", vm = true }, "vm" },
      { { name = "x", docker_image = "i", gpu_count = 1 }, "gpu_type" },
      { { name = "x", docker_image = "i", cpu_cores = "2" }, "cpu_cores" },
      { { name = "x", docker_image = "i", memory_gb = 1000 }, "memory_gb" },
      { { name = "x", docker_image = "i", timeout_minutes = 0 }, "timeout_minutes" },
      { { name = "x", docker_image = "i", timeout_minutes = 1.5 }, "timeout_minutes" },
      { { name = "x", docker_image = "i", timeout_minutes = 5, idle_timeout_minutes = 6 },
        "idle_timeout_minutes" },
      { { name = "x", docker_image = "i", labels = "blue" }, "labels" },
      { { name = "x", docker_image = "i", environment_vars = { A = 1 } }, "environment_vars" },
      { { name = "x", docker_image = "i", environment_vars = { ["A=B"] = "1" } },
        "environment_vars" },
      { { name = "x", docker_image = "i", network_allowlist = json.array {},
        network_denylist = json.array {} }, "network_allowlist" },
      { { name = "x", docker_image = "i", network_allowlist = { "packages.example" } },
        "network_allowlist" },
      { { name = "x", docker_image = "i", network_access = false,
        network_denylist = json.array {} }, "network_access" },
      { { name = "x", docker_image = "i", start_command = { executable = "" } },
        "start_command" },
      { { name = string.rep("x", 101), docker_image = "i" }, "name" },
    }
    for _, case in ipairs(cases) do
      local status, body = api:call("POST", "/sandbox", json.object(case[1]))
      local named = false
      for _, fault in ipairs(body.errors or {}) do
        named = named or fault.param == case[2]
      end
      assert(status == 422 and type(body.detail) == "string" and named, case[2])
    end
    for _, text in ipairs { "[]", "null", "{", "7", '"x"' } do
      local status, body = api:call("POST", "/sandbox", nil, { body = text })
      assert(status == 422 and type(body.detail) == "string", text)
    end
    local _, list = api:call("GET", "/sandbox")
    assert(list.total == 0)
  end)
end)

test("server: both generations can switch the network off", function()
  with_server(function(api)
    for _, fields in ipairs {
      { network_access = false },
      { network_allowlist = json.array {} },
      { network_allowlist = json.array {}, network_access = true },
    } do
      local made = api:create(fields)
      assert(made.networkAccess == false)
      local _, policy = api:call("GET", "/sandbox/" .. made.id .. "/egress-policy")
      assert(#policy.policy.allowlist == 0 and policy.policy.denylist == json.null)
    end
    local open = api:create { network_denylist = json.array {} }
    assert(open.networkAccess == true)

    local path = "/sandbox/" .. open.id .. "/egress-policy"
    local same = api:call("PUT", path, { allowlist = json.null, denylist = json.array {} })
    assert(same == 200)
    local status, body = api:call("PUT", path, { allowlist = json.array {}, denylist = json.null })
    assert(status == 422 and body.detail:find("container", 1, true))
  end)
end)

test("server: an idempotency key gives the same sandbox, or 409 for another", function()
  with_server(function(api)
    local first = api:create { idempotency_key = "k1" }
    assert(api:create { idempotency_key = "k1" }.id == first.id)
    assert(api:create { idempotency_key = "k2" }.id ~= first.id)
    assert(api:create {}.id ~= api:create {}.id)
    local status, body = api:call("POST", "/sandbox", {
      name = "other", docker_image = "i", idempotency_key = "k1",
    })
    assert(status == 409 and body.detail:find("idempotency_key", 1, true))
  end)
end)

test("server: keys, hosts, paths and methods are checked", function()
  with_server(function(api)
    for _, header in ipairs { "Bearer wrong", "Basic eDp5", "Bearer " } do
      local status, body = api:call("GET", "/sandbox", nil, {
        headers = { Authorization = header },
      })
      assert(status == 401 and body.detail == "Invalid API key")
    end
    local bare = http.request("GET", api.server.url .. "/api/v1/sandbox")
    assert(bare.status == 401)
    local status, body = api:call("GET", "/sandbox", nil, { headers = { Host = "evil.test" } })
    assert(status == 403 and type(body.detail) == "string")
    for _, name in ipairs { "127.0.0.1.evil.test", "localhost.evil.test", "10.0.0.1", "" } do
      assert(api:call("GET", "/sandbox", nil, { headers = { Host = name } }) >= 400, name)
    end
    for _, name in ipairs { "127.0.0.2:8701", "LOCALHOST", "[::1]:80" } do
      assert(api:call("GET", "/sandbox", nil, { headers = { Host = name } }) == 200, name)
    end
    status, body = api:call("GET", "/nothing")
    assert(status == 404 and type(body.detail) == "string")
    status, body = api:call("PATCH", "/sandbox")
    assert(status == 405 and type(body.detail) == "string")
  end)
end)

test("server: lists are paged, filtered and newest first", function()
  with_server(function(api)
    local ids = {}
    for i = 1, 5 do
      ids[i] = api:create { name = "n" .. i, labels = { "all", "n" .. i % 2 } }.id
    end
    local _, page = api:call("GET", "/sandbox?page=1&per_page=2")
    assert(page.total == 5 and page.has_next == true and page.per_page == 2 and page.page == 1)
    assert(page.sandboxes[1].id == ids[5] and page.sandboxes[2].id == ids[4])
    local _, last = api:call("GET", "/sandbox?page=3&per_page=2")
    assert(#last.sandboxes == 1 and last.sandboxes[1].id == ids[1] and last.has_next == false)

    local _, odd = api:call("GET", "/sandbox?labels=all&labels=n1")
    assert(odd.total == 3)
    local _, none = api:call("GET", "/sandbox?labels=n0&labels=n1")
    assert(none.total == 0 and #none.sandboxes == 0)

    api:call("DELETE", "/sandbox/" .. ids[2])
    local _, active = api:call("GET", "/sandbox?is_active=True")
    assert(active.total == 4)
    local _, ended = api:call("GET", "/sandbox?status=TERMINATED&is_active=false")
    assert(ended.total == 1 and ended.sandboxes[1].id == ids[2])
    assert(api:call("GET", "/sandbox?per_page=0") == 422)
    assert(api:call("GET", "/sandbox?page=x") == 422)
  end)
end)

test("server: bulk delete takes ids or labels", function()
  with_server(function(api)
    local ids = {}
    for i = 1, 3 do
      ids[i] = api:create { labels = { "bulk" } }.id
    end
    local status, body = api:call("DELETE", "/sandbox", { sandbox_ids = { ids[1], "sbx-x" } })
    assert(status == 200 and body.succeeded[1] == ids[1] and #body.succeeded == 1)
    assert(body.failed[1].sandbox_id == "sbx-x" and body.failed[1].error == "not found")
    assert(body.message == "1 deleted, 1 failed")

    status, body = api:call("DELETE", "/sandbox", { labels = { "bulk" }, all_users = false })
    assert(status == 200 and #body.succeeded == 2 and #body.failed == 0)
    assert(api:call("DELETE", "/sandbox", json.object {}) == 422)
    assert(api:call("DELETE", "/sandbox", { sandbox_ids = json.array {} }) == 422)
    assert(api:call("DELETE", "/sandbox", { sandbox_ids = ids, labels = { "a" } }) == 422)
    for _, id in ipairs(ids) do
      local _, object = api:call("GET", "/sandbox/" .. id)
      assert(object.status == "TERMINATED")
    end
  end)
end)

test("server: batch status and error context say where sandboxes stand", function()
  with_server(function(api)
    local object = api:running()
    local path = "/sandbox/status:batchGet"
    local status, body = api:call("POST", path, { sandbox_ids = { object.id, "sbx-x" } })
    assert(status == 200 and #body.statuses == 1 and #body.errors == 1)
    assert(body.statuses[1].status == "RUNNING" and body.statuses[1].error_type == json.null)
    assert(body.errors[1].code == "NOT_FOUND" and body.errors[1].sandbox_id == "sbx-x")
    assert(api:call("POST", path, { sandbox_ids = json.array {} }) == 422)

    local _, context = api:call("GET", "/sandbox/" .. object.id .. "/error-context")
    assert(context.status == "RUNNING" and context.errorType == json.null)
  end)
end)

test("server: a sandbox ends when its lifetime is over, and says so", function()
  with_server(function(api)
    local object, box = api:running { timeout_minutes = 1 }
    local ended = api:await(object.id, "TIMEOUT")
    assert(ended.errorType == "TIMEOUT" and ended.terminatedAt ~= json.null)
    local status, body = box:exec("true")
    assert(status == 409 and body.error == "sandbox_not_running")
  end, { minute = 0.3 })
end)

test("server: an idle sandbox ends, a used one lives on", function()
  with_server(function(api)
    local object, box = api:running { timeout_minutes = 1000, idle_timeout_minutes = 1 }
    local status = box:exec("sleep 0.5")
    assert(status == 200)
    assert(api:await(object.id, "TIMEOUT").terminationReason:find("idle", 1, true))
  end, { minute = 0.2 })
end)

test("server: the start command runs once and its output is in the log", function()
  with_server(function(api)
    local object = api:running {
      start_command = { executable = "echo", args = { "it's", "$HOME" } },
    }
    assert(object.startCommand.executable == "echo")
    task.timeout(60, function()
      while true do
        local _, body = api:call("GET", "/sandbox/" .. object.id .. "/logs")
        if body.logs:find("it's $HOME\n", 1, true) then return end
        task.sleep(0.01)
      end
    end)
  end)
end)

test("server: stopping it ends sixty sandboxes, booting ones too", { timeout = 180 }, function()
  local records
  with_server(function(api)
    local list = {}
    for i = 1, 60 do
      list[i] = i
    end
    local made = task.map(list, function(i)
      return api:create { name = "n" .. i }
    end)
    for i = 1, 40 do
      api:await(made[i].id, "RUNNING")
    end
    local status, body = api:gateway(made[40].id):exec("echo $((6 * 7))")
    assert(status == 200 and body.stdout == "42\n")
    records = api.server.fleet.store:list()
  end)
  for _, record in ipairs(records) do
    assert(record:ended() and record.box == nil)
  end
end)

test("server: too many sandboxes are 429 with a pause", function()
  with_server(function(api)
    local first = api:create {}
    local status, body, res = api:call("POST", "/sandbox", { name = "x", docker_image = "i" })
    assert(status == 429 and res.headers["retry-after"] == "2" and body.detail:find("1", 1, true))
    api:call("DELETE", "/sandbox/" .. first.id)
    api:create {}
  end, { max_active = 1 })
end)
