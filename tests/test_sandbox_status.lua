-- The states of many sandboxes at once, and the error context of one.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local json = require("sbx.json")
local local_server = require("sbx.local_server")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

test("status: any number of sandboxes, a hundred in a request", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local ids = {}
  for i = 1, 250 do
    ids[i] = server:add("sbx-" .. i)
  end
  ids[251], ids[252], ids[253] = "sbx-1", { id = "sbx-2" }, "sbx-gone"
  local statuses, failures = client:get_status(ids)
  assert(server:count("batch") == 3)
  for i = 1, 250 do
    assert(statuses["sbx-" .. i].status == "RUNNING" and statuses["sbx-" .. i].id == "sbx-" .. i)
  end
  local err = failures["sbx-gone"]
  assert(err.kind == "api" and err.status == 404 and err.code == "NOT_FOUND")
  assert(next(failures) == "sbx-gone" and next(failures, "sbx-gone") == nil)
  assert(next((client:get_status({}))) == nil and server:count("batch") == 3)
end)

test("status: a server without the batch is asked for each, and not for a batch again", function()
  local server <close> = api.start({ batch = function() return 405, { detail = "no" } end })
  local client <close> = server:client()
  server:add("sbx-1")
  for n = 1, 2 do
    local statuses, failures = client:get_status({ "sbx-1", "sbx-2" })
    assert(statuses["sbx-1"].status == "RUNNING" and statuses["sbx-1"].id == "sbx-1")
    assert(failures["sbx-2"].status == 404)
    assert(server:count("batch") == 1 and server:count("get") == 2 * n)
  end
end)

test("status: a batch that is refused as a whole is asked for one by one", function()
  local server <close> = api.start({ batch = function() return 422, { detail = "an odd id" } end })
  local client <close> = server:client()
  server:add("sbx-1")
  local statuses = client:get_status({ "sbx-1" })
  assert(statuses["sbx-1"].status == "RUNNING")
  client:get_status({ "sbx-1" })
  assert(server:count("batch") == 2)
end)

test("status: what is true for all is raised", function()
  local answer
  local server <close> = api.start({
    batch = function() return table.unpack(answer) end,
    get = function() return 401, { detail = "no" } end,
  })
  local client <close> = server:client()
  answer = { 401, { detail = "no" } }
  assert(expect.failure(client.get_status, client, { "a" }).kind == "unauthorized")
  answer = { 404, {} }
  assert(expect.failure(client.get_status, client, { "a", "b" }).kind == "unauthorized")
  expect.misuse("sandboxes", client.get_status, client, "a")
  expect.misuse("sandbox", client.get_status, client, { "" })
end)

test("status: what an answer does not say for certain is asked for by itself", function()
  local answer
  local server <close> = api.start({ batch = function() return 200, answer end })
  local client <close> = server:client()
  server:add("a", { status = "RUNNING" })
  local one, none = { sandbox_id = "a", status = "PAUSED" }, json.array({})
  local function check(given, status, gets)
    answer = given
    local before = server:count("get")
    local statuses, failures = client:get_status({ "a" })
    assert(statuses.a.status == status and next(failures) == nil, tostring(failures.a))
    assert(server:count("get") - before == gets)
  end
  check({ statuses = { one }, errors = none }, "PAUSED", 0)
  check({ statuses = { 7, {}, { sandbox_id = 7 }, one, { sandbox_id = "a", status = "ERROR" } } },
    "PAUSED", 0)
  check({ statuses = { one }, errors = { { sandbox_id = "a", code = "NOT_FOUND" } } }, "PAUSED", 0)
  for _, vague in ipairs({
    { statuses = none }, { statuses = none, errors = 7 }, { statuses = { a = one } },
    { statuses = { { sandbox_id = "a" } }, errors = none },
    { statuses = { { sandbox_id = "b", status = "ERROR" } }, errors = none },
    { statuses = none, errors = { { sandbox_id = "b", code = "NOT_FOUND" } } },
    { statuses = none, errors = { { sandbox_id = "a", code = "NEW\27[31m", message = "x" } } },
  }) do
    check(vague, "RUNNING", 1)
  end
  answer = { errors = none }
  local err = expect.code("BAD_ANSWER", client.get_status, client, { "a" })
  assert(err.message:find("'statuses' is not a table", 1, true), err.message)
  answer = { statuses = none }
  server.sandboxes.a.id = "other"
  assert(select(2, client:get_status({ "a" })).a.code == "BAD_ANSWER")
  server.sandboxes.a = nil
  assert(select(2, client:get_status({ "a" })).a.status == 404)
end)

test("status: waits and get_status learn from each other that there is no batch", function()
  local server <close> = api.start({ batch = function() return 404, {} end })
  local client <close> = server:client()
  client:bulk_wait_for_creation({ server:add("sbx-1"), server:add("sbx-2") })
  client:get_status({ "sbx-1", "sbx-2" })
  assert(server:count("batch") == 1)
end)

test("status: waiting can be cancelled", function()
  local server <close> = api.start({ batch = function() return api.HANG end })
  local client <close> = server:client()
  assert(not task.move_on(0.2, client.get_status, client, { "a" }))
end)

test("status: the error context, in either spelling, and from older servers", function()
  local answer
  local server <close> = api.start({ context = function() return table.unpack(answer) end })
  local client <close> = server:client()
  local box = client:create({ name = "a", docker_image = "b" })
  answer = { 200, { status = "ERROR", errorType = "OOM_KILLED", errorMessage = "too big" } }
  local found = box:get_error_context()
  assert(found.status == "ERROR" and found.error_type == "OOM_KILLED")
  assert(found.error_message == "too big")
  answer = { 200, { status = "ERROR", errorType = json.null, error_type = "TIMEOUT" } }
  found = client:get_error_context(box.id)
  assert(found.error_type == "TIMEOUT" and found.error_message == nil)
  answer = { 404, { detail = "no such route" } }
  assert(box:get_error_context().status == "RUNNING")
  assert(expect.failure(client.get_error_context, client, "sbx-none").status == 404)
  answer = { 500, {} }
  assert(expect.failure(box.get_error_context, box).status == 500)
  answer = { 200, { status = 7 } }
  local err = expect.code("BAD_ANSWER", box.get_error_context, box)
  assert(err.message:find("'status'", 1, true))
end)

test("status: of real sandboxes", function()
  local server = local_server.start({ stderr = function() end })
  local ok, err = pcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    local box <close> = client:create({ name = "a", docker_image = "python:3.11-slim" })
    box:wait()
    local statuses, failures = client:get_status({ box, "sbx-none" })
    assert(statuses[box.id].status == "RUNNING" and failures["sbx-none"].code == "NOT_FOUND")
    local context = box:get_error_context()
    assert(context.status == "RUNNING" and context.error_type == nil)
  end)
  local failures = run.finish()
  server.stop()
  if not ok then error(err, 0) end
  assert(#failures == 0, tostring(failures[1]))
end)
