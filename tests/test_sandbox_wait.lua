local json = require("sbx.json")
local task = require("sbx.task")
local test = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local boots = dofile(here .. "peers/boots.lua")

-- As of a server of the first generation, which has no batch status.
local function no_batch() return 404, { detail = "Not Found" } end

local function add_many(server, count)
  local ids = {}
  for i = 1, count do
    ids[i] = server:add(("sbx-%04d"):format(i))
  end
  return ids
end

test("wait: returns once RUNNING and a command gets through", function()
  local server <close> = api.start({
    get = function(call, server)
      server.sandboxes[call.id].status = call.n < 3 and "PROVISIONING" or "RUNNING"
      return 200, server.sandboxes[call.id]
    end,
    exec = function(call) if call.n == 1 then return 502, { error = "gateway_error" } end end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local box = client:wait_for_creation("sbx-1")
  assert(box.status == "RUNNING" and server:count("get") == 4 and server:count("exec") == 2)
end)

test("wait: box:wait refreshes the object", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local box <close> = client:create({ name = "a", docker_image = "x" })
  assert(box.status == "PENDING")
  assert(box:wait() == box and box.status == "RUNNING")
end)

test("wait: the probe's exit code and output do not matter", function()
  local server <close> = api.start({
    exec = function() return 200, { stdout = "", stderr = "no echo", exit_code = 127 } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  client:wait_for_creation("sbx-1")
end)

test("wait: what the gateway says while it learns of the sandbox is waited out", function()
  local trouble = {
    { 409, { error = "sandbox_not_running" } },
    { 502, { error = "sandbox_not_found" } },
    { 408, { error = "command_timeout" } },
    { 524, "" },
    { 429, { error = "slow" } },
  }
  local server <close> = api.start({
    exec = function(call) if trouble[call.n] then return table.unpack(trouble[call.n]) end end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  client:wait_for_creation("sbx-1")
  assert(server:count("exec") == #trouble + 1)
end)

test("wait: what time will not mend is raised at once", function()
  local server <close> = api.start({ exec = function() return 404, { error = "x" } end })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.wait_for_creation, client, "sbx-1")
  assert(err.status == 404 and server:count("exec") == 1)
end)

test("wait: an ended sandbox raises the kind of its error", function()
  local kinds = {
    OOM_KILLED = "oom", TIMEOUT = "sandbox_timeout", IMAGE_PULL_FAILED = "image_pull",
    WEIRD = "not_running",
  }
  for error_type, kind in pairs(kinds) do
    local server <close> = api.start({
      get = function()
        return 200, api.object("sbx-1", {
          status = "ERROR", errorType = error_type, errorMessage = "it broke",
        })
      end,
    })
    local client <close> = server:client()
    local err = api.failure(client.wait_for_creation, client, "sbx-1")
    assert(err.kind == kind and err:is("not_running") and err.sandbox_id == "sbx-1")
    assert(err.status == "ERROR" and err.message:find("it broke", 1, true))
  end
end)

test("wait: what the API says of an ended sandbox is made fit to be shown", function()
  local hostile = "\27[2J" .. api.KEY .. ("x"):rep(70000)
  local server <close> = api.start({
    get = function()
      return 200, api.object("sbx-1", {
        status = "ERROR", errorType = hostile, errorMessage = hostile,
      })
    end,
  })
  local client <close> = server:client()
  local err = api.failure(client.wait_for_creation, client, "sbx-1")
  for _, name in ipairs({ "error_type", "error_message", "message" }) do
    local text = err[name]
    assert(#text < 2000 and not text:find("\27", 1, true) and not text:find(api.KEY, 1, true), name)
  end
end)

test("wait: the deadline is total, and says what was seen last", function()
  local server <close> = api.start({ exec = function() return api.HANG end })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.wait_for_creation, client, "sbx-1", { timeout = 3 })
  assert(err.kind == "not_running" and err.status == "RUNNING" and err.timeout == 3)
  assert(err.error_type == "GATEWAY_REACHABILITY_TIMEOUT")

  server.handlers.get = function() return 200, api.object("sbx-1", { status = "PENDING" }) end
  err = api.failure(client.wait_for_creation, client, "sbx-1", { timeout = 2 })
  assert(err.status == "PENDING" and err.error_type == nil)
end)

test("wait: cancelled while it waits", function()
  local server <close> = api.start({
    get = function() return 200, api.object("sbx-1", { status = "PENDING" }) end,
  })
  local client <close> = server:client()
  assert(not task.move_on(0.2, client.wait_for_creation, client, "sbx-1"))
end)

test("wait: 429 is waited out until the deadline, not only for one call's patience", function()
  local server <close> = api.start({
    batch = no_batch,
    list = function() return 200, { sandboxes = json.array({}), has_next = false } end,
    get = function(call)
      if call.n <= 2 then return 429, { detail = "no" }, { ["retry-after"] = "0" } end
    end,
  })
  local client <close> = server:client({ throttle_timeout = 0.1 })
  local ids = add_many(server, 2)
  client:wait_for_creation(ids[1])
  client:bulk_wait_for_creation(ids)
end)

test("wait: what one answer says of all of them is raised as it is", function()
  local server <close> = api.start({ batch = function() return 401, { detail = "bad key" } end })
  local client <close> = server:client()
  local err = api.failure(client.bulk_wait_for_creation, client, add_many(server, 3))
  assert(err.kind == "unauthorized" and server:count("batch") == 1)
end)

test("wait: a batch that makes no sense is asked about one by one", function()
  local answers = {
    missing = { statuses = json.array({}), errors = json.array({}) },
    no_errors = { statuses = json.array({}) },
    types = {
      statuses = json.array({
        "sbx-0001", 7, json.array({}), { sandbox_id = 1, status = "RUNNING" },
        { sandbox_id = "sbx-0001", status = json.object({}) }, { sandbox_id = "sbx-0002" },
      }),
      errors = json.array({ false, { sandbox_id = "sbx-0003" }, { code = "NOT_FOUND" } }),
    },
    foreign = {
      statuses = json.array({ { sandbox_id = "other", status = "ERROR" } }),
      errors = json.array({ { sandbox_id = "another", code = "NOT_FOUND" } }),
    },
    new_code = {
      statuses = json.array({}),
      errors = json.array({ { sandbox_id = "sbx-0001", code = "NOT_YET", message = "wait" } }),
    },
  }
  for name, answer in pairs(answers) do
    local server <close> = api.start({ batch = function() return 200, answer end })
    local client <close> = server:client()
    client:bulk_wait_for_creation(add_many(server, 3))
    test.equal(server:count("get"), 3, name)
    test.equal(server:count("batch"), 1, name)
  end
end)

test("wait: in a batch the order does not matter, nor what it says of others", function()
  local server <close> = api.start({
    batch = function()
      return 200, {
        statuses = json.array({
          { sandbox_id = "sbx-0003", status = "RUNNING", error_type = 7 },
          { sandbox_id = "other", status = "ERROR" },
          { sandbox_id = "sbx-0001", status = "RUNNING" },
          { sandbox_id = "sbx-0001", status = "ERROR" },
          { sandbox_id = "sbx-0002", status = "RUNNING" },
        }),
        errors = json.array({ { sandbox_id = "sbx-0002", code = "FORBIDDEN" } }),
      }
    end,
  })
  local client <close> = server:client()
  local boxes = add_many(server, 3) and client:list()
  client:bulk_wait_for_creation(boxes)
  assert(server:count("get") == 0)
end)

test("wait: what a batch refuses to tell of one fails that one", function()
  local codes = { FORBIDDEN = 403, MANAGED = 409 }
  for code, status in pairs(codes) do
    local server <close> = api.start({
      batch = function()
        return 200, {
          statuses = json.array({ { sandbox_id = "sbx-0001", status = "RUNNING" } }),
          errors = json.array({ { sandbox_id = "sbx-0002", code = code, message = "no\27[2J" } }),
        }
      end,
    })
    local client <close> = server:client()
    local ids = add_many(server, 2)
    local results = task.settle({
      function() return client:wait_for_creation(ids[1]) end,
      function() return client:wait_for_creation(ids[2]) end,
    })
    assert(results[1].ok and results[1].value.docker_image == "python:3.11-slim")
    local err = results[2].error
    assert(err.kind == "api" and err.code == code and err.status == status)
    assert(not err.message:find("\27"))
  end
end)

test("wait: one that is not known has ended, alone or among many, by GET or in a batch", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local kept, gone = server:add("sbx-1"), "sbx-gone"
  local function check(err)
    assert(err.kind == "not_running" and err.error_type == "SANDBOX_NOT_FOUND", tostring(err))
    assert(err.sandbox_id == gone and err.status == "TERMINATED" and err.cause.status == 404)
  end
  check(api.failure(client.wait_for_creation, client, gone))
  check(task.settle({
    function() return client:wait_for_creation(kept) end,
    function() return client:wait_for_creation(gone) end,
  })[2].error)
  for _, ids in ipairs({ { gone }, { kept, gone } }) do
    local err = api.failure(client.bulk_wait_for_creation, client, ids)
    assert(err.kind == "not_running" and err.failed[gone] == "TERMINATED")
    check(err.errors[1])
    local statuses, failures = client:bulk_wait_for_creation(ids, { on_error = "collect" })
    assert(statuses[gone] == "TERMINATED")
    check(failures[gone])
  end
  local box = client:create({ name = "a", docker_image = "x" })
  server.sandboxes[box.id] = nil
  api.failure(box.wait, box)
  assert(box.status == "TERMINATED" and box.error_type == "SANDBOX_NOT_FOUND")
end)

test("wait: a command that the gateway has no route for says nothing of the sandbox", function()
  local server <close> = api.start({ exec = function() return 404, { error = "x" } end })
  local client <close> = server:client()
  server:add("sbx-1")
  local statuses, failures = client:bulk_wait_for_creation({ "sbx-1" }, { on_error = "collect" })
  assert(statuses["sbx-1"] == "RUNNING" and failures["sbx-1"].status == 404)
end)

test("wait: an id that the API does not take spoils it for no other", function()
  local server <close> = api.start({
    batch = function() return 422, { detail = "sandbox_ids.1: bad" } end,
    get = function(call) if call.id == "b" then return 422, { detail = "bad id" } end end,
  })
  local client <close> = server:client()
  for _, id in ipairs({ "a", "b", "c" }) do server:add(id) end
  local statuses, failures = client:bulk_wait_for_creation({ "a", "b", "c" }, {
    on_error = "collect",
  })
  assert(statuses.a == "RUNNING" and statuses.c == "RUNNING" and failures.b.status == 422)
end)

test("wait: an answer about another sandbox is none", function()
  local server <close> = api.start({ get = function() return 200, api.object("sbx-9") end })
  local client <close> = server:client()
  local err = api.failure(client.wait_for_creation, client, server:add("sbx-1"))
  assert(err.code == "BAD_ANSWER")
end)

test("wait: that there is no batch status is found out once", function()
  local server <close> = api.start({
    batch = function() return 405, { detail = "Method Not Allowed" } end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 4)
  client:bulk_wait_for_creation({ ids[1], ids[2] })
  client:bulk_wait_for_creation({ ids[3], ids[4] })
  assert(server:count("batch") == 1 and server:count("list") == 2 and server:count("get") == 0)
end)

test("wait: a sandbox that has run a command is not probed", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local box = client:get(server:add("sbx-1"))
  box:exec("true")
  assert(box:wait() == box and server:count("exec") == 1)
  client:wait_for_creation("sbx-1")
  client:bulk_wait_for_creation({ box, server:add("sbx-2") })
  assert(server:count("exec") == 2, "only the other one was probed")
  client:bulk_wait_for_creation({ "sbx-1", "sbx-2" })
  assert(server:count("exec") == 2)
  client:delete("sbx-1")
  client:wait_for_creation(server:add("sbx-1"))
  assert(server:count("exec") == 3, "what was known of it went with it")
end)

test("wait: of many who want to know, one probes; when it is cancelled, another", function()
  local server <close> = api.start({
    exec = function(call)
      if call.n == 1 then return api.HANG end
      task.sleep(0.05)
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local done = 0
  task.scope(function(scope)
    local first = scope:pspawn(client.wait_for_creation, client, "sbx-1")
    while server:count("exec") == 0 do task.sleep(0.01) end
    for _ = 1, 5 do
      scope:spawn(function()
        client:wait_for_creation("sbx-1")
        done = done + 1
      end)
    end
    task.sleep(0.2)
    first:cancel()
  end)
  assert(done == 5 and server:count("exec") == 2)
end)

test("wait: brings the status of objects up to date, also of those that ended", function()
  local server <close> = api.start({
    batch = function()
      return 200, {
        statuses = json.array({
          { sandbox_id = "sbx-1", status = "RUNNING", error_type = json.null },
          { sandbox_id = "sbx-2", status = "ERROR", error_type = "OOM_KILLED" },
        }),
        errors = json.array({}),
      }
    end,
  })
  local client <close> = server:client()
  local one <close> = client:create({ name = "a", docker_image = "x" })
  local two <close> = client:create({ name = "b", docker_image = "x" })
  client:bulk_wait_for_creation({ one, two }, { on_error = "collect" })
  assert(one.status == "RUNNING" and two.status == "ERROR" and two.error_type == "OOM_KILLED")
  assert(one.name == "a" and one.docker_image == "x")
end)

test("wait: a hundred lives take at most 2.2 requests each", function()
  local server <close> = boots.start({ latency = 0.02, fastest = 0.2, slowest = 2, exec = 0.01 })
  local client <close> = server:client()
  boots.live(client, 100)
  local each = boots.total(server) / 100
  assert(each <= 2.2, boots.table({ { "now", server } }, 100))
  assert(server:count("exec") == 200 and server:count("context") == 0)
  assert(next(server.sandboxes) == nil)
end)
