-- Deletes of many tasks travel together, and none is lost on the way.

local errors = require("sbx.errors")
local sync = require("sbx.sync")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

-- A server with so many sandboxes, a client, and their ids.
---@async
local function start(count, handlers)
  local server = api.start(handlers)
  local ids = {}
  for i = 1, count do
    ids[i] = server:add(("sbx-%04d"):format(i))
  end
  return server, server:client(), ids
end

---@async
local function delete_all(client, ids)
  return task.map(ids, function(id) return pcall(client.delete, client, id) end,
    { limit = #ids })
end

test("deletes: one goes as a DELETE of its own", function()
  local server <close>, client, ids = start(1)
  client:delete(ids[1])
  assert(server:count("delete") == 1 and server:count("bulk_delete") == 0)
end)

test("deletes: many at once gather into few requests, two at a time", function()
  local at_once, most, sizes = 0, 0, {}
  local function slow(call)
    at_once = at_once + 1
    most = math.max(most, at_once)
    sizes[#sizes + 1] = call.body and #call.body.sandbox_ids or 1
    task.sleep(0.02)
    at_once = at_once - 1
  end
  local server <close>, client, ids = start(350, { delete = slow, bulk_delete = slow })
  for _, ok in ipairs(delete_all(client, ids)) do
    assert(ok)
  end
  assert(next(server.sandboxes) == nil and most == 2, most)
  assert(#sizes <= 6, table.concat(sizes, " "))
  table.sort(sizes)
  assert(sizes[#sizes] == 100, "at most 100 in one request")
end)

test("deletes: who deletes the same sandbox shares the request", function()
  local server <close>, client, ids = start(1, { delete = function() task.sleep(0.02) end })
  for _, ok in ipairs(delete_all(client, { ids[1], ids[1], ids[1] })) do
    assert(ok)
  end
  assert(server:count("delete") == 1)
  local err = api.failure(client.delete, client, ids[1])
  assert(err.status == 404 and err.sandbox_id == ids[1])
end)

-- Holds the first two requests back until `open` is called.
local function gate()
  local opened, held = sync.event("the gate"), 0
  local function hold()
    held = held + 1
    if held <= 2 then opened:wait() end
  end
  return { hold = hold, open = function() opened:set() end }
end

test("deletes: each learns what became of its own", function()
  local hold = true
  local server <close>, client, ids = start(6, {
    delete = function(call)
      while hold do
        task.sleep(0.001)
      end
      if call.id == "sbx-0005" then return 500, { detail = "it is stuck" } end
      if call.id == "sbx-0006" then return 404, { detail = "Sandbox not found" } end
    end,
    bulk_delete = function(call, server)
      local failed = {}
      for _, id in ipairs(call.body.sandbox_ids) do
        if id == "sbx-0003" then server.sandboxes[id] = nil end
        if id ~= "sbx-0003" then
          local why = id == "sbx-gone" and "Not found" or "try later"
          failed[#failed + 1] = { sandbox_id = id, error = why }
        end
      end
      return 200, { succeeded = { "sbx-0003" }, failed = failed, message = "some" }
    end,
  })
  table.insert(ids, "sbx-gone")
  local results = {}
  task.scope(function(scope)
    for _, id in ipairs(ids) do
      scope:spawn(function()
        local ok, err = pcall(client.delete, client, id)
        results[id] = ok and "deleted" or err
      end)
    end
    task.sleep(0.02)
    hold = false
  end)
  assert(server:count("bulk_delete") == 1)
  for i = 1, 4 do
    assert(results[ids[i]] == "deleted", ids[i])
  end
  assert(results["sbx-0005"].status == 500 and results["sbx-0005"].sandbox_id == "sbx-0005")
  -- Asked for twice, and gone: that is success.
  assert(results["sbx-0006"] == "deleted")
  assert(results["sbx-gone"].status == 404 and results["sbx-gone"].kind == "api")
end)

test("deletes: a server without the bulk call is asked for it once", function()
  for _, status in ipairs({ 404, 405 }) do
    local server <close>, client, ids = start(30, {
      bulk_delete = function() return status, { detail = "no such route" } end,
      delete = function() task.sleep(0.002) end,
    })
    table.insert(ids, "sbx-none")
    local results = task.map(ids, function(id)
      local _, err = errors.try(client.delete, client, id)
      return err or "ok"
    end, { limit = 40 })
    assert(next(server.sandboxes) == nil and results[31].status == 404)
    assert(server:count("bulk_delete") == 1 and server:count("delete") == 31)
  end
end)

test("deletes: a bulk delete that fails as a whole is told of each", function()
  local server <close>, client, ids = start(20, {
    delete = function() task.sleep(0.02) end,
    bulk_delete = function() return 403, { detail = "not yours" } end,
  })
  local failed = 0
  task.map(ids, function(id)
    local ok, err = pcall(client.delete, client, id)
    if ok then return end
    failed = failed + 1
    assert(err.status == 403 and err.sandbox_id == id and err.op == "delete")
    assert(tostring(err):find("delete " .. id, 1, true), tostring(err))
  end, { limit = 20 })
  assert(failed == 18 and server:count("bulk_delete") == 1)
end)

test("deletes: one that spoils the batch does not spoil the others", function()
  local server <close>, client, ids = start(20, {
    delete = function(call)
      task.sleep(0.01)
      if call.id == "sbx-0013" then return 500, { detail = "stuck" } end
    end,
    bulk_delete = function() return 500, { detail = "stuck" } end,
  })
  local results = delete_all(client, ids)
  for i, ok in ipairs(results) do
    assert(ok == (i ~= 13), ids[i])
  end
  assert(next(server.sandboxes) == "sbx-0013")
end)

test("deletes: an answer that makes no sense is not believed", function()
  for _, answer in ipairs({
    {}, { succeeded = "all", failed = 5 }, { succeeded = { 1, {} }, failed = { 1, "x", {} } },
    { succeeded = { "sbx-other" }, failed = { { sandbox_id = {}, error = {} } } },
  }) do
    local server <close>, client, ids = start(12, {
      delete = function() task.sleep(0.005) end,
      bulk_delete = function() return 200, answer end,
    })
    for _, ok in ipairs(delete_all(client, ids)) do
      assert(ok)
    end
    assert(next(server.sandboxes) == nil and server:count("delete") == 12)
  end
end)

test("deletes: cancelling one of them loses no other", function()
  local door = gate()
  local server <close>, client, ids = start(40, { delete = door.hold })
  local done, cancelled = 0, 0
  task.scope(function(scope)
    local tasks = {}
    for i, id in ipairs(ids) do
      tasks[i] = scope:spawn(function()
        local ok, err = pcall(client.delete, client, id)
        if ok then done = done + 1 end
        if not ok and errors.is_error(err) and err.kind == "cancelled" then
          cancelled = cancelled + 1
        end
      end)
    end
    while server:count("delete") < 2 do
      task.sleep(0.001)
    end
    -- The two that send, and some that wait.
    for i = 1, 5 do
      tasks[i]:cancel()
    end
    task.sleep(0.01)
    door.open()
  end)
  assert(done == 35 and cancelled == 5, done)
  for i = 6, 40 do
    assert(not server.sandboxes[ids[i]], ids[i])
  end
  -- What waited in line when it was cancelled has not been sent.
  for i = 3, 5 do
    assert(server.sandboxes[ids[i]], ids[i])
  end
end)

test("deletes: cancelled at random, those that were not are all deleted", function()
  local seed = math.random(1 << 30)
  math.randomseed(seed)
  for _ = 1, 5 do
    local function pause() task.sleep(math.random() * 0.004) end
    local server <close>, client, ids = start(60, { delete = pause, bulk_delete = pause })
    local wanted, finished = {}, {}
    task.scope(function(scope)
      for i, id in ipairs(ids) do
        local cancel = math.random() < 0.4
        wanted[i] = not cancel
        local child = scope:pspawn(function()
          task.sleep(math.random() * 0.01)
          client:delete(id)
          finished[i] = true
        end)
        if cancel then
          scope:spawn(function()
            task.sleep(math.random() * 0.015)
            child:cancel()
          end)
        end
      end
    end)
    for i, id in ipairs(ids) do
      local gone = not server.sandboxes[id]
      assert(not wanted[i] or (gone and finished[i]), ("seed %d: %s"):format(seed, id))
      assert(not finished[i] or gone, ("seed %d: %s says it is gone"):format(seed, id))
    end
    local gather = client.deletes.gather
    assert(next(gather.entries) == nil and #gather.line == 0 and gather.running == 0, seed)
  end
  math.randomseed()
end)

test("deletes: a deadline around one of them holds, while others go on", function()
  local door = gate()
  local server <close>, client, ids = start(10, { delete = door.hold })
  task.scope(function(scope)
    scope:spawn(function()
      assert(not task.move_on(0.05, client.delete, client, ids[1]))
      door.open()
    end)
    for i = 2, 10 do
      scope:spawn(client.delete, client, ids[i])
    end
  end)
  for i = 2, 10 do
    assert(not server.sandboxes[ids[i]])
  end
end)

test("deletes: 1,000 by as many tasks take few requests", function()
  local server <close>, client, ids = start(1000, { delete = function() task.sleep(0.01) end })
  for _, ok in ipairs(delete_all(client, ids)) do
    assert(ok)
  end
  local requests = server:count("delete") + server:count("bulk_delete")
  assert(next(server.sandboxes) == nil and requests <= 14, requests)
end)

test("deletes: a whole fleet goes in larger requests, where the server takes them", function()
  local server <close>, client, ids = start(1200)
  assert(next(client.deletes:all(ids)) == nil)
  assert(next(server.sandboxes) == nil and server:count("bulk_delete") == 3)

  local picky <close>, other, more = start(1200, {
    bulk_delete = function(call)
      if #call.body.sandbox_ids > 100 then return 422, { detail = "at most 100" } end
    end,
  })
  assert(next(other.deletes:all(more)) == nil)
  assert(next(picky.sandboxes) == nil and picky:count("delete") == 0)
  assert(picky:count("bulk_delete") <= 15, picky:count("bulk_delete"))
end)
