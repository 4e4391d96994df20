local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local ledger = require("sbx.sandbox.ledger")
local log = require("sbx.log")
local run = require("sbx.run")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")

local WANTED = { name = "a", docker_image = "python:3.11-slim" }

-- What the log says while `fn` runs.
---@async
local function logged(fn)
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line end)
  local ok, err = pcall(fn)
  log.set_writer(nil)
  assert(ok, err)
  return table.concat(lines)
end

test("ownership: a block's end deletes its sandbox", function()
  local server <close> = api.start()
  local client <close> = server:client()
  do
    local box <close> = client:create(WANTED)
    assert(server.sandboxes[box.id])
  end
  assert(next(server.sandboxes) == nil and server:count("delete") == 1)
end)

test("ownership: keep, and objects of other sandboxes, are left alone", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-other")
  do
    local kept <close> = client:create({ name = "a", docker_image = "x", keep = true })
    local marked <close> = client:create(WANTED)
    marked.keep = true
    local other <close> = client:get("sbx-other")
    assert(kept.keep and other.id == "sbx-other")
  end
  assert(server:count("delete") == 0)
  logged(function() assert(#run.finish() == 0) end)
  assert(server:count("bulk_delete") == 0 and server.sandboxes["sbx-other"])
end)

test("ownership: __close deletes while an error is in flight", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local ok, err = pcall(function()
    local box <close> = client:create(WANTED)
    error("the script's own: " .. box.id, 0)
  end)
  assert(not ok and err == "the script's own: sbx-1")
  assert(next(server.sandboxes) == nil)
end)

test("ownership: __close deletes while cancelled", function()
  local server <close> = api.start({ exec = function() return api.HANG end })
  local client <close> = server:client()
  expect.cancelled_once(function() return server:count("exec") == 1 end, function()
    local box <close> = client:create(WANTED)
    box:exec("sleep 1000")
  end)
  assert(next(server.sandboxes) == nil)
end)

test("ownership: a finalizer of the script that calls client:delete while cancelled", function()
  local server <close> = api.start({ exec = function() return api.HANG end })
  local client <close> = server:client()
  local seen
  local done = task.move_on(0.3, function()
    local box = client:create(WANTED)
    local _ <close> = setmetatable({}, {
      __close = function(_, err)
        seen = err
        client:delete(box.id)
      end,
    })
    box:exec("sleep 1000")
  end)
  assert(not done and next(server.sandboxes) == nil)
  assert(errors.is_error(seen) and seen.kind == "cancelled")
end)

test("ownership: a create whose task is cancelled meanwhile loses nothing", function()
  local release = task.waiter("the cancel")
  local server <close> = api.start({
    create = function() release:wait() end,
  })
  local client <close> = server:client()
  local box
  task.scope(function(scope)
    local child = scope:pspawn(function()
      box = client:create(WANTED)
      task.sleep(1000)
    end)
    while server:count("create") == 0 do
      task.sleep(0.001)
    end
    child:cancel()
    release:wake()
  end)
  assert(box and server.sandboxes[box.id] and client.owned:has(box.id))
  logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil)
end)

test("ownership: the end of the run deletes in bulk and says so", function()
  local server <close> = api.start()
  local client <close> = server:client()
  task.map({ 1, 2, 3 }, function() return client:create(WANTED) end)
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil)
  assert(server:count("bulk_delete") == 1 and server:count("delete") == 0)
  assert(text:find('msg="created 3 sandboxes, deleted 3 (3 that the script left)"', 1, true), text)
  assert(#run.finish() == 0 and server:count("bulk_delete") == 1)
end)

test("ownership: without a bulk call they are deleted one by one", function()
  local server <close> = api.start({ bulk_delete = function() return 405, "no" end })
  local client <close> = server:client()
  client:create(WANTED)
  client:create(WANTED)
  logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil and server:count("delete") == 2)
end)

test("ownership: what cannot be deleted is a failure that names it", function()
  local broken = true
  local function fail()
    if broken then return 500, { detail = "no" } end
  end
  local server <close> = api.start({ bulk_delete = fail, delete = fail })
  local client <close> = server:client()
  client:create(WANTED)
  local failures
  logged(function() failures = run.finish() end)
  assert(#failures == 1 and tostring(failures[1]):find("sbx-1", 1, true), tostring(failures[1]))
  broken = false
  client:delete("sbx-1")
end)

test("ownership: an API in trouble is asked to delete again, while there is time", function()
  local function fail(call) if call.n <= 2 then return 500, { detail = "no" } end end
  local server <close> = api.start({ bulk_delete = fail, delete = fail })
  local client <close> = server:client()
  for _ = 1, 3 do
    client:create(WANTED)
  end
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(text:find("created 3 sandboxes, deleted 3", 1, true), text)
  assert(next(server.sandboxes) == nil)
end)

test("ownership: a delete that is refused is not asked for again", function()
  local server <close> = api.start({ delete = function() return 403, { detail = "no" } end })
  local client <close> = server:client()
  client:create(WANTED)
  local failures
  local text = logged(function() failures = run.finish() end)
  assert(#failures == 1 and text:find("left 1: sbx-1", 1, true), text)
  assert(server:count("delete") == 1)
  server.handlers.delete = nil
  client:delete("sbx-1")
end)

test("ownership: a failing delete does not hide the script's error", function()
  local broken = true
  local server <close> = api.start({
    delete = function() if broken then return 500, { detail = "no" } end end,
  })
  local client <close> = server:client()
  local ok, err
  local text = logged(function()
    ok, err = pcall(function()
      local _ <close> = client:create(WANTED)
      error("the real problem", 0)
    end)
  end)
  assert(not ok and err == "the real problem")
  assert(text:find("cannot delete", 1, true))

  ok, err = pcall(function() local _ <close> = client:create(WANTED) end)
  assert(not ok and err.status == 500)
  broken = false
end)


-- ------------------------------------------------------- answers that get lost

-- Answers, and breaks off in the middle of it.
local function cut(call)
  local request = call.request
  request:start(201, { ["content-type"] = "application/json" }, 5000)
  request:write('{"id": "sbx-')
  pcall(request.finish, request)
  return api.HANG -- this has been the answer
end

-- Makes what is asked for, as the server itself does.
local function commit(server, call)
  local key = call.body.idempotency_key
  if server.keys[key] then return server.keys[key] end
  server.created = server.created + 1
  local object = api.object("sbx-" .. server.created, { labels = call.body.labels })
  server.keys[key], server.sandboxes[object.id] = object, object
  return object
end

test("ownership: a create whose answer is lost once yields the one it made", function()
  for _, lose in ipairs({ cut, function() return 201, "garbled" end, function() return 503 end }) do
    local server <close> = api.start({
      create = function(call, server)
        local object = commit(server, call)
        if call.n == 1 then return lose(call) end
        return 201, object
      end,
    })
    local client <close> = server:client()
    local box = client:create(WANTED)
    assert(server.created == 1 and box.id == "sbx-1" and client.owned:has("sbx-1"))
    assert(server:count("create") == 2)
    local text = logged(function() assert(#run.finish() == 0) end)
    assert(next(server.sandboxes) == nil)
    assert(text:find("created 1 sandbox, deleted 1", 1, true), text)
  end
end)

test("ownership: one whose answers are all lost is settled at the end", function()
  local garbled = true
  local server <close> = api.start({
    create = function(call, server)
      local object = commit(server, call)
      if garbled then return 201, "garbled" end
      return 201, object
    end,
  })
  local client <close> = server:client()
  local err = api.failure(client.create, client, WANTED)
  assert(err.outcome == "unknown" or err.code == "BAD_ANSWER", tostring(err))
  assert(server.created == 1 and not client.owned:has("sbx-1"))
  garbled = false
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil and server.created == 1)
  assert(text:find("created 1 sandbox, deleted 1 (1 that the script left)", 1, true), text)
end)

test("ownership: what no answer will ever tell of is found by its label", function()
  local folder <close> = fs.tmpdir()
  state.use(folder.path .. "/state")
  local server <close> = api.start({
    create = function(call, server)
      commit(server, call)
      return cut(call)
    end,
  })
  server:add("sbx-other", { labels = { "sbxlua-run=20200101-000000-00000000" } })
  local client <close> = server:client()
  local err = api.failure(client.create, client, WANTED)
  assert(err.outcome == "unknown", tostring(err))
  local text = logged(function()
    local failures = run.finish()
    assert(#failures == 0, tostring(failures[1]))
  end)
  assert(next(server.sandboxes) == "sbx-other" and not next(server.sandboxes, "sbx-other"))
  assert(text:find("created 1 sandbox, deleted 1", 1, true), text)
  assert(#fs.list(folder.path .. "/state/runs") == 0)
  state.use(false)
end)

test("ownership: a server that makes one for each request leaves none behind", function()
  local server <close> = api.start({
    create = function(call, server)
      server.keys = {} -- as one of last year's does
      commit(server, call)
      if call.n == 1 then return cut(call) end
      return 201, server.sandboxes["sbx-" .. server.created]
    end,
  })
  local client <close> = server:client()
  local box = client:create(WANTED)
  assert(box.id == "sbx-2" and server.created == 2)
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil)
  assert(text:find("created 2 sandboxes, deleted 2", 1, true), text)
end)

test("ownership: looking for strays spares what is kept, and other clients' own", function()
  local server <close> = api.start({
    create = function(call) if call.n == 1 then return 503, "busy" end end,
  })
  local one <close> = server:client()
  local two <close> = server:client()
  one:create(WANTED)
  local kept = two:create({ name = "k", docker_image = "x", keep = true })
  local marked = two:create(WANTED)
  marked.keep = true
  two:create(WANTED)
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(server.sandboxes[kept.id] and server.sandboxes[marked.id])
  local wanted = "created 4 sandboxes, deleted 2 (2 that the script left), kept 2"
  assert(text:find(wanted, 1, true), text)
  assert(server:count("list") == 1)
end)

test("ownership: a server that does not filter its list loses nothing of others", function()
  local server <close> = api.start({
    create = function(call) if call.n == 1 then return 503, "busy" end end,
    list = function(_, server)
      local all = {}
      for _, object in pairs(server.sandboxes) do
        all[#all + 1] = object
      end
      return 200, { sandboxes = json.array(all), total = #all, has_next = false }
    end,
  })
  server:add("sbx-a")
  server:add("sbx-b", { labels = { "blue" } })
  server:add("sbx-c", { labels = { ledger.label("20200101-000000-00000000") } })
  server:add("sbx-d", { labels = { ledger.label(), ledger.label("20200101-000000-00000000") } })
  server:add("sbx-e", { labels = json.null })
  local client <close> = server:client()
  client:create(WANTED)
  logged(function() assert(#run.finish() == 0) end)
  for _, id in ipairs({ "sbx-a", "sbx-b", "sbx-c", "sbx-d", "sbx-e" }) do
    assert(server.sandboxes[id], id)
  end
  assert(not server.sandboxes["sbx-1"])
end)

test("ownership: a create that ends in 500 is no failure of the run, once looked after", function()
  local server <close> = api.start({ create = function() return 500, { detail = "broken" } end })
  local client <close> = server:client()
  local err = api.failure(client.create, client, WANTED)
  assert(err.status == 500 and err.outcome == "unknown")
  logged(function() assert(#run.finish() == 0) end)
  assert(server:count("list") == 1)
end)

test("ownership: a create without any answer is told, and stays in the ledger", function()
  local folder <close> = fs.tmpdir()
  state.use(folder.path .. "/state")
  local server <close> = api.start({ create = cut })
  local client <close> = server:client()
  api.failure(client.create, client, WANTED)
  local failures
  local text = logged(function() failures = run.finish() end)
  assert(text:find("created 0 sandboxes, deleted 0, 1 create without an answer", 1, true), text)
  local message = tostring(failures[1])
  assert(message:find("1 create without an answer may have made a sandbox", 1, true), message)
  assert(message:find("`sbxlua gc --yes`", 1, true), message)
  assert(#fs.list(folder.path .. "/state/runs") == 1)
  state.use(false)
  client.owned.doubts = {}
end)

-- ------------------------------------------------------------ ends of the run

test("ownership: a create that waits for its turn is not made once cancelled", function()
  local server <close> = api.start({
    create = function() return 429, { detail = "later" }, { ["retry-after"] = "30" } end,
  })
  local client <close> = server:client()
  expect.cancelled_once(function(running)
    return server:count("create") == 1 and running.waiting_on ~= "http"
  end, client.create, client, WANTED)
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(text == "" and server:count("create") == 1 and server:count("list") == 0)
end)

test("ownership: deletes that hang end with the time for cleaning up, and are named", function()
  local hang = true
  local function never() if hang then return api.HANG end end
  local server <close> = api.start({ delete = never, bulk_delete = never })
  local client <close> = server:client()
  local boxes = {}
  for i = 1, 30 do
    boxes[i] = client:create(WANTED)
  end
  local before = core.cleanup_seconds()
  core.cleanup_seconds(0.4)
  local failures
  local started = task.now()
  local text = logged(function() failures = run.finish() end)
  core.cleanup_seconds(before)
  assert(task.now() - started < 20 and #failures == 1)
  assert(text:find("created 30 sandboxes, deleted 0, left 30: sbx-1, sbx-10,", 1, true), text)
  assert(text:find("and 10 more", 1, true), text)
  local message = tostring(failures[1])
  assert(message:find("could not delete 30 sandboxes: sbx-1, ", 1, true), message)
  assert(message:find("the time for cleaning up is over", 1, true), message)
  assert(message:find("has the label sbxlua-run=", 1, true), message)
  hang = false
  client:bulk_delete(boxes)
end)

test("ownership: 250 that the script left go in a few requests", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local list = {}
  for i = 1, 250 do
    list[i] = i
  end
  task.map(list, function() client:create(WANTED) end)
  logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil)
  assert(server:count("bulk_delete") == 3 and server:count("delete") == 0)
end)

test("ownership: an object got by its id closes what the run owns, not what it keeps", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local kept = client:create({ name = "k", docker_image = "x", keep = true })
  local owned = client:create(WANTED)
  do
    local _ <close> = client:get(kept.id)
    local _ <close> = client:get(owned.id)
  end
  assert(server.sandboxes[kept.id] and not server.sandboxes[owned.id])
  assert(owned.status == "TERMINATED" and kept.status ~= "TERMINATED")
  kept.keep = false
  logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil, "it is the run's again")
end)

test("ownership: the counts of a run are its own", function()
  local server <close> = api.start()
  local client <close> = server:client()
  client:create(WANTED):delete()
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(text:find('msg="created 1 sandbox, deleted 1"', 1, true), text)
  assert(logged(function() assert(#run.finish() == 0) end) == "")
  local other = client:get(server:add("sbx-x"))
  other:delete()
  assert(logged(function() assert(#run.finish() == 0) end) == "")
end)
